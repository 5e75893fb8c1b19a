//! The values that the workers report. Owns the requests: one at a time per worker, with a time limit.

use std::time::Duration;
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::timeout_at;

/// Time limit for a worker's answer. Workers answer in their next loop iterations, so only a stuck one takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Asks a worker; `None` if it has stopped.
pub(super) type PartRequest<T> = Box<dyn Fn(usize) -> Option<Receiver<T>> + Send + Sync>;

/// The state of one worker.
struct WorkerAnswer<T> {
    /// The unanswered request. No other one is sent meanwhile.
    pending: Option<Receiver<T>>,
    /// The last answer, used if a new one does not arrive, so that counters never decrease.
    last: Option<T>,
    is_silent: bool,
}

/// The answers of all workers.
pub(super) struct WorkerAnswers<T>(Vec<WorkerAnswer<T>>);

impl<T> Default for WorkerAnswers<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> WorkerAnswers<T> {
    /// Asks this number of workers and waits for their answers. Returns the number of those that did not answer in time.
    pub(super) async fn collect(&mut self, workers: usize, request: &PartRequest<T>) -> usize {
        self.0.resize_with(workers, || WorkerAnswer { pending: None, last: None, is_silent: false });
        for (worker, state) in self.0.iter_mut().enumerate() {
            state.take_late_answer();
            if state.pending.is_none() {
                state.pending = request(worker);
            }
        }
        let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
        for state in &mut self.0 {
            state.wait(deadline).await;
        }
        self.0.iter().filter(|state| state.is_silent).count()
    }

    /// The last answer of each worker, with its index.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter_map(|(worker, state)| Some((worker, state.last.as_ref()?)))
    }
}

impl<T> WorkerAnswer<T> {
    /// A late answer replaces the previous one.
    fn take_late_answer(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        match pending.try_recv() {
            Ok(part) => self.last = Some(part),
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Closed) => {}
        }
        self.pending = None;
    }

    async fn wait(&mut self, deadline: tokio::time::Instant) {
        self.is_silent = true;
        let Some(pending) = &mut self.pending else { return };
        match timeout_at(deadline, pending).await {
            Ok(Ok(part)) => {
                self.last = Some(part);
                self.is_silent = false;
            }
            Ok(Err(_)) => {}
            // The request stays pending at the worker.
            Err(_elapsed) => return,
        }
        self.pending = None;
    }
}
