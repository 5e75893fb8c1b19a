//! Results that concurrent callers share: of several callers during a round, one starts the next round and the others
//! receive its result. Owns that no result is older than the call; what a round does is its caller's.

use std::sync::Arc;
use std::time::Instant;

struct Rounds<S, T> {
    state: S,
    /// Start and result of the last round.
    last: Option<(Instant, Arc<T>)>,
}

/// Rounds that keep an `S` from one to the next, and have a `T` as result.
pub(super) struct SharedRounds<S, T>(tokio::sync::Mutex<Rounds<S, T>>);

impl<S: Default, T> Default for SharedRounds<S, T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::new(Rounds { state: S::default(), last: None }))
    }
}

impl<S, T> SharedRounds<S, T> {
    /// The result of a round that began no earlier than this call.
    pub(super) async fn result(&self, round: impl AsyncFnOnce(&mut S) -> T) -> Arc<T> {
        let called_at = Instant::now();
        let mut rounds = self.0.lock().await;
        if let Some((began, result)) = &rounds.last
            && *began >= called_at
        {
            return result.clone();
        }
        let began = Instant::now();
        let result = Arc::new(round(&mut rounds.state).await);
        rounds.last = Some((began, result.clone()));
        result
    }
}
