//! ProofResults about proofs, remembered for all workers. Owns how long: a yes until the proof's own end, a no for a
//! moment; and that two logins with the same proof ask once. The proof itself is not kept, only a keyed hash of it.

use aws_lc_rs::hmac;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// ProofResults that are kept; the one that ends first makes room.
const MAX_RESULTS: usize = 10_000;
/// How long a no is remembered, in seconds: long enough for a loop of retries, short enough for a new policy.
const REFUSED_SECONDS: i64 = 5;
/// How long a question may be open, in seconds, before somebody else may ask it.
pub const OPEN_SECONDS: i64 = 30;

/// The hash of a proof together with what it was shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProofKey([u8; 32]);

impl ProofKey {
    /// Hashes the parts, each with its length, under a key of this process.
    pub fn new(process_key: &[u8; 32], parts: &[&str]) -> Self {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, process_key));
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(context.sign().as_ref());
        Self(hash)
    }
}

/// What is known of a proof.
pub enum ProofStatus<V, E> {
    /// It was good.
    Good(V),
    /// It was refused a moment ago.
    Bad(E),
    /// Somebody is asking.
    Pending(PendingCheck),
    /// Nobody knows: whoever gets this asks.
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

/// All verdicts. Clones share them.
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

/// An open question. Dropped without an answer, the next one asks.
pub struct OpenCheck<V, E> {
    key: ProofKey,
    entries: Arc<ResultTable<V, E>>,
    is_answered: bool,
    /// Dropped with the check: those that wait for it look again.
    _done: watch::Sender<()>,
}

/// A check of another login with the same proof.
pub struct PendingCheck(watch::Receiver<()>);

impl PendingCheck {
    /// Waits until the check has a result, or was given up.
    pub async fn finished(mut self) {
        // Nothing is ever sent: the end of the sender is the news.
        let _ = self.0.changed().await;
    }
}

impl<V: Clone, E: Clone> ProofResults<V, E> {
    /// What is known of a proof, at a moment in seconds since 1970.
    pub fn look_up(&self, key: ProofKey, now: i64) -> ProofStatus<V, E> {
        let mut entries = locked(&self.0);
        if let Some(entry) = entries.get(&key).filter(|entry| entry.until > now) {
            return match &entry.state {
                ResultState::Good(verdict) => ProofStatus::Good(verdict.clone()),
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

    /// Forgets everything: what the verdicts rest on has changed.
    pub fn forget(&self) {
        locked(&self.0).clear();
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
    /// Yes, until a moment in seconds since 1970.
    pub fn good(self, verdict: V, until: i64) {
        self.answer(ResultState::Good(verdict), until);
    }

    /// No.
    pub fn bad(self, error: E, now: i64) {
        self.answer(ResultState::Bad(error), now + REFUSED_SECONDS);
    }

    fn answer(mut self, state: ResultState<V, E>, until: i64) {
        self.is_answered = true;
        // Gone when everything was forgotten meanwhile: then this answer is of the old days.
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

    fn ask(verdicts: &ProofResults<u8, u8>, at: i64) -> OpenCheck<u8, u8> {
        match verdicts.look_up(key(&["t"]), at) {
            ProofStatus::Unknown(question) => question,
            _ => panic!("known"),
        }
    }

    #[test]
    fn the_parts_of_a_key_cannot_run_into_each_other() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["t"]), ProofKey::new(&[8; 32], &["t"]));
    }

    #[test]
    fn one_asks_and_the_others_wait_for_the_answer() {
        let verdicts = ProofResults::default();
        let question = ask(&verdicts, 100);
        assert!(matches!(verdicts.look_up(key(&["t"]), 100), ProofStatus::Pending(_)));
        question.good(5, 200);
        assert!(matches!(verdicts.look_up(key(&["t"]), 199), ProofStatus::Good(5)));
        assert!(matches!(verdicts.look_up(key(&["t"]), 200), ProofStatus::Unknown(_)));
    }

    #[test]
    fn a_no_is_short_and_a_question_given_up_is_open_again() {
        let verdicts = ProofResults::default();
        drop(ask(&verdicts, 100));
        ask(&verdicts, 100).bad(1, 100);
        assert!(matches!(verdicts.look_up(key(&["t"]), 104), ProofStatus::Bad(1)));
        assert!(matches!(verdicts.look_up(key(&["t"]), 105), ProofStatus::Unknown(_)));
    }

    #[test]
    fn answers_to_forgotten_questions_are_forgotten_too() {
        let verdicts = ProofResults::default();
        let question = ask(&verdicts, 100);
        verdicts.forget();
        question.good(5, 200);
        assert!(matches!(verdicts.look_up(key(&["t"]), 101), ProofStatus::Unknown(_)));
    }

    #[test]
    fn their_number_is_bounded() {
        let verdicts: ProofResults<u8, u8> = ProofResults::default();
        for n in 0..MAX_RESULTS + 10 {
            if let ProofStatus::Unknown(question) = verdicts.look_up(key(&[&n.to_string()]), 0) {
                question.good(1, 1000 + n as i64);
            }
        }
        assert!(locked(&verdicts.0).len() <= MAX_RESULTS);
        assert!(matches!(verdicts.look_up(key(&[&(MAX_RESULTS + 9).to_string()]), 0), ProofStatus::Good(1)));
    }
}
