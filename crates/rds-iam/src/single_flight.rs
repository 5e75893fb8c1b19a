//! One fetch at a time.
//!
//! Owns: the right to fetch, and that a fetch runs to completion even if a caller stops waiting.
//! Never: depends on what is fetched, or stores it.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinError;

/// Locked during a fetch.
#[derive(Debug, Default)]
pub(crate) struct SingleFlight(Arc<Mutex<()>>);

/// The right to fetch, until dropped.
pub(crate) struct FetchPermit {
    _held: OwnedMutexGuard<()>,
}

impl SingleFlight {
    /// Waits until no fetch is running. What was missing may be available by then.
    pub(crate) async fn acquire(&self) -> FetchPermit {
        FetchPermit { _held: Arc::clone(&self.0).lock_owned().await }
    }

    /// Like `acquire` without waiting; `None` while a fetch is running.
    pub(crate) fn try_acquire(&self) -> Option<FetchPermit> {
        Arc::clone(&self.0).try_lock_owned().ok().map(|held| FetchPermit { _held: held })
    }
}

impl FetchPermit {
    /// Fetches in the background. The fetch must store its result itself.
    pub(crate) fn spawn<T: Send + 'static>(self, fetch: impl Future<Output = T> + Send + 'static) {
        tokio::spawn(self.held_during(fetch));
    }

    /// Fetches and waits, in a separate task: a caller that gives up does not abort the fetch for others.
    ///
    /// # Errors
    /// The task has panicked, or its runtime has shut down.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        fetch: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        tokio::spawn(self.held_during(fetch)).await
    }

    async fn held_during<T>(self, fetch: impl Future<Output = T>) -> T {
        let outcome = fetch.await;
        drop(self);
        outcome
    }
}
