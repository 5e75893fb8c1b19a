//! Collects the values of a scrape from all workers and from the process. Owns what one scrape keeps for the next.

use super::cardinality::Cardinality;
use super::figures::{Figures, LoginFigures, iam, paused, secrets, unix_seconds};
use super::shared_rounds::SharedRounds;
use super::worker_answers::{PartRequest, WorkerAnswers};
use super::worker_part::WorkerPart;
use crate::admin::Console;
use crate::process::Process;
use crate::stats::snapshot::{MAX_NAMED_POOLS, Snapshot};
use crate::worker::workers::Workers;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

#[derive(Default)]
struct ScrapeState {
    workers: WorkerAnswers<WorkerPart>,
    cardinality: Cardinality,
    scrape_errors: u64,
}

/// Produces the values of scrapes.
pub(super) struct Scraper {
    request: PartRequest<WorkerPart>,
    process: Arc<Process>,
    rounds: SharedRounds<ScrapeState, Figures>,
}

impl Scraper {
    /// A scraper of these workers.
    pub(super) fn new(consoles: Workers<Console>, process: Arc<Process>) -> Self {
        let request = move |worker| {
            let part = |console: &Rc<Console>| {
                let console = console.clone();
                async move { WorkerPart::of(&console).await }
            };
            consoles.question(worker, part).ok()
        };
        Self { request: Box::new(request), process, rounds: Default::default() }
    }

    /// Values no older than this call; concurrent callers share them.
    pub(super) async fn scrape(&self) -> Arc<Figures> {
        self.rounds.result(async |state| self.round(state).await).await
    }

    async fn round(&self, state: &mut ScrapeState) -> Figures {
        let workers = self.process.health.workers();
        let silent = state.workers.collect(workers, &self.request).await;
        state.scrape_errors += silent as u64;
        let all = Snapshot::sum(state.workers.parts().map(|(_, part)| &part.snapshot));
        let listener_expires_at = state.workers.parts().find_map(|(_, part)| part.listener_expires_at);
        let health = &self.process.health;
        let (tokens, credentials) = iam(&self.process.identities, SystemTime::now());
        Figures {
            pools: state.cardinality.bound(all.pools, MAX_NAMED_POOLS),
            logging_in: all.logging_in,
            on_console: all.on_console,
            workers_answered: workers - silent,
            workers_silent: silent,
            scrape_errors: state.scrape_errors,
            logins: LoginFigures::read(&self.process, Instant::now()),
            tokens,
            credentials,
            secrets: secrets(&self.process.secrets, SystemTime::now()),
            worker_cpu: state.workers.parts().map(|(worker, part)| (worker, part.cpu)).collect(),
            paused: paused(state.workers.parts().map(|(_, part)| &part.paused), MAX_NAMED_POOLS),
            listener_left: listener_expires_at.map(|at| (at - unix_seconds(SystemTime::now())) as f64),
            client_logins: self.process.client_counters.logins.read(),
            client_errors: self.process.client_counters.errors.read(),
            session_pins: self.process.session_counters.pins.read(),
            refused_pins: self.process.session_counters.refused.read(),
            sessions_verified: self.process.session_counters.verified(),
            session_mismatches: self.process.session_counters.mismatches(),
            traces_exported: self.process.trace_counters.exported(),
            traces_dropped: self.process.trace_counters.dropped(),
            is_ready: health.is_ready(),
            is_draining: health.is_draining(),
            last_reload: health.last_reload(),
            began_at: health.began_wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::process::ProcessParts;
    use crate::stats::Totals;
    use crate::stats::snapshot::PoolCounts;
    use crate::worker::reactor::EngineKind;
    use crate::worker::workers::WorkerSlot;
    use crate::worker::{self, timers};
    use rds_iam::{AwsCredentials, TokenEngine};
    use std::future::ready;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    static REQUESTS: AtomicU64 = AtomicU64::new(0);

    fn answer() -> WorkerPart {
        let queries = 1 + REQUESTS.fetch_add(1, Ordering::SeqCst);
        let totals = Totals { queries, ..Totals::default() };
        let pools = [(("d".to_owned(), "u".to_owned()), PoolCounts { totals, ..PoolCounts::default() })];
        let snapshot = Snapshot { pools: pools.into(), ..Snapshot::default() };
        WorkerPart { snapshot, ..WorkerPart::default() }
    }

    fn scraper(workers: Workers<()>, control: &tokio::runtime::Handle) -> Scraper {
        let parts = ProcessParts {
            control: control.clone(),
            tokens: TokenEngine::new(AwsCredentials::shared()),
            resolver: None,
            own_endpoints: Vec::new(),
            workers: workers.count(),
            first_login: crate::health_state::FirstLogin::NotNeeded,
        };
        let process = Process::new(&Config::default(), parts).unwrap();
        let request = move |worker| workers.question(worker, |_| ready(answer())).ok();
        Scraper { request: Box::new(request), process, rounds: Default::default() }
    }

    fn queries(figures: &Figures) -> u64 {
        figures.pools.iter().map(|(_, counts)| counts.totals.queries).sum()
    }

    #[test]
    fn a_stuck_worker_is_skipped_reported_and_asked_only_once() {
        let mut all = WorkerSlot::<()>::create(2);
        // The second one does not run: requests to it stay in its queue.
        let (stuck, running) = (all.pop().unwrap(), all.pop().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let scraper = scraper(running.workers(), runtime.handle());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            worker::run(EngineKind::Epoll, async {
                running.serve(Rc::default());
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
        // Both scrapes together have left one request with it.
        let before = REQUESTS.load(Ordering::SeqCst);
        worker::run(EngineKind::Epoll, async {
            stuck.serve(Rc::default());
            timers::sleep(Duration::from_millis(1)).await;
        })
        .unwrap();
        assert_eq!(REQUESTS.load(Ordering::SeqCst) - before, 1);
        // Its late answer is used; for the stopped worker, the last answer.
        let last = runtime.block_on(scraper.scrape());
        assert_eq!((last.workers_silent, queries(&last)), (2, 2 + 3));
    }
}
