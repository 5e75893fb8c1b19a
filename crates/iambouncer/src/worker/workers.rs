//! Communication between the workers: jobs, and questions that all workers answer. Owns their queues. A job receives
//! the worker that runs it, or the part of it that the sender knows. Not used while queries flow.

use super::{executor, upkeep};
use crate::config::MAX_WORKERS;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Jobs that may be queued for one worker. Commands and moved servers are few; a sender that exceeds the limit receives
/// an error.
const MAX_JOBS: usize = 16 * 1024;

/// A function to run on a worker's thread, in a task of its own.
type Job<W> = Box<dyn FnOnce(&Rc<W>) + Send>;

/// The worker has stopped, or its queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker has stopped or is overloaded")]
pub struct Unreachable;

/// The index of a worker, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerIndex {
    index: usize,
    count: usize,
}

impl WorkerIndex {
    /// That of the only worker.
    pub const ONLY: Self = Self { index: 0, count: 1 };

    /// The index of this worker, from 0.
    #[inline]
    pub fn index(self) -> usize {
        self.index
    }

    /// Number of workers, at least one.
    #[inline]
    pub fn count(self) -> usize {
        self.count
    }

    /// The indexes of the other workers.
    pub fn others(self) -> impl Iterator<Item = usize> {
        (0..self.count).filter(move |&worker| worker != self.index)
    }

    /// True if this is the only worker.
    #[inline]
    pub fn is_alone(self) -> bool {
        self.count == 1
    }
}

/// A worker of which one part is a `T`. Modules send jobs for the part that they know.
pub trait HasPart<T> {
    /// The part.
    fn part(self: &Rc<Self>) -> &Rc<T>;
}

/// The whole.
impl<W> HasPart<W> for W {
    fn part(self: &Rc<Self>) -> &Rc<W> {
        self
    }
}

/// One place for a worker of type `W`: its index, its queue, and the queues of the others.
pub struct WorkerSlot<W> {
    index: WorkerIndex,
    queues: Arc<[mpsc::Sender<Job<W>>]>,
    jobs: mpsc::Receiver<Job<W>>,
}

impl<W: 'static> WorkerSlot<W> {
    /// Places for `count` workers (1 to [`MAX_WORKERS`]).
    pub fn create(count: usize) -> Vec<Self> {
        let count = count.clamp(1, MAX_WORKERS);
        let (queues, jobs): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(MAX_JOBS)).unzip();
        let queues: Arc<[_]> = queues.into();
        let slot = |(index, jobs)| Self { index: WorkerIndex { index, count }, queues: queues.clone(), jobs };
        jobs.into_iter().enumerate().map(slot).collect()
    }

    /// The index.
    pub fn index(&self) -> WorkerIndex {
        self.index
    }

    /// The workers, for senders of jobs for one part.
    pub fn workers<T: 'static>(&self) -> Workers<T>
    where
        W: HasPart<T>,
    {
        Workers { queues: Arc::new(Queues(self.queues.clone())), own: self.index }
    }

    /// Runs the jobs that arrive from now on. Called once, on the worker's thread.
    pub fn serve(self, worker: Rc<W>) {
        let mut jobs = self.jobs;
        executor::spawn(async move {
            while let Some(job) = jobs.recv().await {
                let worker = worker.clone();
                executor::spawn(async move { job(&worker) });
                upkeep::request();
            }
        });
    }
}

/// Sends jobs for one part of a worker.
trait Post<T>: Send + Sync {
    fn post(&self, worker: usize, job: Job<T>) -> Result<(), Unreachable>;
}

struct Queues<W>(Arc<[mpsc::Sender<Job<W>>]>);

impl<W: HasPart<T> + 'static, T: 'static> Post<T> for Queues<W> {
    fn post(&self, worker: usize, job: Job<T>) -> Result<(), Unreachable> {
        let queue = self.0.get(worker).ok_or(Unreachable)?;
        queue.try_send(Box::new(move |worker| job(worker.part()))).map_err(|_| Unreachable)
    }
}

/// All workers, as seen from one of them or from another thread.
pub struct Workers<T> {
    queues: Arc<dyn Post<T>>,
    own: WorkerIndex,
}

impl<T> Clone for Workers<T> {
    fn clone(&self) -> Self {
        Self { queues: self.queues.clone(), own: self.own }
    }
}

impl<T: 'static> Workers<T> {
    /// Number of workers.
    pub fn count(&self) -> usize {
        self.own.count
    }

    /// Runs a job on a worker, which may be this one.
    ///
    /// # Errors
    /// It has stopped or its queue is full; the job is dropped.
    pub fn run_on(
        &self,
        worker: usize,
        job: impl FnOnce(&Rc<T>) + Send + 'static,
    ) -> Result<(), Unreachable> {
        self.queues.post(worker, Box::new(job))
    }

    /// Runs a job on all other workers, ignoring those that have stopped.
    pub fn run_on_others(&self, job: impl Fn(&Rc<T>) + Clone + Send + 'static) {
        for worker in self.own.others() {
            let _ = self.run_on(worker, job.clone());
        }
    }

    /// Sends a question to a worker; the receiver gets the answer.
    ///
    /// # Errors
    /// The worker has stopped or its queue is full.
    pub fn question<R, A>(
        &self,
        worker: usize,
        question: impl FnOnce(&Rc<T>) -> A + Send + 'static,
    ) -> Result<oneshot::Receiver<R>, Unreachable>
    where
        R: Send + 'static,
        A: Future<Output = R> + 'static,
    {
        let (answer, reply) = oneshot::channel();
        self.run_on(worker, move |part| {
            let reply_future = question(part);
            executor::spawn(async move {
                // The caller may have stopped waiting.
                let _ = answer.send(reply_future.await);
            });
        })?;
        Ok(reply)
    }

    /// Asks a worker, which may be this one. `None` if it has stopped.
    pub async fn ask<R, A>(
        &self,
        worker: usize,
        question: impl FnOnce(&Rc<T>) -> A + Send + 'static,
    ) -> Option<R>
    where
        R: Send + 'static,
        A: Future<Output = R> + 'static,
    {
        self.question(worker, question).ok()?.await.ok()
    }

    /// Asks all workers, including this one, and waits for the answers, in the order of the workers. Those that have
    /// stopped give none.
    pub async fn ask_all<R, F, A>(&self, question: F) -> Vec<R>
    where
        R: Send + 'static,
        F: Fn(&Rc<T>) -> A + Clone + Send + 'static,
        A: Future<Output = R> + 'static,
    {
        // All are asked before the first answer is awaited.
        let replies: Vec<_> =
            (0..self.count()).filter_map(|worker| self.question(worker, question.clone()).ok()).collect();
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            answers.extend(reply.await);
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{self, reactor::EngineKind};
    use std::cell::Cell;

    struct TestWorker(Rc<Cell<usize>>);

    impl HasPart<Cell<usize>> for TestWorker {
        fn part(self: &Rc<Self>) -> &Rc<Cell<usize>> {
            &self.0
        }
    }

    /// Runs a worker that adds 1 to what it is asked for the number of the worker, until the last asks it to stop.
    fn start(slot: WorkerSlot<TestWorker>) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let stop = async move {
                let value = Rc::new(Cell::new(slot.index().index()));
                slot.serve(Rc::new(TestWorker(value.clone())));
                while value.get() < 100 {
                    executor::yield_now().await;
                }
            };
            worker::run(EngineKind::Epoll, stop).unwrap();
        })
    }

    #[test]
    fn all_workers_answer_in_order_and_one_that_stopped_is_unreachable() {
        let mut slots = WorkerSlot::<TestWorker>::create(3);
        let own = slots.remove(0);
        let workers = own.workers::<Cell<usize>>();
        let threads: Vec<_> = slots.into_iter().map(start).collect();
        let asked = workers.clone();
        worker::run(EngineKind::Epoll, async move {
            own.serve(Rc::new(TestWorker(Rc::default())));
            let answers = asked.ask_all(|value| std::future::ready(value.get())).await;
            assert_eq!(answers, [0, 1, 2]);
            asked.run_on_others(|value| value.set(100));
        })
        .unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(workers.run_on(1, |_| ()), Err(Unreachable));
        assert_eq!(workers.run_on(3, |_| ()), Err(Unreachable));
    }
}
