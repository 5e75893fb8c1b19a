//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as a client needs it, and the secret that a pooler checks it against. Owns keys and
//! messages; never sends anything, and never verifies the pooler's signature, which costs the pooler nothing.

use std::num::NonZeroU32;

use anyhow::{Context, Result, bail};
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Bytes of a SHA-256 value.
const KEY_BYTES: usize = 32;
/// PostgreSQL's default number of iterations.
const ITERATIONS: u32 = 4096;
/// The salt: constant, so that the keys of all clients are derived once.
const SALT: &[u8] = b"a constant salt.";
/// The client's part of the nonce. A constant suffices, since the pooler adds its own.
const NONCE: &str = "a.constant.nonce";
/// "n,," in Base64: no channel binding.
const NO_BINDING: &str = "biws";

/// The keys of one password, derived beforehand, so that a login costs the client only three hashes.
pub(crate) struct ScramKeys {
    client: [u8; KEY_BYTES],
    /// The key of the client's signature: a hash of `client`.
    stored: hmac::Key,
    /// The pooler's stored secret, as in `pg_authid`.
    secret: String,
}

impl ScramKeys {
    /// Derives the keys of `password`, which must be ASCII.
    pub(crate) fn derive(password: &str) -> Result<Self> {
        Self::derive_with(password, SALT, ITERATIONS)
    }

    fn derive_with(password: &str, salt: &[u8], iterations: u32) -> Result<Self> {
        let rounds = NonZeroU32::new(iterations).context("no iterations")?;
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, password.as_bytes(), &mut salted);
        let salted = hmac::Key::new(hmac::HMAC_SHA256, &salted);
        let client: [u8; KEY_BYTES] = hmac::sign(&salted, b"Client Key").as_ref().try_into()?;
        let stored = digest::digest(&digest::SHA256, &client);
        let server = hmac::sign(&salted, b"Server Key");
        let [salt, stored_text, server_text] =
            [salt, stored.as_ref(), server.as_ref()].map(|bytes| STANDARD.encode(bytes));
        let secret = format!("SCRAM-SHA-256${iterations}:{salt}${stored_text}:{server_text}");
        Ok(Self { client, stored: hmac::Key::new(hmac::HMAC_SHA256, stored.as_ref()), secret })
    }

    /// The stored secret.
    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The client's answer to the pooler's `challenge`.
    ///
    /// # Errors
    /// The challenge is malformed or for other keys than these.
    pub(crate) fn last_message(&self, challenge: &[u8]) -> Result<String> {
        self.last_message_after(&first_message_bare(), challenge)
    }

    fn last_message_after(&self, first_bare: &str, challenge: &[u8]) -> Result<String> {
        let challenge = std::str::from_utf8(challenge).context("a challenge that is not UTF-8")?;
        let field = |name| challenge.split(',').find_map(|field| field.strip_prefix(name));
        let (Some(nonce), Some(salt), Some(iterations)) = (field("r="), field("s="), field("i=")) else {
            bail!("unexpected challenge: {challenge}");
        };
        // A pooler that makes up a salt of its own would have to derive keys itself, in the middle of a measurement.
        if !self.secret.contains(&format!("${iterations}:{salt}$")) {
            bail!("the challenge is for another secret: {challenge}");
        }
        let without_proof = format!("c={NO_BINDING},r={nonce}");
        let signed = format!("{first_bare},{challenge},{without_proof}");
        let signature = hmac::sign(&self.stored, signed.as_bytes());
        let proof: Vec<u8> =
            self.client.iter().zip(signature.as_ref()).map(|(key, sign)| key ^ sign).collect();
        Ok(format!("{without_proof},p={}", STANDARD.encode(proof)))
    }
}

/// The client's first message.
pub(crate) fn first_message() -> String {
    format!("n,,{}", first_message_bare())
}

/// The name is empty, since the user is that of the startup message.
fn first_message_bare() -> String {
    format!("n=,r={NONCE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_7677_is_reproduced() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = ScramKeys::derive_with("pencil", &salt, ITERATIONS).unwrap();
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let challenge = format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let last = keys.last_message_after("n=user,r=rOprNGfwEbeRWgbNEkqO", challenge.as_bytes()).unwrap();
        assert_eq!(last, format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="));
        // The same password in PostgreSQL's form.
        assert_eq!(
            keys.secret(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
             $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn a_challenge_for_other_keys_is_an_error() {
        let keys = ScramKeys::derive("secret").unwrap();
        let salt = STANDARD.encode(SALT);
        assert!(keys.last_message(format!("r=x,s={salt},i=4096").as_bytes()).is_ok());
        assert!(keys.last_message(format!("r=x,s={salt},i=4097").as_bytes()).is_err());
        assert!(keys.last_message(b"r=x,s=AAAA,i=4096").is_err());
        assert!(keys.last_message(b"r=x").is_err());
    }
}
