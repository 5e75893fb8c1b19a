//! SCRAM keys and their stored form. Owns the key derivation of RFC 5802, section 3, and the text
//! `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` of `pg_authid`.

use super::{MAX_ITERATIONS, ScramError};
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;
use std::num::NonZeroU32;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a SHA-256 value.
pub const KEY_BYTES: usize = 32;

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// A key or a hash.
pub type Key = [u8; KEY_BYTES];

pub(in crate::auth) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    to_key(context.sign().as_ref())
}

fn sha256(data: &[u8]) -> Key {
    to_key(digest::digest(&digest::SHA256, data).as_ref())
}

fn to_key(bytes: &[u8]) -> Key {
    let mut key = [0; KEY_BYTES];
    key.copy_from_slice(&bytes[..KEY_BYTES]);
    key
}

pub(super) fn xor(a: &Key, b: &Key) -> Key {
    let mut out = *a;
    out.iter_mut().zip(b).for_each(|(x, y)| *x ^= y);
    out
}

/// `Hi(password, salt, i)`, from which all keys are derived.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SaltedPassword(Key);

impl SaltedPassword {
    /// Derives it; takes milliseconds, so never call it on a worker.
    ///
    /// # Errors
    /// Iterations out of range.
    pub fn derive(password: &str, salt: &[u8], iterations: u32) -> Result<Self, ScramError> {
        let rounds = NonZeroU32::new(iterations)
            .filter(|n| n.get() <= MAX_ITERATIONS)
            .ok_or(ScramError::Iterations(iterations))?;
        // As in PostgreSQL, the text is used unchanged if it cannot be normalized or if nothing would be left.
        let prepared = stringprep::saslprep(password).ok().filter(|prepared| !prepared.is_empty());
        let prepared = Zeroizing::new(prepared.unwrap_or(Cow::Borrowed(password)).into_owned());
        let mut out = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, prepared.as_bytes(), &mut out);
        Ok(Self(out))
    }

    /// The keys that prove the password.
    pub fn keys(&self) -> ClientKeys {
        ClientKeys {
            client: hmac_sha256(&self.0, &[b"Client Key"]),
            server: hmac_sha256(&self.0, &[b"Server Key"]),
        }
    }

    /// The secret that a verifier stores.
    pub fn secret(&self, salt: &[u8], iterations: u32) -> ScramSecret {
        self.keys().secret(salt, iterations)
    }
}

/// The two keys that are equivalent to the password for a given salt and iterations, and just as secret.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClientKeys {
    /// ClientKey.
    pub client: Key,
    /// ServerKey.
    pub server: Key,
}

impl ClientKeys {
    pub(super) fn stored(&self) -> Key {
        sha256(&self.client)
    }

    /// The secret that a verifier stores, for the salt and iterations of these keys.
    pub fn secret(&self, salt: &[u8], iterations: u32) -> ScramSecret {
        ScramSecret { iterations, salt: salt.to_vec(), stored: self.stored(), server: self.server }
    }
}

/// The verifier's secret: enough to check a proof, but not to make one.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ScramSecret {
    /// Number of PBKDF2 iterations.
    pub iterations: u32,
    /// Salt.
    pub salt: Vec<u8>,
    /// StoredKey = H(ClientKey).
    pub stored: Key,
    /// ServerKey.
    pub server: Key,
}

impl ScramSecret {
    /// Parses the stored form; `None` if the text is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("SCRAM-SHA-256$")?;
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        let key = |text: &str| -> Option<Key> { STANDARD.decode(text).ok()?.try_into().ok() };
        let iterations = iterations.parse().ok().filter(|n| (1..=MAX_ITERATIONS).contains(n))?;
        Some(Self {
            iterations,
            salt: STANDARD.decode(salt).ok()?,
            stored: key(stored)?,
            server: key(server)?,
        })
    }

    /// The stored form, as in PostgreSQL.
    pub fn stored_text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            STANDARD.encode(&self.salt),
            STANDARD.encode(self.stored),
            STANDARD.encode(self.server)
        ))
    }

    /// The salt of a user in this process, whether the user exists or not.
    pub fn salt_of(user: &str, process_key: &Key) -> Vec<u8> {
        Self::salt_of_len(user, process_key, SALT_BYTES)
    }

    fn salt_of_len(user: &str, process_key: &Key, bytes: usize) -> Vec<u8> {
        let salt = hmac_sha256(process_key, &[b"salt", user.as_bytes()]);
        salt.iter().copied().cycle().take(bytes).collect()
    }

    /// A secret that no password matches, constant for a user and process: the exchange of an unknown user looks like
    /// any other.
    pub fn mock(user: &str, process_key: &Key, iterations: u32, salt_bytes: usize) -> Self {
        Self {
            iterations,
            salt: Self::salt_of_len(user, process_key, salt_bytes),
            stored: hmac_sha256(process_key, &[b"stored", user.as_bytes()]),
            server: hmac_sha256(process_key, &[b"server", user.as_bytes()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_normalizes_to_nothing_is_used_unchanged() {
        let keys = |password: &str| SaltedPassword::derive(password, b"salt", 1).unwrap().keys().client;
        assert_ne!(keys("\u{ad}"), keys(""));
        assert_ne!(keys("\u{ad}"), keys("\u{ad}\u{ad}"));
        // Other characters remain.
        assert_eq!(keys("a\u{ad}"), keys("a"));
    }

    #[test]
    fn a_secret_made_by_postgresql_15_is_read() {
        // CREATE ROLE x PASSWORD 'secret' with the salt and keys it stored.
        let salted = SaltedPassword::derive("secret", b"0123456789abcdef", 4096).unwrap();
        let made = salted.secret(b"0123456789abcdef", 4096);
        let text = made.stored_text();
        assert!(text.starts_with("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"), "{}", *text);
        let read = ScramSecret::parse(&text).unwrap();
        assert_eq!((read.iterations, read.stored, read.server), (4096, made.stored, made.server));
        assert!(ScramSecret::parse("md5abc").is_none());
        assert!(ScramSecret::parse("SCRAM-SHA-256$0:AA==$AA==:AA==").is_none());
    }
}
