//! All workers of the process, as one of them sees them. Owns how they reach each other: jobs, and questions that
//! everybody answers. Nothing here is touched while queries flow.

use super::executor;
use super::mailbox::{Job, Mailbox};
use crate::config::MAX_WORKERS;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The workers, and which of them this is.
#[derive(Clone)]
pub struct Workers {
    mailboxes: Arc<[Arc<Mailbox>]>,
    index: usize,
}

impl Workers {
    /// A workers of `count` workers (1 to [`MAX_WORKERS`]), one handle for each.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub fn create(count: usize) -> io::Result<Vec<Self>> {
        let count = count.clamp(1, MAX_WORKERS);
        let mailboxes: Arc<[_]> =
            (0..count).map(|_| Mailbox::create()).collect::<io::Result<Vec<_>>>()?.into();
        Ok((0..count).map(|index| Self { mailboxes: mailboxes.clone(), index }).collect())
    }

    /// The number of this worker, from 0.
    #[inline]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of workers.
    #[inline]
    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// The numbers of the other workers.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let index = self.index;
        (0..self.len()).filter(move |&worker| worker != index)
    }

    /// True when there is nobody else.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.len() == 1
    }

    /// Never: a workers has one worker at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailboxes[self.index]
    }

    /// Has something done by a worker, also by this one.
    ///
    /// # Errors
    /// It has ended or does not keep up; the job comes back.
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

    /// Has something done by all other workers; those that have ended do not matter.
    pub fn run_on_others(&self, job: impl Fn() + Clone + Send + 'static) {
        for worker in self.others() {
            let _ = self.run_on(worker, Box::new(job.clone()));
        }
    }

    /// The same workers, for a thread that is none of them.
    pub fn handles(&self) -> WorkerHandles {
        WorkerHandles { mailboxes: self.mailboxes.clone() }
    }

    /// Puts a question to a worker; the answer comes when it has one.
    fn put<T, A>(
        &self,
        worker: usize,
        question: impl FnOnce() -> A + Send + 'static,
    ) -> Option<oneshot::Receiver<T>>
    where
        T: Send + 'static,
        A: Future<Output = T> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            let asked = question();
            executor::spawn(async move {
                // Nobody may be waiting any more.
                let _ = answer.send(asked.await);
            });
        });
        self.run_on(worker, job).ok().map(|()| answered)
    }

    /// Asks a worker, which may be this one. `None` when it has ended.
    pub async fn ask<T, A>(&self, worker: usize, question: impl FnOnce() -> A + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        A: Future<Output = T> + 'static,
    {
        self.put(worker, question)?.await.ok()
    }

    /// Asks all workers, this one included, and waits for the answers, in the order of the workers. Those that have
    /// ended give none.
    pub async fn ask_all<T, F, A>(&self, question: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn() -> A + Clone + Send + 'static,
        A: Future<Output = T> + 'static,
    {
        // All are asked before the first answer is waited for.
        let asked: Vec<_> = (0..self.len()).filter_map(|worker| self.put(worker, question.clone())).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answered in asked {
            answers.extend(answered.await);
        }
        answers
    }
}

/// The workers, as other threads see them.
#[derive(Clone)]
pub struct WorkerHandles {
    mailboxes: Arc<[Arc<Mailbox>]>,
}

impl WorkerHandles {
    /// Puts a question to a worker, which answers at its next turn. `None` when it has ended or does not keep up.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody may be waiting any more.
            let _ = answer.send(question());
        });
        self.mailboxes.get(worker)?.post(job).ok().map(|()| answered)
    }
}
