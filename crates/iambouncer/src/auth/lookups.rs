//! Look-ups of passwords on servers (`auth_query`), shared by all workers. Owns that clients that log in as one user at
//! the same time cause one query, and how long an answer is reused; runs no query.

use super::mock::Form;
use crate::client_error::ClientError;
use crate::config::Secret;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// Maximum number of answers that are kept; the one that expires first is evicted.
const MAX_ANSWERS: usize = 10_000;
/// Maximum number of queries at a time, over all workers.
const MAX_QUERIES: usize = 8;

/// What a server knows about a user.
#[derive(Clone)]
pub enum LookupAnswer {
    /// There is no such user.
    NoUser,
    /// The user exists; `None` if it has no valid password.
    User(Option<Secret>),
}

/// The answer, or the error for the client.
pub type LookupOutcome = Result<LookupAnswer, ClientError>;

/// The database that was asked, and the user.
pub type LookupKey = (String, String);

enum LookupEntry {
    Pending(watch::Receiver<Option<LookupOutcome>>),
    Known { outcome: LookupOutcome, until: Instant },
}

type LookupTable = Mutex<HashMap<LookupKey, LookupEntry>>;

/// All look-ups of the process.
pub struct Lookups {
    table: LookupTable,
    /// How the last password that was found is stored: unknown users imitate it.
    last_form: Mutex<Option<Form>>,
    /// Permits for queries.
    pub queries: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            last_form: Mutex::default(),
            queries: Arc::new(Semaphore::new(MAX_QUERIES)),
        }
    }
}

/// A query under way. If dropped without an outcome, a client that waits for it starts another.
struct OpenLookup<'a> {
    table: &'a LookupTable,
    key: LookupKey,
    outcome: watch::Sender<Option<LookupOutcome>>,
}

impl Drop for OpenLookup<'_> {
    fn drop(&mut self) {
        let mut table = locked(self.table);
        if matches!(table.get(&self.key), Some(LookupEntry::Pending(_))) {
            table.remove(&self.key);
        }
    }
}

impl OpenLookup<'_> {
    fn finish(self, outcome: &LookupOutcome, reuse: Duration) {
        if !reuse.is_zero() && outcome.is_ok() {
            let mut table = locked(self.table);
            make_room(&mut table);
            let known = LookupEntry::Known { outcome: outcome.clone(), until: Instant::now() + reuse };
            table.insert(self.key.clone(), known);
        }
        self.outcome.send_replace(Some(outcome.clone()));
    }
}

impl Lookups {
    /// The answer for a key: a kept one, that of a query under way, or that of `query`, which is then kept for `reuse`.
    pub async fn get(
        &self,
        key: LookupKey,
        reuse: Duration,
        query: impl Future<Output = LookupOutcome>,
    ) -> LookupOutcome {
        loop {
            let pending = {
                let mut table = locked(&self.table);
                match table.get(&key) {
                    Some(LookupEntry::Known { outcome, until }) if *until > Instant::now() => {
                        return outcome.clone();
                    }
                    Some(LookupEntry::Pending(pending)) => Some(pending.clone()),
                    _ => None,
                }
                .ok_or_else(|| {
                    let (outcome, pending) = watch::channel(None);
                    table.insert(key.clone(), LookupEntry::Pending(pending));
                    outcome
                })
            };
            match pending {
                Ok(mut pending) => {
                    if let Ok(outcome) = pending.wait_for(Option::is_some).await
                        && let Some(outcome) = &*outcome
                    {
                        return outcome.clone();
                    }
                }
                Err(outcome) => {
                    let open = OpenLookup { table: &self.table, key, outcome };
                    let answer = query.await;
                    if let Ok(LookupAnswer::User(Some(password))) = &answer {
                        *locked(&self.last_form) = Some(Form::of(password.expose()));
                    }
                    open.finish(&answer, reuse);
                    return answer;
                }
            }
        }
    }

    /// The form of stored passwords on the servers; `None` before one was found.
    pub fn last_form(&self) -> Option<Form> {
        *locked(&self.last_form)
    }

    /// Removes all kept answers, after a change of what they depend on.
    pub fn forget(&self) {
        locked(&self.table).retain(|_, entry| matches!(entry, LookupEntry::Pending(_)));
    }
}

fn make_room(table: &mut HashMap<LookupKey, LookupEntry>) {
    let until = |entry: &LookupEntry| match entry {
        LookupEntry::Known { until, .. } => Some(*until),
        LookupEntry::Pending(_) => None,
    };
    if table.len() < MAX_ANSWERS {
        return;
    }
    let now = Instant::now();
    table.retain(|_, entry| until(entry).is_none_or(|until| until > now));
    if table.len() >= MAX_ANSWERS
        && let Some((_, first)) =
            table.iter().filter_map(|(key, entry)| Some((until(entry)?, key.clone()))).min()
    {
        table.remove(&first);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn key() -> LookupKey {
        ("db".to_owned(), "user".to_owned())
    }

    fn found(text: &str) -> LookupOutcome {
        Ok(LookupAnswer::User(Some(Secret::new(text))))
    }

    fn text(outcome: &LookupOutcome) -> &str {
        match outcome {
            Ok(LookupAnswer::User(Some(text))) => text.expose(),
            _ => "",
        }
    }

    fn ready<T>(poll: Poll<T>) -> T {
        match poll {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("pending"),
        }
    }

    #[test]
    fn clients_that_log_in_at_the_same_time_share_a_query() {
        let lookups = Lookups::default();
        let is_answered = Cell::new(false);
        let answer =
            std::future::poll_fn(|_| if is_answered.get() { Poll::Ready(found("p")) } else { Poll::Pending });
        let mut first = pin!(lookups.get(key(), Duration::ZERO, answer));
        let mut second = pin!(lookups.get(key(), Duration::ZERO, async { panic!("a second query") }));
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
        is_answered.set(true);
        assert_eq!(text(&ready(first.poll(cx))), "p");
        assert_eq!(text(&ready(second.poll(cx))), "p");
        let mut third = pin!(lookups.get(key(), Duration::ZERO, async { found("q") }));
        assert_eq!(text(&ready(third.as_mut().poll(cx))), "q", "an answer is not reused unless configured");
    }

    #[test]
    fn a_client_that_gives_up_leaves_the_query_to_the_next() {
        let lookups = Lookups::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let mut second = pin!(lookups.get(key(), Duration::ZERO, async { found("p") }));
        {
            let mut first = pin!(lookups.get(key(), Duration::ZERO, std::future::pending()));
            assert!(first.as_mut().poll(cx).is_pending() && second.as_mut().poll(cx).is_pending());
        }
        assert_eq!(text(&ready(second.as_mut().poll(cx))), "p");
    }

    #[test]
    fn answers_are_reused_as_configured_and_errors_never() {
        let lookups = Lookups::default();
        let cx = &mut Context::from_waker(Waker::noop());
        let reuse = Duration::from_secs(60);
        let error = || Err(crate::client_error::login_timeout());
        assert!(ready(pin!(lookups.get(key(), reuse, async { error() })).poll(cx)).is_err());
        assert_eq!(text(&ready(pin!(lookups.get(key(), reuse, async { found("p") })).poll(cx))), "p");
        assert_eq!(text(&ready(pin!(lookups.get(key(), reuse, async { found("q") })).poll(cx))), "p");
        lookups.forget();
        assert_eq!(text(&ready(pin!(lookups.get(key(), reuse, async { found("q") })).poll(cx))), "q");
        assert_eq!(lookups.last_form(), Some(Form::Clear));
    }
}
