//! One fetch of a thing at a time.
//!
//! Owns: whose turn it is, and that a fetch which has begun goes on to its end, whoever gives up waiting for it.
//! Never: knows what is fetched, or keeps it.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinError;

/// Held by whoever is fetching.
#[derive(Debug, Default)]
pub(crate) struct SingleFlight(Arc<Mutex<()>>);

/// The right to fetch, until it is dropped.
pub(crate) struct FetchPermit {
    _held: OwnedMutexGuard<()>,
}

impl SingleFlight {
    /// Waits until nobody is fetching. What was missing may be there by then.
    pub(crate) async fn acquire(&self) -> FetchPermit {
        FetchPermit { _held: Arc::clone(&self.0).lock_owned().await }
    }

    /// The same at once; `None` while somebody is at it.
    pub(crate) fn try_acquire(&self) -> Option<FetchPermit> {
        Arc::clone(&self.0).try_lock_owned().ok().map(|held| FetchPermit { _held: held })
    }
}

impl FetchPermit {
    /// Fetches in the background. The outcome has to be left where others find it: nobody waits for it here.
    pub(crate) fn spawn<T: Send + 'static>(self, fetch: impl Future<Output = T> + Send + 'static) {
        tokio::spawn(self.held_during(fetch));
    }

    /// Fetches and waits, in a task of its own: a login that gives up does not take it down for those who wait behind.
    ///
    /// # Errors
    /// The task has panicked, or its runtime has ended.
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
