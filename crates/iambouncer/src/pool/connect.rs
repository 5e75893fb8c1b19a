//! Opening servers: how many, when, and what a failure means for waiting clients. Owns the login tasks; the limits are
//! in `places`, the login itself in [`crate::server::login`].

use super::acquire::Pool;
use super::logins::MAX_PARALLEL_LOGINS;
use super::places::{Eviction, Full};
use super::replacement::Replacement;
use super::shared::RecentFailure;
use super::startup_response::{LoginUsers, ServerParameters};
use crate::client_identity::Replication;
use crate::config::{Database, Host, ServerAuth};
use crate::health_state::FirstLogin;
use crate::limits::Permit;
use crate::net::{Endpoint, connection_id};
use crate::server::connect::Route;
use crate::server::login::LoginResult;
use crate::server::progress::Progress;
use crate::server::target::{LoginTarget, is_scram_secret};
use crate::server::{Diagnosis, LoginError, Server, ServerFacts, ServerInfo};
use crate::stats::last_failures::FailedLogin;
use crate::worker::{self, executor, timers};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

/// SQLSTATE for exceeding a connection limit of PostgreSQL: of the role, the database or the server.
const TOO_MANY_CONNECTIONS: &str = "53300";
/// PostgreSQL takes a moment to end a session whose connection was closed, …
const CLOSING_LIMIT: Duration = Duration::from_secs(1);
/// … so a login that is refused within that time is retried after this pause, which grows each time, …
const CLOSING_PAUSE: Duration = Duration::from_millis(10);
/// … at most this many times.
const MAX_TRIES_WHILE_CLOSING: u32 = 5;
/// Why a server is not used although it has accepted the login.
const FUNCTIONS_UNREAD: &str = "the connection failed while the functions of the database were read";
/// The lifetime of each server is reduced by a random share of up to this much, so that servers do not all expire at
/// once.
const LIFETIME_SPREAD: f64 = 0.2;

impl Pool {
    /// Starts as many logins as waiting clients need and limits allow.
    pub(super) fn connect_for_waiters(self: &Rc<Self>) {
        if self.database.is_paused() || !self.queue.has_waiters() {
            return;
        }
        loop {
            let (logins, checks) = (self.logins.under_way(), self.checks.under_way());
            if logins > 0 && self.shared.has_failed() {
                // The next ones begin when it has succeeded.
                break;
            }
            let unserved = self.queue.waiting_up_to(MAX_PARALLEL_LOGINS + checks).saturating_sub(checks);
            if logins >= unserved {
                break;
            }
            if let Some(until) = self.backs_off_until() {
                self.retry_at(until);
                break;
            }
            match self.take_permits(self.size_now(), Eviction::Allowed) {
                Ok(permits) => self.start_login(permits),
                Err(full) => {
                    self.claim(full);
                    return self.handle_shortage(full);
                }
            }
        }
        // Logins take time or are suspended: another worker may have a server to spare.
        self.handle_shortage(Full::Pool);
    }

    /// Starts one login even if no client waits, unless `max_open` servers are open: for a startup response, or for
    /// `min_pool_size`.
    fn connect_up_to(self: &Rc<Self>, max_open: u32, eviction: Eviction) {
        if self.logins.under_way() > 0 || self.database.is_paused() {
            return;
        }
        match self.take_permits(max_open, eviction) {
            Ok(permits) => self.start_login(permits),
            Err(full) if eviction == Eviction::Allowed => {
                self.claim(full);
                self.request_room(full);
            }
            Err(_) => {}
        }
    }

    /// Starts a login for a client's startup response if necessary.
    pub fn connect_one(self: &Rc<Self>) {
        if self.backs_off_until().is_none() {
            self.connect_up_to(self.size_now(), Eviction::Allowed);
        }
    }

    /// True if a login does not depend on a client: the keys for SCRAM secrets are derived from a client's login.
    pub fn can_log_in_alone(&self) -> bool {
        let line = self.database.line.borrow();
        let loaded = self.context.loaded();
        self.rules.current().pool_size > 0
            && !self.database.disabled.get()
            && (line.server_auth == ServerAuth::Iam
                || line.secret_arn.is_some()
                || line.password.is_some()
                || !loaded.users.get(&*self.user).is_some_and(|entry| is_scram_secret(&entry.password)))
    }

    /// Opens servers one at a time, up to `min_pool_size`.
    pub(super) fn keep_minimum(self: &Rc<Self>) {
        let minimum = self.rules.current().min_pool_size;
        if self.shared.open.taken() < minimum && !self.database.disabled.get() && !self.is_backing_off() {
            self.connect_up_to(minimum, Eviction::Forbidden);
        }
    }

    pub(super) fn start_login(self: &Rc<Self>, permits: Vec<Permit>) {
        self.start_login_for(permits, None);
    }

    /// As [`start_login`](Self::start_login); with `replacement`, the login replaces another server.
    pub(super) fn start_login_for(self: &Rc<Self>, permits: Vec<Permit>, replacement: Option<Replacement>) {
        self.request_maintenance();
        let under_way = self.logins.begin();
        self.shared_limits.withdraw(self);
        let pool = self.clone();
        executor::spawn(async move {
            let started = worker::now();
            let generation = pool.shared.generation();
            let password_version = pool.shared.password_version();
            let loaded = pool.context.loaded();
            let outcome = pool.log_in().await;
            match outcome {
                Ok(logged_in) => {
                    let touched_at = replacement
                        .as_ref()
                        .map_or_else(|| Rc::new(Cell::new(worker::now())), Replacement::touched_at);
                    let (mut server, server_parameters) =
                        pool.new_server(logged_in, generation, permits, touched_at);
                    let is_usable = pool.check_functions(&mut server).await;
                    drop(under_way);
                    if is_usable {
                        pool.login_succeeded(server, server_parameters, started);
                        if let Some(replacement) = replacement {
                            pool.finish_replacement(replacement);
                        }
                    } else {
                        drop(server);
                        pool.shared_limits.retry_claims();
                        let error = LoginError::BrokenOff(FUNCTIONS_UNREAD.to_owned());
                        pool.login_failed(Progress::default().explain(error), true);
                    }
                }
                Err(error) => {
                    drop(under_way);
                    drop(permits);
                    pool.shared_limits.retry_claims();
                    let is_current = Rc::ptr_eq(&loaded, &pool.context.loaded())
                        && !pool.is_about_previous_password(&error.error, password_version);
                    pool.login_failed(error, is_current);
                }
            }
            pool.logins.notify_ended();
            pool.changed.notify_all();
            pool.connect_for_waiters();
        });
    }

    async fn log_in(self: &Rc<Self>) -> Result<LoginResult, Diagnosis> {
        let mut outcome = self.log_in_to_line(&|_| ()).await;
        for again in 1..=MAX_TRIES_WHILE_CLOSING {
            match &outcome {
                Err(failed) if self.still_counts_closed_server(&failed.error) => {
                    tracing::debug!(user = %self.user, "the limit still counts a closed server, retrying the login");
                }
                _ => break,
            }
            timers::sleep(CLOSING_PAUSE * again).await;
            outcome = self.log_in_to_line(&|_| ()).await;
        }
        outcome
    }

    /// PostgreSQL has refused the connection because of a limit, and a server of this pool was closed a moment ago: its
    /// session may still be counted.
    fn still_counts_closed_server(&self, error: &LoginError) -> bool {
        let is_full = matches!(error, LoginError::Refused { code, .. } if code == TOO_MANY_CONNECTIONS);
        is_full && self.context.process.limits.has_closed_within(CLOSING_LIMIT, worker::now())
    }

    /// The target of the next login, at the host whose turn it is.
    pub(super) fn target(&self, line: &Database) -> Result<LoginTarget, LoginError> {
        let host = self.logins.select_host(line).ok_or_else(|| LoginError::Resolve {
            host: String::new(),
            reason: "no host configured".to_owned(),
        })?;
        Ok(self.target_at(line, &host))
    }

    /// The target of a login at one host of the line.
    pub(super) fn target_at(&self, line: &Database, host: &Host) -> LoginTarget {
        let loaded = self.context.loaded();
        let learned = || self.shared.learned();
        LoginTarget::new(&loaded, line, &self.database.name, &self.user, host, learned)
    }

    fn login_succeeded(
        self: &Rc<Self>,
        server: Server,
        server_parameters: Rc<ServerParameters>,
        started: Instant,
    ) {
        if self.shared.failure().is_some() {
            tracing::info!(
                event = "logins_recovered",
                database = %self.database.name,
                user = %self.user,
                "logins to the server succeed again"
            );
        }
        self.shared.set_failure(None);
        self.follow_writer(&server.info);
        let took = Instant::now() - started;
        self.logins.record_success(took);
        let logins = &self.context.process.logins;
        logins.count_success(took, worker::now());
        logins.last_failures.recover(&self.database.name, &self.user, SystemTime::now());
        self.context.process.health.settle_first_login(FirstLogin::Done);
        self.mark_if_outdated(&server);
        // The parameters of a server of an older configuration are not used for clients.
        if !server.info.close_needed.get() {
            self.adopt_server_parameters(server_parameters);
        }
        self.log_login(&server.info.facts, took);
        self.add_to_table(&server.info);
        self.admit(Box::new(server), worker::now());
    }

    pub(super) fn log_login(&self, facts: &ServerFacts, took: Duration) {
        if !self.context.config().settings.log_connections {
            return;
        }
        let from = match &facts.local {
            Some(local @ Endpoint::Tcp(_)) => format!(" (from {local})"),
            _ => String::new(),
        };
        tracing::info!(
            id = facts.id,
            database = %self.database.name,
            user = %self.user,
            server = %facts.route.endpoint,
            tls = %facts.tls,
            server_pid = facts.pid,
            took_ms = took.as_millis() as u64,
            "new connection to server{from}"
        );
    }

    pub(super) fn new_server(
        self: &Rc<Self>,
        logged_in: LoginResult,
        generation: u64,
        permits: Vec<Permit>,
        touched_at: Rc<Cell<Instant>>,
    ) -> (Server, Rc<ServerParameters>) {
        let LoginResult { stream, route, required, reports, pid, cancel_key } = logged_in;
        let server_parameters = {
            let users = LoginUsers::of(&self.database.line.borrow());
            ServerParameters::new(&self.context.parameters, reports.into(), users)
        };
        let reports = server_parameters.reports.clone();
        let application_name =
            reports.iter().find(|(name, _)| name == "application_name").map(|(_, value)| value.clone());
        let lifetime = self.rules.current().server_lifetime;
        let facts = ServerFacts {
            id: connection_id::next(),
            generation,
            pid,
            cancel_key,
            remote: stream.peer().filter(|_| matches!(route, Route { endpoint: Endpoint::Tcp(_), .. })),
            local: stream.local(),
            route,
            required,
            tls: stream.tls().map(|tls| tls.description()).unwrap_or_default(),
            logged_in_at: worker::now(),
            connected_wall: SystemTime::now(),
            retire_at: (!lifetime.is_zero()).then(|| worker::now() + spread(lifetime)),
            has_replacement: Cell::new(false),
            replication: Replication::No,
            application_name: RefCell::new(application_name.unwrap_or_default()),
        };
        let parameters = server_parameters.parameters.clone();
        let mut server = Server {
            stream,
            parameters,
            reported: crate::parameters::ParameterIds::default(),
            prepared: Default::default(),
            unnamed: Default::default(),
            has_client_names: false,
            last_client: 0,
            info: Rc::new(ServerInfo::new(facts, touched_at)),
            permits,
        };
        server.record_reported(&self.context.parameters, &reports);
        (server, server_parameters)
    }

    fn adopt_server_parameters(&self, server_parameters: Rc<ServerParameters>) {
        let is_first = self.shared.set_server_parameters(server_parameters.reports.clone());
        self.known_parameters.adopt(server_parameters);
        if is_first {
            self.run_on_others(Self::login_ended_elsewhere);
        }
    }

    /// The outcome of a login with an outdated configuration or password is ignored.
    fn login_failed(self: &Rc<Self>, failed: Diagnosis, is_current: bool) {
        let logged_at = self.log_failure_of_line(&failed);
        self.logins.record_failure(&self.database.line.borrow());
        self.forget_verified_password(&failed.error);
        if !is_current {
            return;
        }
        let now = worker::now();
        let since = self.failing_since(now);
        self.shared.set_failure(Some(RecentFailure { at: now, since, logged_at, login: failed }));
        self.reset_replacements();
        self.report_refusals();
        self.run_on_others(Self::login_ended_elsewhere);
    }

    /// Counts a failed login, and logs it unless the same was logged within `server_login_retry`. Returns when it was
    /// logged.
    fn log_failure_of_line(&self, failed: &Diagnosis) -> Instant {
        let now = worker::now();
        let retry = self.context.config().settings.server_login_retry;
        let logged_at = self.shared.failure().and_then(|last| {
            // What hosts are may be found out by several pools in turn.
            let is_same = last.login.error == failed.error
                || last.login.error.is_wrong_role() && failed.error.is_wrong_role();
            let is_logged = is_same && now < last.logged_at + retry;
            is_logged.then_some(last.logged_at)
        });
        match logged_at {
            Some(at) => {
                self.count_failed_login(failed);
                at
            }
            None => {
                self.log_failed_login(failed, &failed.error.close_reason());
                now
            }
        }
    }

    fn count_failed_login(&self, failed: &Diagnosis) {
        let cause = failed.cause.info();
        let logins = &self.context.process.logins;
        logins.count_failure(cause.label, worker::now());
        let last = FailedLogin {
            at: SystemTime::now(),
            endpoint: self.database.line.borrow().endpoint_text(),
            cause: cause.id,
            reason: cause.label,
            message: failed.error.to_string(),
            remedy: failed.hint.clone(),
        };
        logins.last_failures.record(&self.database.name, &self.user, last);
    }

    /// Logs and counts a failed login; `reason` is the one for which the connection is closed.
    pub(super) fn log_failed_login(&self, failed: &Diagnosis, reason: &str) {
        self.count_failed_login(failed);
        let error = failed.error.to_fault();
        let cause = failed.cause.info();
        tracing::error!(
            event = "login_failed",
            database = %self.database.name,
            user = %self.user,
            blame = ?error.blame,
            code = %error.code,
            cause = cause.id,
            reason = cause.label,
            hint = %failed.hint,
            "{}",
            failed.error
        );
        self.log_failed_connection(reason);
    }

    /// PgBouncer's line about a server connection that was closed before it was of use.
    fn log_failed_connection(&self, reason: &str) {
        if !self.context.config().settings.log_disconnections {
            return;
        }
        let line = self.database.line.borrow();
        let host = line.host.first().map(ToString::to_string).unwrap_or_default();
        tracing::info!(
            database = %self.database.name,
            user = %self.user,
            server = %format_args!("{host}:{}", line.port),
            "closing because: {reason} (age=0s)"
        );
    }

    /// Another worker's login to the same target has finished, successfully or not.
    fn login_ended_elsewhere(self: &Rc<Self>) {
        self.report_refusals();
        self.logins.notify_ended();
    }
}

/// A random time between the shortest and the full lifetime.
fn spread(lifetime: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness, all servers get the full lifetime, which is harmless.
    let part = match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    };
    lifetime.mul_f64(1.0 - LIFETIME_SPREAD * (1.0 - part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_lifetimes_do_not_exceed_the_setting() {
        let hour = Duration::from_secs(3600);
        let all: Vec<_> = (0..100).map(|_| spread(hour)).collect();
        assert!(all.iter().all(|life| *life <= hour && *life >= hour.mul_f64(0.79)));
        assert!(all.iter().collect::<std::collections::HashSet<_>>().len() > 50);
    }
}
