//! All workers of the process, as one of them sees them. Owns how they reach each other: errands, and questions that
//! everybody answers. Nothing here is touched while queries flow.

use super::executor;
use super::mailbox::{Errand, Mailbox};
use crate::config::MAX_WORKERS;
use std::io;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The workers, and which of them this is.
#[derive(Clone)]
pub struct Team {
    mailboxes: Arc<[Arc<Mailbox>]>,
    me: usize,
}

impl Team {
    /// A team of `count` workers (1 to [`MAX_WORKERS`]), one handle for each.
    ///
    /// # Errors
    /// The kernel refuses an eventfd.
    pub fn assemble(count: usize) -> io::Result<Vec<Self>> {
        let count = count.clamp(1, MAX_WORKERS);
        let mailboxes: Arc<[_]> =
            (0..count).map(|_| Mailbox::create()).collect::<io::Result<Vec<_>>>()?.into();
        Ok((0..count).map(|me| Self { mailboxes: mailboxes.clone(), me }).collect())
    }

    /// The number of this worker, from 0.
    #[inline]
    pub fn me(&self) -> usize {
        self.me
    }

    /// Number of workers.
    #[inline]
    pub fn len(&self) -> usize {
        self.mailboxes.len()
    }

    /// The numbers of the other workers.
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let me = self.me;
        (0..self.len()).filter(move |&worker| worker != me)
    }

    /// True when there is nobody else.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.len() == 1
    }

    /// Never: a team has one worker at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailboxes[self.me]
    }

    /// Has something done by a worker, also by this one.
    ///
    /// # Errors
    /// It has ended or does not keep up; the errand comes back.
    pub fn tell(&self, worker: usize, errand: Errand) -> Result<(), Errand> {
        if worker == self.me {
            executor::spawn(async move { errand() });
            return Ok(());
        }
        match self.mailboxes.get(worker) {
            Some(mailbox) => mailbox.post(errand),
            None => Err(errand),
        }
    }

    /// Has something done by all other workers; those that have ended do not matter.
    pub fn tell_others(&self, errand: impl Fn() + Clone + Send + 'static) {
        for worker in self.others() {
            let _ = self.tell(worker, Box::new(errand.clone()));
        }
    }

    /// The same workers, for a thread that is none of them.
    pub fn outside(&self) -> Outside {
        Outside { mailboxes: self.mailboxes.clone() }
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
        let errand: Errand = Box::new(move || {
            let asked = question();
            executor::spawn(async move {
                // Nobody may be waiting any more.
                let _ = answer.send(asked.await);
            });
        });
        self.tell(worker, errand).ok().map(|()| answered)
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
pub struct Outside {
    mailboxes: Arc<[Arc<Mailbox>]>,
}

impl Outside {
    /// Puts a question to a worker, which answers at its next turn. `None` when it has ended or does not keep up.
    pub fn ask<T: Send + 'static>(
        &self,
        worker: usize,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<oneshot::Receiver<T>> {
        let (answer, answered) = oneshot::channel();
        let errand: Errand = Box::new(move || {
            // Nobody may be waiting any more.
            let _ = answer.send(question());
        });
        self.mailboxes.get(worker)?.post(errand).ok().map(|()| answered)
    }
}
