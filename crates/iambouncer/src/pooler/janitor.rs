//! The sweep a few times a second: pools, client timeouts, averages. Owns every time limit that has no timer of its
//! own, so that a query needs none.

use super::memory::HighWaterMark;
use crate::client_error::{self, ClientError};
use crate::clients::{ClientInfo, ClientState};
use crate::config::{Config, UserOverrides};
use crate::lifecycle::Phase;
use crate::stats::Totals;
use crate::worker::{self, timers};
use crate::worker_state::Worker;
use std::future::ready;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Time between two sweeps, which is the resolution of all time limits of clients and pools.
const PERIOD: Duration = Duration::from_millis(200);
/// Time between two checks whether `auth_file` has changed.
const USERS_PERIOD: Duration = Duration::from_secs(1);

/// Sweeps until the process exits.
pub(super) async fn run(worker: Rc<Worker>) {
    let mut period_began = worker::now();
    let (clients, pools) = (HighWaterMark::default(), HighWaterMark::default());
    let mut users_checked = worker::now();
    loop {
        // Before pools are created that have no server yet.
        worker.directory.forget_unused();
        worker.directory.open_minimum();
        super::first_login::try_login(&worker);
        for pool in worker.directory.pools() {
            pool.maintain();
        }
        let have_clients_left = worker.context.worker.index() == 0
            && clients.is_low(worker.context.process.limits.clients.taken());
        if have_clients_left || pools.is_low(worker.directory.pool_count()) {
            tracing::debug!("returning free memory to the system: most clients or pools are gone");
            worker.context.process.control.spawn_blocking(super::memory::trim);
        }
        let config = worker.context.config();
        let idle_timeout = config.settings.server_idle_timeout;
        worker.context.auth_connections.close_unused(idle_timeout, &config, worker::now());
        if worker.context.worker.index() == 0 {
            let context = &worker.context;
            let process = &context.process;
            process.host_names.look_up_again(
                &process.control,
                &context.name_sources(),
                context.cache_times(),
            );
            if let Some((name, _)) = config.settings.peers_by_name() {
                process.peer_addresses.keep_up_to_date(&process.control, &context.name_sources(), name);
            }
            for (kind, left_out) in process.log_limit.overdue(worker::now()) {
                tracing::warn!(
                    kind,
                    left_out,
                    "suppressed log lines about connections that have not logged in"
                );
            }
        }
        if worker.context.worker.index() == 0 && worker::now() - users_checked >= USERS_PERIOD {
            users_checked = worker::now();
            worker.console.reread_users().await;
        }
        for client in worker.clients.list() {
            client.check_end();
            if is_wait_long(&config, &client) {
                client.notify_of_wait();
            }
            if let Some(fault) = overdue(&config, &client) {
                client.kill(fault);
            } else if worker.lifecycle.phase() == Phase::WaitForServers
                && client.state.get() == ClientState::Waiting
            {
                client.kill(client_error::shutting_down());
            }
        }
        if worker::now() - period_began >= config.settings.stats_period {
            period_began = worker::now();
            end_period(&worker, &config).await;
        }
        timers::sleep(PERIOD).await;
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
    for pool in worker.directory.pools() {
        pool.stats.mark();
    }
    worker.console.statistics.mark();
    worker.console.periods.end(worker::now());
    if !config.settings.log_stats || worker.context.worker.index() != 0 {
        return;
    }
    let parts = worker.workers.ask_all(|worker| {
        let pools = worker.directory.pools();
        ready(pools.iter().map(|pool| pool.stats.last_period()).fold(Totals::default(), |a, b| a + b))
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
