//! The workers of the process, as seen from one of them. Owns communication between them: jobs, and questions that all
//! workers answer. Not used while queries flow.

use super::executor;
use super::mailbox::{Job, Mailbox};
use crate::config::MAX_WORKERS;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The workers, and the index of this one.
#[derive(Clone)]
pub struct Workers {
    mailboxes: Arc<[Arc<Mailbox>]>,
    index: usize,
}

impl Workers {
    /// Handles for `count` workers (1 to [`MAX_WORKERS`]), one each.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub fn create(count: usize) -> io::Result<Vec<Self>> {
        let count = count.clamp(1, MAX_WORKERS);
        let mailboxes: Arc<[_]> =
            (0..count).map(|_| Mailbox::create()).collect::<io::Result<Vec<_>>>()?.into();
        Ok((0..count).map(|index| Self { mailboxes: mailboxes.clone(), index }).collect())
    }

    /// The index of this worker, from 0.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "there is at least one worker")]
    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// The indexes of the other workers.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let index = self.index;
        (0..self.len()).filter(move |&worker| worker != index)
    }

    /// True if this is the only worker.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.len() == 1
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailboxes[self.index]
    }

    /// Runs a job on a worker, which may be this one.
    ///
    /// # Errors
    /// It has stopped or its queue is full; the job is returned.
    pub fn run_on(&self, worker: usize, job: Job) -> Result<(), Job> {
        if worker == self.index {
            executor::spawn(async move { job() });
            return Ok(());
        }
        match self.mailboxes.get(worker) {
            Some(mailbox) => mailbox.post(job),
            None => Err(job),
        }
    }

    /// Runs a job on all other workers, ignoring those that have stopped.
    pub fn run_on_others(&self, job: impl Fn() + Clone + Send + 'static) {
        for worker in self.others() {
            let _ = self.run_on(worker, Box::new(job.clone()));
        }
    }

    /// The same workers, for other threads.
    pub fn handles(&self) -> WorkerHandles {
        WorkerHandles { mailboxes: self.mailboxes.clone() }
    }

    /// Sends a question to a worker; the receiver gets the answer.
    fn send_question<T, A>(
        &self,
        worker: usize,
        question: impl FnOnce() -> A + Send + 'static,
    ) -> Option<oneshot::Receiver<T>>
    where
        T: Send + 'static,
        A: Future<Output = T> + 'static,
    {
        let (answer, reply) = oneshot::channel();
        let job: Job = Box::new(move || {
            let reply_future = question();
            executor::spawn(async move {
                // The caller may have stopped waiting.
                let _ = answer.send(reply_future.await);
            });
        });
        self.run_on(worker, job).ok().map(|()| reply)
    }

    /// Asks a worker, which may be this one. `None` if it has stopped.
    pub async fn ask<T, A>(&self, worker: usize, question: impl FnOnce() -> A + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        A: Future<Output = T> + 'static,
    {
        self.send_question(worker, question)?.await.ok()
    }

    /// Asks all workers, including this one, and waits for the answers, in the order of the workers. Those that have
    /// stopped give none.
    pub async fn ask_all<T, F, A>(&self, question: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn() -> A + Clone + Send + 'static,
        A: Future<Output = T> + 'static,
    {
        // All are asked before the first answer is awaited.
        let replies: Vec<_> =
            (0..self.len()).filter_map(|worker| self.send_question(worker, question.clone())).collect();
        let mut answers = Vec::with_capacity(replies.len());
        for reply in replies {
            answers.extend(reply.await);
        }
        answers
    }
}

/// The workers, as used by other threads.
#[derive(Clone)]
pub struct WorkerHandles {
    mailboxes: Arc<[Arc<Mailbox>]>,
}

impl WorkerHandles {
    /// Sends a question to a worker, which answers in its next turn. `None` if it has stopped or its queue is full.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        let (answer, reply) = oneshot::channel();
        let job: Job = Box::new(move || {
            // The caller may have stopped waiting.
            let _ = answer.send(question());
        });
        self.mailboxes.get(worker)?.post(job).ok().map(|()| reply)
    }
}
