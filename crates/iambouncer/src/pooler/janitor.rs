//! The sweep a few times a second: pools, client timeouts, averages. Owns every time limit that has no timer of its
//! own, so that a query needs none.

use super::history::HistoryReporter;
use super::memory::HighWaterMark;
use crate::client_error::{self, ClientError};
use crate::clients::{self, ClientInfo, ClientState};
use crate::config::{Config, UserOverrides};
use crate::lifecycle::Phase;
use crate::pool::Pool;
use crate::stats::Totals;
use crate::worker::{self, timers, upkeep};
use crate::worker_state::Worker;
use sql::Feature;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Time between two sweeps, which is the resolution of all time limits of clients and pools.
const PERIOD: Duration = Duration::from_millis(200);
/// Time between two checks whether `auth_file` has changed.
const USERS_PERIOD: Duration = Duration::from_secs(1);

/// Idle clients that are checked for `client_idle_timeout` in a sweep: with more of them, it takes several sweeps to check
/// all, and a sweep never takes a millisecond.
const CHECKED_PER_SWEEP: usize = 1000;
/// Pools, and databases, that are checked for their last use in a sweep …
const POOLS_PER_SWEEP: usize = 20;
/// … or as many that all have been checked after this number of sweeps, five minutes: by default they are forgotten after an hour.
const SWEEPS_FOR_ALL_POOLS: usize = 1500;
/// Periods of the averages for which a worker without work continues to sweep, so that its averages become 0.
const PERIODS_WITHOUT_WORK: u32 = 2;
/// Longest sleep of a worker without work. Its idle clients count as a use of their pools, and pools are forgotten.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Part of the shortest time after which a pool is forgotten for which a worker sleeps at most.
const SLEEP_PARTS: u32 = 4;

/// What the sweeps of a worker remember.
struct Janitor {
    worker: Rc<Worker>,
    clients: HighWaterMark,
    pools: HighWaterMark,
    period_began: Instant,
    users_checked: Instant,
    /// Periods that have to end before the worker may sleep.
    periods_left: u32,
    /// The slot of the idle client that is checked next.
    next_client: u32,
    history: HistoryReporter,
}

/// Sweeps until the process exits; a worker without work sleeps.
pub(super) async fn run(worker: Rc<Worker>) {
    let now = worker::now();
    let mut janitor = Janitor {
        history: HistoryReporter::new(worker.clone()),
        worker,
        clients: HighWaterMark::default(),
        pools: HighWaterMark::default(),
        period_began: now,
        users_checked: now,
        periods_left: 0,
        next_client: 0,
    };
    loop {
        janitor.sweep().await;
        if janitor.periods_left == 0 && janitor.history.is_complete() && has_no_work(&janitor.worker) {
            timers::timeout(janitor.longest_sleep(), upkeep::requested()).await;
            janitor.history.resume();
        } else {
            timers::sleep(PERIOD).await;
        }
    }
}

/// How many of this number of pools are checked in a sweep.
fn pools_per_sweep(count: usize) -> usize {
    POOLS_PER_SWEEP.max(count.div_ceil(SWEEPS_FOR_ALL_POOLS))
}

/// True if the periodic tasks of this worker have nothing to do. The first worker has tasks for the process.
pub(super) fn has_no_work(worker: &Worker) -> bool {
    worker.context.worker.index() != 0
        && worker.directory.needs_no_maintenance()
        && clients::none_is_busy()
        && worker.context.auth_connections.is_empty()
        && worker.lifecycle.phase() == Phase::Running
}

impl Janitor {
    async fn sweep(&mut self) {
        let worker = self.worker.clone();
        if !has_no_work(&worker) {
            self.periods_left = PERIODS_WITHOUT_WORK;
        }
        // Before pools are created that have no server yet.
        worker.directory.forget_unused(pools_per_sweep(worker.directory.pool_count() as usize));
        worker.directory.open_minimum();
        super::first_login::try_login(&worker);
        worker.directory.maintain().await;
        self.free_memory();
        let config = worker.context.config();
        let idle_timeout = config.settings.server_idle_timeout;
        worker.context.auth_connections.close_unused(idle_timeout, &config, worker::now());
        if worker.context.worker.index() == 0 {
            self.sweep_process(&config).await;
        }
        self.check_clients(&config);
        self.history.report_if_due().await;
        if worker::now() - self.period_began >= config.settings.stats_period {
            self.period_began = worker::now();
            self.periods_left = self.periods_left.saturating_sub(1);
            end_period(&worker, &config).await;
        }
    }

    fn longest_sleep(&self) -> Duration {
        match self.worker.directory.time_to_forget() {
            Duration::ZERO => MAX_SLEEP,
            time => (time / SLEEP_PARTS).clamp(PERIOD, MAX_SLEEP),
        }
    }

    fn free_memory(&self) {
        let context = &self.worker.context;
        let have_clients_left =
            context.worker.index() == 0 && self.clients.is_low(context.process.limits.clients.taken());
        if have_clients_left || self.pools.is_low(self.worker.directory.pool_count()) {
            tracing::debug!("returning free memory to the system: most clients or pools are gone");
            context.process.control.spawn_blocking(super::memory::trim);
        }
    }

    /// What one worker does for the process.
    async fn sweep_process(&mut self, config: &Config) {
        let context = &self.worker.context;
        let process = &context.process;
        process.host_names.look_up_again(&process.control, &context.name_sources(), context.cache_times());
        if let Some((name, _)) = config.settings.peers_by_name() {
            process.peer_addresses.keep_up_to_date(&process.control, &context.name_sources(), name);
        }
        for (kind, left_out) in process.log_limit.overdue(worker::now()) {
            tracing::warn!(kind, left_out, "suppressed log lines about connections that have not logged in");
        }
        if worker::now() - self.users_checked >= USERS_PERIOD {
            self.users_checked = worker::now();
            self.worker.console.reread_users().await;
        }
    }

    /// Enforces the time limits of clients: of those that have or wait for a server, and of a part of the idle ones.
    fn check_clients(&mut self, config: &Config) {
        let is_closing = self.worker.lifecycle.phase() == Phase::WaitForServers;
        clients::visit_busy(|client| {
            client.check_end();
            if is_wait_long(config, client) {
                client.notify_of_wait();
            }
            if let Some(fault) = overdue(config, client) {
                client.kill(fault);
            } else if is_closing && client.state.get() == ClientState::Waiting {
                client.kill(client_error::shutting_down());
            }
        });
        let has_idle_limit = !config.settings.client_idle_timeout.is_zero()
            || config.users.values().any(|user| user.client_idle_timeout.is_some());
        if has_idle_limit {
            let next = self.worker.clients.visit_from(self.next_client, CHECKED_PER_SWEEP, |client| {
                if client.state.get() == ClientState::Idle
                    && let Some(fault) = overdue(config, client)
                {
                    client.kill(fault);
                }
            });
            self.next_client = next.unwrap_or_default();
        }
    }
}

fn elapsed(limit: Duration, since: Option<Instant>) -> bool {
    !limit.is_zero() && since.is_some_and(|at| worker::now() - at >= limit)
}

/// True if a client waits for a server since `query_wait_notify`.
fn is_wait_long(config: &Config, client: &ClientInfo) -> bool {
    client.state.get() == ClientState::Waiting
        && elapsed(config.settings.query_wait_notify, client.timing.get().query_at)
}

/// True if a client keeps a server that has to be closed, between two transactions.
fn delays_closing(client: &ClientInfo) -> bool {
    let timing = client.timing.get();
    timing.query_at.is_none()
        && timing.transaction_at.is_none()
        && client.server().is_some_and(|server| server.close_needed.get())
}

/// True if a client has kept its server for this time without using it, outside of transactions. A client that listens
/// waits for notifications.
fn is_idly_pinned(client: &ClientInfo, limit: Duration) -> bool {
    let (pins, timing) = (client.pins(), client.timing.get());
    !pins.is_empty()
        && !pins.contains(Feature::Listen)
        && timing.transaction_at.is_none()
        && elapsed(limit, Some(timing.quiet_since))
}

/// The limit that a client has exceeded, if any.
fn overdue(config: &Config, client: &ClientInfo) -> Option<ClientError> {
    let pool = client.pool.get()?;
    let timing = client.timing.get();
    let settings = &config.settings;
    let no_overrides = UserOverrides::default();
    let user = config.users.get(&*client.identity().user).unwrap_or(&no_overrides);
    let query = user.query_timeout.unwrap_or(settings.query_timeout);
    match client.state.get() {
        ClientState::Login => None,
        // The time of a query includes its wait for a server.
        ClientState::Waiting if elapsed(query, timing.query_at) => {
            Some(client_error::query_timeout_in_wait())
        }
        ClientState::Waiting => {
            elapsed(pool.rules().query_wait_timeout, timing.query_at).then(client_error::query_wait_timeout)
        }
        ClientState::Idle => {
            let limit = user.client_idle_timeout.unwrap_or(settings.client_idle_timeout);
            elapsed(limit, Some(timing.quiet_since)).then(client_error::client_idle_timeout)
        }
        ClientState::Active => {
            let transaction = user.transaction_timeout.unwrap_or(settings.transaction_timeout);
            let idle = user.idle_transaction_timeout.unwrap_or(settings.idle_transaction_timeout);
            let is_between_queries = timing.query_at.is_none();
            if elapsed(query, timing.query_at) {
                Some(client_error::query_timeout())
            } else if elapsed(transaction, timing.transaction_at) {
                Some(client_error::transaction_timeout())
            } else if is_between_queries
                && timing.transaction_at.is_some()
                && elapsed(idle, Some(timing.quiet_since))
            {
                Some(client_error::idle_transaction_timeout())
            } else if is_between_queries && is_idly_pinned(client, settings.pin_idle_timeout) {
                Some(client_error::pin_idle_timeout(&client.pin_reasons()))
            } else if settings.server_fast_close && delays_closing(client) {
                Some(client_error::configuration_changed())
            } else {
                None
            }
        }
    }
}

/// Ends a period of the averages. The first worker logs them for all.
async fn end_period(worker: &Worker, config: &Config) {
    worker.directory.visit_pools(CHECKED_PER_SWEEP, |pool| pool.stats.mark()).await;
    worker.console.statistics.mark();
    worker.console.periods.end(worker::now());
    if !config.settings.log_stats || worker.context.worker.index() != 0 {
        return;
    }
    let parts = worker.workers.ask_all(|worker| {
        let worker = worker.clone();
        async move {
            let mut sum = Totals::default();
            let add = |pool: Rc<Pool>| sum = sum + pool.stats.last_period();
            worker.directory.visit_pools(CHECKED_PER_SWEEP, add).await;
            sum
        }
    });
    let last = parts.await.into_iter().fold(Totals::default(), |a, b| a + b);
    let average = last.averaged(config.settings.stats_period);
    tracing::info!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, in {} B/s, \
         out {} B/s, xact {} us, query {} us, wait {} us",
        average.transactions,
        average.queries,
        average.client_parses,
        average.server_parses,
        average.binds,
        average.received_bytes,
        average.sent_bytes,
        average.transaction_us,
        average.query_us,
        average.wait_us,
    );
}
