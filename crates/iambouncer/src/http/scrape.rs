//! One look at all workers. Owns the questions: one at a time to each worker, waited for no longer than a moment, and
//! one round for all who ask at the same time.

use super::cardinality::{Cardinality, MAX_POOLS};
use super::figures::{Figures, LoginFigures, iam, secrets};
use super::health;
use crate::admin::Console;
use crate::admin::gathered::ConsoleSnapshot;
use crate::process::Process;
use crate::worker::home;
use crate::worker::workers::WorkerHandles;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::timeout_at;

/// How long a worker may take for its answer. It comes at its next turn, so only a stuck one takes longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// What a worker is asked; `None` while it starts or ends.
type Question = fn() -> Option<ConsoleSnapshot>;

fn part_of_this_worker() -> Option<ConsoleSnapshot> {
    home::get::<Console>().map(|console| ConsoleSnapshot::here(&console))
}

/// A worker as scrapes know it.
#[derive(Default)]
struct ScrapeRound {
    /// The question that it has not answered yet. It is not asked another one meanwhile.
    pending: Option<Receiver<Option<ConsoleSnapshot>>>,
    /// What it answered last. Stands in for an answer that does not come, so that no counter falls.
    last: Option<ConsoleSnapshot>,
    is_silent: bool,
}

#[derive(Default)]
struct Rounds {
    workers: Vec<ScrapeRound>,
    cardinality: Cardinality,
    scrape_errors: u64,
    /// When the last round began, and what it brought.
    last: Option<(Instant, Arc<Figures>)>,
}

/// Makes the figures of scrapes.
pub(super) struct Scraper {
    workers: WorkerHandles,
    question: Question,
    process: Arc<Process>,
    rounds: tokio::sync::Mutex<Rounds>,
}

impl Scraper {
    /// Over these workers.
    pub(super) fn new(workers: WorkerHandles, process: Arc<Process>) -> Self {
        Self { workers, question: part_of_this_worker, process, rounds: Default::default() }
    }

    /// Figures that are no older than this call. Of many who come during a round, one begins the next and the others
    /// take what that brings.
    pub(super) async fn scrape(&self) -> Arc<Figures> {
        let asked_at = Instant::now();
        let mut rounds = self.rounds.lock().await;
        if let Some((began, figures)) = &rounds.last
            && *began >= asked_at
        {
            return figures.clone();
        }
        let began = Instant::now();
        let figures = Arc::new(self.round(&mut rounds).await);
        rounds.last = Some((began, figures.clone()));
        figures
    }

    async fn round(&self, rounds: &mut Rounds) -> Figures {
        rounds.workers.resize_with(self.process.health.workers(), ScrapeRound::default);
        for (worker, asked) in rounds.workers.iter_mut().enumerate() {
            asked.take_late_answer();
            if asked.pending.is_none() {
                asked.pending = self.workers.ask(worker, self.question);
            }
        }
        let deadline = tokio::time::Instant::now() + ANSWER_LIMIT;
        for asked in &mut rounds.workers {
            asked.wait(deadline).await;
        }
        let silent = rounds.workers.iter().filter(|asked| asked.is_silent).count();
        rounds.scrape_errors += silent as u64;
        let all = ConsoleSnapshot::sum(rounds.workers.iter().filter_map(|asked| asked.last.as_ref()));
        let health = &self.process.health;
        let (tokens, credentials) = iam(&self.process.identities, SystemTime::now());
        Figures {
            pools: rounds.cardinality.bound(all.pools, MAX_POOLS),
            logging_in: all.logging_in,
            on_console: all.on_console,
            workers_answered: rounds.workers.len() - silent,
            workers_silent: silent,
            scrape_errors: rounds.scrape_errors,
            logins: LoginFigures::read(&self.process, Instant::now()),
            tokens,
            credentials,
            secrets: secrets(&self.process.secrets, SystemTime::now()),
            is_ready: health::readiness(health).is_good,
            is_draining: health.is_draining(),
            last_reload: health.last_reload(),
            began_at: health.began_wall,
        }
    }
}

impl ScrapeRound {
    /// An answer that came after its round was over says how things were then.
    fn take_late_answer(&mut self) {
        let Some(pending) = &mut self.pending else { return };
        match pending.try_recv() {
            Ok(part) => self.last = part.or_else(|| self.last.take()),
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Closed) => {}
        }
        self.pending = None;
    }

    async fn wait(&mut self, deadline: tokio::time::Instant) {
        self.is_silent = true;
        let Some(pending) = &mut self.pending else { return };
        match timeout_at(deadline, pending).await {
            Ok(Ok(Some(part))) => {
                self.last = Some(part);
                self.is_silent = false;
            }
            Ok(Ok(None) | Err(_)) => {}
            // The question stays with the worker.
            Err(_elapsed) => return,
        }
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::gathered::PoolCounts;
    use crate::config::Settings;
    use crate::process::ProcessParts;
    use crate::stats::Totals;
    use crate::worker::reactor::EngineKind;
    use crate::worker::workers::Workers;
    use crate::worker::{self, timers};
    use rds_iam::{AwsCredentials, TokenEngine};
    use std::sync::atomic::{AtomicU64, Ordering};

    static QUESTIONS: AtomicU64 = AtomicU64::new(0);

    fn answer() -> Option<ConsoleSnapshot> {
        let queries = 1 + QUESTIONS.fetch_add(1, Ordering::SeqCst);
        let totals = Totals { queries, ..Totals::default() };
        let pools = [(("d".to_owned(), "u".to_owned()), PoolCounts { totals, ..PoolCounts::default() })];
        Some(ConsoleSnapshot { pools: pools.into(), ..ConsoleSnapshot::default() })
    }

    fn scraper(workers: &Workers, control: &tokio::runtime::Handle) -> Scraper {
        let parts = ProcessParts {
            control: control.clone(),
            tokens: TokenEngine::new(AwsCredentials::shared()),
            resolver: None,
            own_endpoints: Vec::new(),
            workers: workers.len(),
            awaits_login: false,
        };
        let process = Process::new(&Settings::default(), parts).unwrap();
        Scraper { question: answer, ..Scraper::new(workers.handles(), process) }
    }

    fn queries(figures: &Figures) -> u64 {
        figures.pools.iter().map(|(_, counts)| counts.totals.queries).sum()
    }

    #[test]
    fn a_stuck_worker_is_left_out_told_and_asked_only_once() {
        let mut teams = Workers::create(2).unwrap();
        // Nobody runs the second one: what is put to it stays in its mailbox.
        let (stuck, running) = (teams.pop().unwrap(), teams.pop().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let scraper = scraper(&running, runtime.handle());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            worker::run(EngineKind::Epoll, &running, async {
                let _ = stopped.await;
            })
        });
        runtime.block_on(async {
            let first = scraper.scrape().await;
            assert_eq!((first.workers_answered, first.workers_silent, first.scrape_errors), (1, 1, 1));
            assert_eq!(queries(&first), 1);
            let second = scraper.scrape().await;
            assert_eq!((second.scrape_errors, queries(&second)), (2, 2));
        });
        drop(stop);
        thread.join().unwrap().unwrap();
        // Both scrapes together have left one question with it.
        let before = QUESTIONS.load(Ordering::SeqCst);
        worker::run(EngineKind::Epoll, &stuck, async { timers::sleep(Duration::from_millis(1)).await })
            .unwrap();
        assert_eq!(QUESTIONS.load(Ordering::SeqCst) - before, 1);
        // Its late answer counts, and that of the one that has ended stands.
        let last = runtime.block_on(scraper.scrape());
        assert_eq!((last.workers_silent, queries(&last)), (2, 2 + 3));
    }
}
