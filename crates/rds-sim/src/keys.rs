//! The access keys of the simulated AWS.
//!
//! Owns: static keys given by the operator, and temporary keys issued by the endpoints.
//! Never: drops an issued key before it expires, or shows a secret in `Debug`.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Maximum number of keys; issuing more drops the one that expires first.
const MAX_KEYS: usize = 10_000;
/// Maximum length of a session token, in bytes. A token that contains one of this length does not fit into a
/// password message, so that this case can be tested.
pub const MAX_SESSION_TOKEN_BYTES: usize = 64 * 1024;

/// An access key.
#[derive(Clone)]
pub struct AccessKey {
    /// The key's ID.
    pub access_key_id: String,
    /// The secret key.
    pub secret: Zeroizing<String>,
    /// The session token of a temporary key; AWS refuses such a key without it.
    pub session_token: Option<Zeroizing<String>>,
    /// Its expiry; static keys have none.
    pub ends_at: Option<SystemTime>,
}

/// All keys by ID. Clones share all state.
#[derive(Clone, Debug, Default)]
pub struct KeyStore {
    keys: Arc<Mutex<HashMap<String, AccessKey>>>,
}

impl AccessKey {
    /// Parses `ID:SECRET` or `ID:SECRET:SESSION_TOKEN`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (access_key_id, secret) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let session_token = parts.next().map(|token| Zeroizing::new(token.to_owned()));
        if access_key_id.is_empty() || secret.is_empty() {
            return None;
        }
        Some(Self { access_key_id, secret: Zeroizing::new(secret), session_token, ends_at: None })
    }

    /// The session token, or an empty string.
    pub(crate) fn session_token_text(&self) -> &str {
        self.session_token.as_ref().map_or("", |token| token.as_str())
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey")
            .field("access_key_id", &self.access_key_id)
            .field("ends_at", &self.ends_at)
            .finish_non_exhaustive()
    }
}

impl KeyStore {
    /// Adds a key.
    pub fn add(&self, key: AccessKey) {
        let mut keys = self.lock();
        if keys.len() >= MAX_KEYS {
            let first_to_expire =
                keys.values().filter(|key| key.ends_at.is_some()).min_by_key(|key| key.ends_at);
            if let Some(id) = first_to_expire.map(|key| key.access_key_id.clone()) {
                keys.remove(&id);
            }
        }
        keys.insert(key.access_key_id.clone(), key);
    }

    /// Issues a temporary key that is valid for `life` from `now`, with a session token of this length.
    pub fn issue(&self, now: SystemTime, life: Duration, session_token_bytes: usize) -> AccessKey {
        let key = AccessKey {
            access_key_id: format!("ASIA{}", random_text(16).to_ascii_uppercase()),
            secret: Zeroizing::new(random_text(40)),
            session_token: Some(Zeroizing::new(session_token(session_token_bytes))),
            ends_at: Some(now + life),
        };
        self.add(key.clone());
        key
    }

    /// The key with this ID.
    pub fn get(&self, access_key_id: &str) -> Option<AccessKey> {
        self.lock().get(access_key_id).cloned()
    }

    /// Removes a key, as if it were deleted or its role's sessions revoked.
    pub fn revoke(&self, access_key_id: &str) {
        self.lock().remove(access_key_id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, AccessKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Letters and digits, unpredictable enough for keys of a simulator.
pub(crate) fn random_text(len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(len);
    let mut block = 0_u64;
    let seed = RandomState::new();
    while text.len() < len {
        let mut hasher = seed.build_hasher();
        hasher.write_u64(block);
        let digest = Sha256::digest(hasher.finish().to_be_bytes());
        let wanted = len - text.len();
        text.extend(digest.iter().take(wanted).map(|byte| char::from(ALPHABET[usize::from(byte & 31)])));
        block += 1;
    }
    text
}

/// Like real ones: Base64 with all the characters that need encoding.
fn session_token(len: usize) -> String {
    let len = len.clamp(16, MAX_SESSION_TOKEN_BYTES);
    let mut token = String::from("IQoJb3Jp+/");
    token.push_str(&random_text(len - token.len() - 2));
    token.push_str("==");
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issued_keys_are_known_and_differ() {
        let store = KeyStore::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let (one, two) = (
            store.issue(now, Duration::from_secs(60), 4096),
            store.issue(now, Duration::from_secs(60), 4096),
        );
        assert_ne!(one.access_key_id, two.access_key_id);
        assert_ne!(*one.secret, *two.secret);
        assert_eq!(one.session_token_text().len(), 4096);
        assert_eq!(one.ends_at, Some(now + Duration::from_secs(60)));
        assert!(store.get(&one.access_key_id).is_some());
        store.revoke(&one.access_key_id);
        assert!(store.get(&one.access_key_id).is_none());
        assert!(!format!("{two:?} {store:?}").contains(two.secret.as_str()));
    }

    #[test]
    fn keys_of_the_command_line_are_parsed() {
        let key = AccessKey::parse("AK:SK:tok:en==").unwrap();
        assert_eq!((key.access_key_id.as_str(), key.session_token_text()), ("AK", "tok:en=="));
        assert!(AccessKey::parse("AK:SK").unwrap().session_token.is_none());
        assert!(AccessKey::parse("AK").is_none() && AccessKey::parse(":x").is_none());
    }
}
