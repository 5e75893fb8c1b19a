//! The access keys that the simulated AWS knows.
//!
//! Owns: static keys given by whoever runs the simulator, and the temporary ones its endpoints issue.
//! Never: forgets an issued key while it lasts, never shows a secret in `Debug`.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// How many keys are kept; issuing more forgets the one that ends first.
const MAX_KEYS: usize = 10_000;
/// The longest session token that can be asked for, in bytes. A token with it fits no password message, so that this
/// can be tried, too.
pub const MAX_SESSION_TOKEN_BYTES: usize = 64 * 1024;

/// An access key.
#[derive(Clone)]
pub struct AccessKey {
    /// The key's id.
    pub access_key_id: String,
    /// The secret that signs.
    pub secret: Zeroizing<String>,
    /// The session token of temporary keys; AWS refuses those without it.
    pub session_token: Option<Zeroizing<String>>,
    /// When it ends; static keys do not.
    pub ends_at: Option<SystemTime>,
}

/// All keys by id. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct KeyStore {
    keys: Arc<Mutex<HashMap<String, AccessKey>>>,
}

impl AccessKey {
    /// Reads `ID:SECRET` or `ID:SECRET:SESSION_TOKEN`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (access_key_id, secret) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let session_token = parts.next().map(|token| Zeroizing::new(token.to_owned()));
        if access_key_id.is_empty() || secret.is_empty() {
            return None;
        }
        Some(Self { access_key_id, secret: Zeroizing::new(secret), session_token, ends_at: None })
    }

    /// The session token, or an empty text.
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
    /// Makes a key known.
    pub fn add(&self, key: AccessKey) {
        let mut keys = self.lock();
        if keys.len() >= MAX_KEYS {
            let first_to_end =
                keys.values().filter(|key| key.ends_at.is_some()).min_by_key(|key| key.ends_at);
            if let Some(id) = first_to_end.map(|key| key.access_key_id.clone()) {
                keys.remove(&id);
            }
        }
        keys.insert(key.access_key_id.clone(), key);
    }

    /// Makes up a temporary key that lasts `life` from `now`, with a session token of the given length.
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

    /// The key of that id.
    pub fn get(&self, access_key_id: &str) -> Option<AccessKey> {
        self.lock().get(access_key_id).cloned()
    }

    /// Forgets a key, as if it were deleted or its role's sessions revoked.
    pub fn revoke(&self, access_key_id: &str) {
        self.lock().remove(access_key_id);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, AccessKey>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Letters and digits. Unpredictable enough for keys that open nothing but a simulator.
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

/// As the real ones: Base64 with all the characters that need encoding.
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
    fn keys_on_a_command_line() {
        let key = AccessKey::parse("AK:SK:tok:en==").unwrap();
        assert_eq!((key.access_key_id.as_str(), key.session_token_text()), ("AK", "tok:en=="));
        assert!(AccessKey::parse("AK:SK").unwrap().session_token.is_none());
        assert!(AccessKey::parse("AK").is_none() && AccessKey::parse(":x").is_none());
    }
}
