//! The server side of SCRAM, which checks a proof. Owns the messages to a client. It offers no channel binding, so a
//! client that requires one is refused.

use super::ScramError;
use super::keys::{ClientKeys, Key, ScramSecret, hmac_sha256, xor};
use super::message::{attribute, fresh_nonce, is_nonce, text};
use crate::auth::stored_password::same;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// One login as server.
pub struct ServerExchange {
    gs2_header: String,
    nonce: String,
    first_bare: String,
    server_first: String,
}

/// The proof of a client that it knows a password, and the messages that it is for.
pub struct ClientProof {
    proof: Key,
    auth_message: String,
}

impl ServerExchange {
    /// Parses client-first-message and builds server-first-message, with the given part of the nonce. The client derives its
    /// keys with this salt and number of iterations.
    ///
    /// # Errors
    /// Malformed, or channel binding is required.
    pub fn start(
        salt: &[u8],
        iterations: u32,
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
        let server_first = format!("r={nonce},s={},i={iterations}", STANDARD.encode(salt));
        let exchange = Self {
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
    pub fn fresh(salt: &[u8], iterations: u32, client_first: &[u8]) -> Result<(Self, String), ScramError> {
        Self::start(salt, iterations, client_first, fresh_nonce()?)
    }

    /// Reads client-final-message.
    ///
    /// # Errors
    /// Malformed, another nonce, or another GS2 header.
    pub fn proof(&self, client_final: &[u8]) -> Result<ClientProof, ScramError> {
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
        let proof = STANDARD
            .decode(proof)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(ScramError::Malformed("proof is not a key"))?;
        let auth_message = format!("{},{},{without_proof}", self.first_bare, self.server_first);
        Ok(ClientProof { proof, auth_message })
    }
}

impl ClientProof {
    /// Checks the proof against a secret with the salt and iterations of the exchange. Returns server-final-message and the
    /// keys revealed by the proof, which can authenticate to a server with the same stored secret; `None` if the proof is
    /// wrong.
    pub fn check(&self, secret: &ScramSecret) -> Option<(String, ClientKeys)> {
        let auth: [&[u8]; 1] = [self.auth_message.as_bytes()];
        let client = xor(&self.proof, &hmac_sha256(&secret.stored, &auth));
        let keys = ClientKeys { client, server: secret.server };
        if !same(&keys.stored(), &secret.stored) {
            return None;
        }
        let signature = hmac_sha256(&secret.server, &auth);
        Some((format!("v={}", STANDARD.encode(signature)), keys))
    }
}
