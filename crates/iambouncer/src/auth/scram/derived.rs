//! Keys that were derived from passwords. Owns a bounded cache for the process: a derivation takes a millisecond of CPU time,
//! and clients of one user log in with the same password. Owns no decision on when a login may be as fast as a look-up.

use super::ScramError;
use super::keys::{ClientKeys, Key, SaltedPassword, hmac_sha256};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

/// Maximum number of keys in each of two generations; the older one is dropped when the younger is full.
const MAX_KEYS: usize = 10_000;

/// A password, and the parameters with which keys are derived from it.
pub struct KeySource {
    /// The password.
    pub password: Zeroizing<String>,
    /// The salt.
    pub salt: Vec<u8>,
    /// Number of PBKDF2 iterations.
    pub iterations: u32,
}

#[derive(Default)]
struct Generations {
    // In boxes, since a table that grows would leave copies of the keys in freed memory.
    young: HashMap<Key, Box<ClientKeys>>,
    old: HashMap<Key, Box<ClientKeys>>,
}

/// The cache.
pub struct DerivedKeys {
    /// Makes the names of the keys, which do not reveal the passwords.
    name_key: Key,
    keys: Mutex<Generations>,
    #[cfg(test)]
    derivations: std::sync::atomic::AtomicUsize,
}

impl DerivedKeys {
    /// An empty cache.
    pub fn new(name_key: Key) -> Self {
        Self {
            name_key,
            keys: Mutex::default(),
            #[cfg(test)]
            derivations: Default::default(),
        }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name_of(&self, source: &KeySource) -> Key {
        let (iterations, salt_bytes) = (source.iterations.to_be_bytes(), source.salt.len().to_be_bytes());
        let parts: [&[u8]; 5] =
            [b"derived", &iterations, &salt_bytes, &source.salt, source.password.as_bytes()];
        hmac_sha256(&self.name_key, &parts)
    }

    /// The keys, if they are known.
    pub fn get(&self, source: &KeySource) -> Option<ClientKeys> {
        let name = self.name_of(source);
        let mut keys = self.generations();
        if let Some(keys) = keys.young.get(&name) {
            return Some((**keys).clone());
        }
        let found = keys.old.remove(&name)?;
        let copy = (*found).clone();
        keys.insert(name, found);
        Some(copy)
    }

    /// Remembers keys.
    pub fn insert(&self, source: &KeySource, keys: &ClientKeys) {
        let name = self.name_of(source);
        self.generations().insert(name, Box::new(keys.clone()));
    }

    /// Derives keys on a thread of the control runtime, without a look at the cache.
    ///
    /// # Errors
    /// Iterations out of range; refused if the runtime is shutting down.
    pub async fn derive(&self, control: &Handle, source: &KeySource) -> Result<ClientKeys, ScramError> {
        #[cfg(test)]
        self.derivations.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let KeySource { password, salt, iterations } = source;
        let (password, salt, iterations) = (password.clone(), salt.clone(), *iterations);
        let derive = move || SaltedPassword::derive(&password, &salt, iterations).map(|salted| salted.keys());
        control.spawn_blocking(derive).await.unwrap_or(Err(ScramError::Refused))
    }

    /// How often keys were derived.
    #[cfg(test)]
    pub fn derivations(&self) -> usize {
        self.derivations.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Generations {
    fn insert(&mut self, name: Key, keys: Box<ClientKeys>) {
        if self.young.len() >= MAX_KEYS {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name, keys);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(password: &str, salt: &[u8], iterations: u32) -> KeySource {
        KeySource { password: Zeroizing::new(password.to_owned()), salt: salt.to_vec(), iterations }
    }

    fn keys(byte: u8) -> ClientKeys {
        ClientKeys { client: [byte; 32], server: [byte; 32] }
    }

    #[test]
    fn keys_are_found_with_the_same_password_salt_and_iterations_only() {
        let cache = DerivedKeys::new([1; 32]);
        cache.insert(&source("pw", b"salt", 10), &keys(7));
        assert_eq!(cache.get(&source("pw", b"salt", 10)).unwrap().client, [7; 32]);
        for other in [source("pW", b"salt", 10), source("pw", b"sal", 10), source("pw", b"salt", 11)] {
            assert!(cache.get(&other).is_none());
        }
        // The boundary between salt and password is part of the name.
        assert!(cache.get(&source("tpw", b"sal", 10)).is_none());
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_what_is_in_use() {
        let cache = DerivedKeys::new([1; 32]);
        let of = |n: usize| source(&n.to_string(), b"salt", 10);
        for n in 0..5 * MAX_KEYS {
            cache.insert(&of(n), &keys(1));
            assert!(cache.get(&of(0)).is_some(), "in use");
        }
        let all = cache.generations();
        assert!(all.young.len() + all.old.len() <= 2 * MAX_KEYS);
        drop(all);
        assert!(cache.get(&of(1)).is_none(), "not used for long");
    }
}
