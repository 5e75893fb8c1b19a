//! Cached results of proof checks, shared by all workers. Owns their lifetime: successes until the proof expires,
//! failures for a few seconds; and that concurrent logins with the same proof check it once. Stores only a keyed hash
//! of a proof.

use aws_lc_rs::hmac;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Maximum number of results; the one that expires first is evicted.
const MAX_RESULTS: usize = 10_000;
/// Lifetime of a failure, in seconds: long enough to absorb a retry loop, short enough for a changed policy.
const REFUSED_SECONDS: i64 = 5;
/// How long a check may be pending, in seconds, before another login may start one.
const OPEN_SECONDS: i64 = 30;
/// Longest wait for the check of another login with the same proof.
pub const MAX_CHECK_WAIT: Duration = Duration::from_secs(OPEN_SECONDS as u64);

/// The keyed hash of a proof and its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProofKey([u8; 32]);

impl ProofKey {
    /// Hashes the parts, each with its length, with the key of this process.
    pub fn new(process_key: &[u8; 32], parts: &[impl AsRef<[u8]>]) -> Self {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, process_key));
        for part in parts.iter().map(AsRef::as_ref) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        Self(hash)
    }
}

impl AsRef<[u8]> for ProofKey {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The status of a proof.
pub enum ProofStatus<V, E> {
    /// It was accepted.
    Good(V),
    /// It was refused recently.
    Bad(E),
    /// Another login is checking it.
    Pending(PendingCheck),
    /// Not cached: the caller checks it.
    Unknown(OpenCheck<V, E>),
}

enum ResultState<V, E> {
    Good(V),
    Bad(E),
    Pending(watch::Receiver<()>),
}

struct ProofResult<V, E> {
    state: ResultState<V, E>,
    until: i64,
}

type ResultTable<V, E> = Mutex<HashMap<ProofKey, ProofResult<V, E>>>;

/// All results, shared between clones.
pub struct ProofResults<V, E>(Arc<ResultTable<V, E>>);

impl<V, E> Clone for ProofResults<V, E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<V, E> Default for ProofResults<V, E> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// A check under way. If dropped without a result, the next login starts a new one.
pub struct OpenCheck<V, E> {
    key: ProofKey,
    entries: Arc<ResultTable<V, E>>,
    is_answered: bool,
    /// Dropped with the check, which wakes the logins that wait for it.
    _done: watch::Sender<()>,
}

/// A check of another login with the same proof.
pub struct PendingCheck(watch::Receiver<()>);

impl PendingCheck {
    /// Waits until the check has a result or was abandoned.
    pub async fn finished(mut self) {
        // Nothing is sent: the sender is dropped at the end of the check.
        let _ = self.0.changed().await;
    }
}

impl<V: Clone, E: Clone> ProofResults<V, E> {
    /// The status of a proof at a time in seconds since 1970.
    pub fn look_up(&self, key: ProofKey, now: i64) -> ProofStatus<V, E> {
        let mut entries = locked(&self.0);
        if let Some(entry) = entries.get(&key).filter(|entry| entry.until > now) {
            return match &entry.state {
                ResultState::Good(result) => ProofStatus::Good(result.clone()),
                ResultState::Bad(error) => ProofStatus::Bad(error.clone()),
                ResultState::Pending(done) => ProofStatus::Pending(PendingCheck(done.clone())),
            };
        }
        if entries.len() >= MAX_RESULTS {
            make_room(&mut entries, now);
        }
        let (done, pending) = watch::channel(());
        entries.insert(key, ProofResult { state: ResultState::Pending(pending), until: now + OPEN_SECONDS });
        ProofStatus::Unknown(OpenCheck { key, entries: self.0.clone(), is_answered: false, _done: done })
    }

    /// Removes all results, after a change of what they depend on.
    pub fn forget(&self) {
        locked(&self.0).clear();
    }

    /// Removes the successes that are outdated.
    pub fn forget_good(&self, is_outdated: impl Fn(&V) -> bool) {
        let is_kept = |entry: &ProofResult<V, E>| match &entry.state {
            ResultState::Good(result) => !is_outdated(result),
            ResultState::Bad(_) | ResultState::Pending(_) => true,
        };
        locked(&self.0).retain(|_, entry| is_kept(entry));
    }
}

fn make_room<V, E>(entries: &mut HashMap<ProofKey, ProofResult<V, E>>, now: i64) {
    entries.retain(|_, entry| entry.until > now);
    if entries.len() >= MAX_RESULTS
        && let Some(first) = entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| *key)
    {
        entries.remove(&first);
    }
}

impl<V, E> OpenCheck<V, E> {
    /// Records success until a time in seconds since 1970.
    pub fn good(self, result: V, until: i64) {
        self.answer(ResultState::Good(result), until);
    }

    /// Records a failure.
    pub fn bad(self, error: E, now: i64) {
        self.answer(ResultState::Bad(error), now + REFUSED_SECONDS);
    }

    fn answer(mut self, state: ResultState<V, E>, until: i64) {
        self.is_answered = true;
        // Removed by `forget` meanwhile: the result is outdated.
        if let Some(entry) = locked(&self.entries).get_mut(&self.key) {
            *entry = ProofResult { state, until };
        }
    }
}

impl<V, E> Drop for OpenCheck<V, E> {
    fn drop(&mut self) {
        if !self.is_answered {
            locked(&self.entries).remove(&self.key);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[&str]) -> ProofKey {
        ProofKey::new(&[7; 32], parts)
    }

    fn start(verdicts: &ProofResults<u8, u8>, at: i64) -> OpenCheck<u8, u8> {
        match verdicts.look_up(key(&["t"]), at) {
            ProofStatus::Unknown(check) => check,
            _ => panic!("known"),
        }
    }

    #[test]
    fn boundaries_of_parts_change_the_key() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["t"]), ProofKey::new(&[8; 32], &["t"]));
    }

    #[test]
    fn one_login_checks_and_the_others_wait_for_the_result() {
        let verdicts = ProofResults::default();
        let check = start(&verdicts, 100);
        assert!(matches!(verdicts.look_up(key(&["t"]), 100), ProofStatus::Pending(_)));
        check.good(5, 200);
        assert!(matches!(verdicts.look_up(key(&["t"]), 199), ProofStatus::Good(5)));
        assert!(matches!(verdicts.look_up(key(&["t"]), 200), ProofStatus::Unknown(_)));
    }

    #[test]
    fn failures_expire_soon_and_abandoned_checks_are_repeated() {
        let verdicts = ProofResults::default();
        drop(start(&verdicts, 100));
        start(&verdicts, 100).bad(1, 100);
        assert!(matches!(verdicts.look_up(key(&["t"]), 104), ProofStatus::Bad(1)));
        assert!(matches!(verdicts.look_up(key(&["t"]), 105), ProofStatus::Unknown(_)));
    }

    #[test]
    fn results_of_checks_before_forget_are_dropped() {
        let verdicts = ProofResults::default();
        let check = start(&verdicts, 100);
        verdicts.forget();
        check.good(5, 200);
        assert!(matches!(verdicts.look_up(key(&["t"]), 101), ProofStatus::Unknown(_)));
    }

    #[test]
    fn outdated_successes_can_be_dropped_alone() {
        let verdicts = ProofResults::default();
        for (name, result) in [("a", 1), ("b", 2)] {
            if let ProofStatus::Unknown(check) = verdicts.look_up(key(&[name]), 100) {
                check.good(result, 200);
            }
        }
        start(&verdicts, 100).bad(1, 100);
        verdicts.forget_good(|result| *result == 1);
        assert!(matches!(verdicts.look_up(key(&["a"]), 101), ProofStatus::Unknown(_)));
        assert!(matches!(verdicts.look_up(key(&["b"]), 101), ProofStatus::Good(2)));
        assert!(matches!(verdicts.look_up(key(&["t"]), 101), ProofStatus::Bad(1)));
    }

    #[test]
    fn the_number_of_results_is_limited() {
        let verdicts: ProofResults<u8, u8> = ProofResults::default();
        for n in 0..MAX_RESULTS + 10 {
            if let ProofStatus::Unknown(check) = verdicts.look_up(key(&[&n.to_string()]), 0) {
                check.good(1, 1000 + n as i64);
            }
        }
        assert!(locked(&verdicts.0).len() <= MAX_RESULTS);
        assert!(matches!(verdicts.look_up(key(&[&(MAX_RESULTS + 9).to_string()]), 0), ProofStatus::Good(1)));
    }
}
