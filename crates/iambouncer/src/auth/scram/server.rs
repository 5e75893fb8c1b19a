//! The server side of SCRAM, which checks a proof. Owns the messages to a client. It offers no channel binding, so a
//! client that requires one is refused.

use super::ScramError;
use super::keys::{ClientKeys, ScramSecret, hmac_sha256, xor};
use super::message::{attribute, fresh_nonce, is_nonce, text};
use crate::auth::stored_password::same;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One login as server.
pub struct ServerExchange {
    secret: ScramSecret,
    gs2_header: String,
    nonce: String,
    first_bare: String,
    server_first: String,
}

impl ServerExchange {
    /// Parses client-first-message and builds server-first-message, with the given part of the nonce.
    ///
    /// # Errors
    /// Malformed, or channel binding is required.
    pub fn start(
        secret: ScramSecret,
        client_first: &[u8],
        nonce_part: String,
    ) -> Result<(Self, String), ScramError> {
        let message = text(client_first)?;
        let (flag, rest) = message.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
        let (authzid, bare) = rest.split_once(',').ok_or(ScramError::Malformed("no GS2 header"))?;
        match flag {
            // `y`: the client supports channel binding and assumes that the server does not, which is true.
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(ScramError::Malformed("unknown GS2 flag")),
        }
        if !authzid.is_empty() {
            return Err(ScramError::Malformed("authorization identity is not supported"));
        }
        let mut fields = bare;
        // As in PostgreSQL, this name is ignored in favor of that in the startup packet.
        attribute(&mut fields, 'n')?;
        let client_nonce = attribute(&mut fields, 'r')?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Malformed("nonce is not printable"));
        }
        let nonce = format!("{client_nonce}{nonce_part}");
        let server_first = format!("r={nonce},s={},i={}", STANDARD.encode(&secret.salt), secret.iterations);
        let exchange = Self {
            secret,
            gs2_header: format!("{flag},,"),
            nonce,
            first_bare: bare.to_owned(),
            server_first: server_first.clone(),
        };
        Ok((exchange, server_first))
    }

    /// Like [`ServerExchange::start`], with a random part of the nonce.
    ///
    /// # Errors
    /// See there, or no random numbers are available.
    pub fn fresh(secret: ScramSecret, client_first: &[u8]) -> Result<(Self, String), ScramError> {
        Self::start(secret, client_first, fresh_nonce()?)
    }

    /// Checks client-final-message. Returns server-final-message and the keys revealed by the proof, which can
    /// authenticate to a server with the same stored secret.
    ///
    /// # Errors
    /// Malformed, another nonce, another GS2 header, or a wrong proof.
    pub fn finish(&self, client_final: &[u8]) -> Result<(String, ClientKeys), ScramError> {
        self.finish_with(&self.secret, client_final)
    }

    /// Like [`finish`](Self::finish), with the secret of another password. It must have the same salt and iterations,
    /// which the client has already received.
    ///
    /// # Errors
    /// See there.
    pub fn finish_with(
        &self,
        secret: &ScramSecret,
        client_final: &[u8],
    ) -> Result<(String, ClientKeys), ScramError> {
        let message = text(client_final)?;
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof"))?;
        let mut fields = without_proof;
        let binding = attribute(&mut fields, 'c')?;
        if STANDARD.decode(binding).ok().as_deref() != Some(self.gs2_header.as_bytes()) {
            return Err(ScramError::ChannelBinding);
        }
        if !same(attribute(&mut fields, 'r')?.as_bytes(), self.nonce.as_bytes()) {
            return Err(ScramError::Nonce);
        }
        let proof: [u8; 32] = STANDARD
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ScramError::Malformed("proof is not a key"))?;
        let auth: [&[u8]; 5] =
            [self.first_bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        let client = xor(&proof, &hmac_sha256(&secret.stored, &auth));
        let keys = ClientKeys { client, server: secret.server };
        if !same(&keys.stored(), &secret.stored) {
            return Err(ScramError::Proof);
        }
        let signature = hmac_sha256(&secret.server, &auth);
        Ok((format!("v={}", STANDARD.encode(signature)), keys))
    }
}
