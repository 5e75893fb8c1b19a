//! The client side of SCRAM, which proves a password. Owns the messages to a server and the check that the server
//! knows the password, too; it takes keys, never a password.

use super::keys::{ClientKeys, hmac_sha256, xor};
use super::message::{attribute, fresh_nonce, is_nonce, text};
use super::{MAX_ITERATIONS, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError};
use crate::auth::stored_password::same;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Channel binding of the exchange.
pub enum Binding {
    /// No TLS, or a certificate that does not support binding.
    Unsupported,
    /// TLS, but the server did not offer -PLUS: reporting this exposes an attacker that removed the offer.
    NotOffered,
    /// Hash of the server's certificate (`tls-server-end-point`).
    EndPoint(Vec<u8>),
}

impl Binding {
    fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }
}

/// The parameters sent by the server.
pub struct Challenge {
    /// Salt.
    pub salt: Vec<u8>,
    /// Number of iterations.
    pub iterations: u32,
}

/// One login as client.
pub struct ClientExchange {
    binding: Binding,
    nonce: String,
    first_bare: String,
    server_first: String,
    combined_nonce: String,
    server_signature: [u8; 32],
}

impl ClientExchange {
    /// An exchange with the given nonce.
    pub fn new(binding: Binding, nonce: String) -> Self {
        // PostgreSQL takes the user from the startup packet and ignores the one here.
        let first_bare = format!("n=,r={nonce}");
        Self {
            binding,
            nonce,
            first_bare,
            server_first: String::new(),
            combined_nonce: String::new(),
            server_signature: [0; 32],
        }
    }

    /// An exchange with a random nonce.
    ///
    /// # Errors
    /// No random numbers are available.
    pub fn fresh(binding: Binding) -> Result<Self, ScramError> {
        Ok(Self::new(binding, fresh_nonce()?))
    }

    #[cfg(test)]
    pub(super) fn set_user_for_test(&mut self, user: &str) {
        self.first_bare = format!("n={user},r={}", self.nonce);
    }

    /// The mechanism to select.
    pub fn mechanism(&self) -> &'static str {
        match self.binding {
            Binding::EndPoint(_) => SCRAM_SHA_256_PLUS,
            _ => SCRAM_SHA_256,
        }
    }

    /// client-first-message.
    pub fn first(&self) -> String {
        format!("{}{}", self.binding.header(), self.first_bare)
    }

    /// Reads server-first-message.
    ///
    /// # Errors
    /// Malformed, an unexpected nonce, or iterations out of range.
    pub fn challenge(&mut self, server_first: &[u8]) -> Result<Challenge, ScramError> {
        let server_first = text(server_first)?;
        let mut rest = server_first;
        let nonce = attribute(&mut rest, 'r')?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() || !is_nonce(nonce) {
            return Err(ScramError::Nonce);
        }
        let salt = STANDARD
            .decode(attribute(&mut rest, 's')?)
            .map_err(|_| ScramError::Malformed("salt is not base64"))?;
        let iterations: u32 = attribute(&mut rest, 'i')?
            .parse()
            .map_err(|_| ScramError::Malformed("iterations are not a number"))?;
        if !(1..=MAX_ITERATIONS).contains(&iterations) {
            return Err(ScramError::Iterations(iterations));
        }
        self.combined_nonce = nonce.to_owned();
        self.server_first = server_first.to_owned();
        Ok(Challenge { salt, iterations })
    }

    /// client-final-message.
    pub fn answer(&mut self, keys: &ClientKeys) -> String {
        let mut binding = self.binding.header().as_bytes().to_vec();
        if let Binding::EndPoint(hash) = &self.binding {
            binding.extend_from_slice(hash);
        }
        let without_proof = format!("c={},r={}", STANDARD.encode(binding), self.combined_nonce);
        let auth: [&[u8]; 5] =
            [self.first_bare.as_bytes(), b",", self.server_first.as_bytes(), b",", without_proof.as_bytes()];
        let proof = xor(&keys.client, &hmac_sha256(&keys.stored(), &auth));
        self.server_signature = hmac_sha256(&keys.server, &auth);
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    /// Checks server-final-message, which proves that the server knows the password.
    ///
    /// # Errors
    /// The signature is wrong, or the server reports an error.
    pub fn verify(&self, server_final: &[u8]) -> Result<(), ScramError> {
        let mut rest = text(server_final)?;
        if rest.starts_with("e=") {
            return Err(ScramError::Refused);
        }
        let signature = STANDARD.decode(attribute(&mut rest, 'v')?).map_err(|_| ScramError::Proof)?;
        if same(&signature, &self.server_signature) { Ok(()) } else { Err(ScramError::Proof) }
    }
}
