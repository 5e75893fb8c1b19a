//! One pool: its idle servers, its waiters, and the assignment of servers to waiters. Owns the order of both: waiters
//! are served first come, first served; the most recently used server is used first, so that the others can age and be
//! closed.

use super::arrivals::Arrivals;
use super::directory::DatabaseState;
use super::idle::IdleServers;
use super::lease::Lease;
use super::lingering::UnfinishedWork;
use super::session_rules::SessionRules;
use super::shared::SharedPool;
use super::shared_limits::SharedLimits;
use super::startup_response::ServerParameters;
use super::table::ServerTable;
use super::waiter::{QueuePlace, Waiter};
use crate::auth::scram::keys::ClientKeys;
use crate::client_error::ClientError;
use crate::config::PoolRules;
use crate::context::Context;
use crate::limits::{Counter, CounterKind};
use crate::server::{Activity, Server};
use crate::stats::Statistics;
use crate::worker::notify::Notify;
use crate::worker::{self, executor};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The result of requesting a server.
pub enum Acquired {
    /// A server.
    Server(Lease),
    /// A place in the queue.
    Wait(Waiter),
    /// The request is refused, with the reason.
    Refused(Rc<ClientError>),
}

/// Servers of one database and user.
pub struct Pool {
    /// The worker's configuration and shared resources.
    pub context: Rc<Context>,
    /// The database.
    pub database: Rc<DatabaseState>,
    /// User on the server.
    pub user: Rc<str>,
    pub(super) rules: RefCell<PoolRules>,
    /// Schema changes made by clients of the database.
    schema_changes: Counter,
    /// Derived from the settings; a new allocation after every RELOAD and SET.
    pub(super) session_rules: RefCell<Rc<SessionRules>>,
    /// `server_round_robin`.
    pub(super) round_robin: Cell<bool>,
    /// `server_lifetime = 0`.
    pub(super) uses_once: Cell<bool>,
    pub(super) idle: IdleServers,
    /// Free servers for which a cancel request is under way.
    pub(super) canceling: RefCell<VecDeque<Box<Server>>>,
    pub(super) waiters: RefCell<VecDeque<Rc<QueuePlace>>>,
    pub(super) arrivals: Arrivals,
    /// When a server last became free.
    pub(super) freed_at: Cell<Instant>,
    /// State shared with the pools of the other workers.
    pub(super) shared: Arc<SharedPool>,
    pub(super) logins: Cell<usize>,
    /// Duration of the last login.
    pub(super) last_login: Cell<Duration>,
    /// Servers of this worker that are being closed.
    pub(super) lingering: Cell<usize>,
    /// Servers being moved to other workers.
    pub(super) outgoing: Cell<usize>,
    pub(super) retry_armed: Cell<bool>,
    /// True while a task retries for the waiting clients at short intervals.
    pub(super) is_retrying: Cell<bool>,
    /// When another worker was last asked to make room in the database, and which one, relative to this worker.
    pub(super) room_requested_at: Cell<Option<Instant>>,
    pub(super) room_requested_from: Cell<usize>,
    pub(super) next_host: Cell<usize>,
    /// The generation of host addresses that this pool has checked its servers against.
    pub(super) address_changes: Cell<u64>,
    /// `None` until this worker has needed the server parameters.
    pub(super) server_parameters: RefCell<Option<Rc<ServerParameters>>>,
    /// Notified when a login finishes, successfully or not.
    pub login_ended: Notify,
    pub(super) changed: Rc<Notify>,
    /// The other pools of this worker.
    pub(super) shared_limits: Rc<SharedLimits>,
    /// Open servers.
    pub table: ServerTable,
    /// Counters.
    pub stats: Statistics,
}

impl Pool {
    pub(super) fn new(
        context: Rc<Context>,
        database: Rc<DatabaseState>,
        user: Rc<str>,
        changed: Rc<Notify>,
        shared_limits: Rc<SharedLimits>,
    ) -> Rc<Self> {
        let shared = shared_limits.shared_pools().pool(&context.process.limits, &database.name, &user);
        let config = context.config();
        let rules = config.pool_rules(&database.line.borrow(), &user);
        let schema_changes = context.process.limits.counter(CounterKind::SchemaChanges, &database.name);
        Rc::new(Self {
            round_robin: Cell::new(config.settings.server_round_robin),
            uses_once: Cell::new(rules.server_lifetime.is_zero()),
            idle: IdleServers::new(shared.clone(), context.workers.index()),
            context,
            database,
            user,
            session_rules: RefCell::new(Rc::new(SessionRules::new(&config, &rules))),
            rules: RefCell::new(rules),
            schema_changes,
            canceling: RefCell::default(),
            waiters: RefCell::default(),
            arrivals: Arrivals::default(),
            freed_at: Cell::new(worker::now()),
            shared,
            logins: Cell::new(0),
            last_login: Cell::default(),
            lingering: Cell::new(0),
            outgoing: Cell::new(0),
            retry_armed: Cell::new(false),
            is_retrying: Cell::new(false),
            room_requested_at: Cell::new(None),
            room_requested_from: Cell::new(0),
            next_host: Cell::new(0),
            address_changes: Cell::new(0),
            server_parameters: RefCell::default(),
            login_ended: Notify::default(),
            changed,
            shared_limits,
            table: ServerTable::default(),
            stats: Statistics::default(),
        })
    }

    /// Rules in force.
    pub fn rules(&self) -> PoolRules {
        self.rules.borrow().clone()
    }

    /// Passes the current rules, which apply to a session that begins or requests a server now.
    #[inline]
    pub fn with_session_rules<T>(&self, look: impl FnOnce(&Rc<SessionRules>) -> T) -> T {
        look(&self.session_rules.borrow())
    }

    /// The current rules, if they may differ from `known`.
    #[inline]
    pub fn changed_session_rules(&self, known: &Rc<SessionRules>) -> Option<Rc<SessionRules>> {
        let rules = self.session_rules.borrow();
        (!Rc::ptr_eq(&rules, known)).then(|| rules.clone())
    }

    /// Changes whenever a client changes the database's schema.
    pub fn schema_version(&self) -> u32 {
        self.schema_changes.taken()
    }

    /// Records that a client has changed the database's schema: earlier prepared statements may be outdated.
    pub fn schema_changed(&self) {
        self.schema_changes.advance();
    }

    /// Server parameters, once a server has logged in.
    pub fn server_parameters(&self) -> Option<Rc<ServerParameters>> {
        if self.server_parameters.borrow().is_none() {
            let reports = self.shared.server_parameters()?;
            *self.server_parameters.borrow_mut() =
                Some(ServerParameters::new(&self.context.parameters, reports));
        }
        self.server_parameters.borrow().clone()
    }

    /// Keeps the keys derived from a client's login for logins to the server.
    pub fn learn_scram_keys(&self, keys: ClientKeys) {
        self.shared.set_scram_keys(keys);
    }

    /// Requests a server.
    pub fn acquire(self: &Rc<Self>) -> Acquired {
        if !self.database.paused.get() {
            if self.waiters.borrow().is_empty()
                && let Some(server) = self.take_idle()
            {
                return Acquired::Server(Lease::new(self, server));
            }
            if let Some(error) = self.refusal_for(worker::now()) {
                return Acquired::Refused(error);
            }
        }
        let place = QueuePlace::new(worker::now());
        self.waiters.borrow_mut().push_back(place.clone());
        self.connect_for_waiters();
        Acquired::Wait(Waiter::new(place))
    }

    /// The most recently used idle server that is usable; unusable ones are closed.
    pub(super) fn take_idle(&self) -> Option<Box<Server>> {
        loop {
            let mut server =
                if self.round_robin.get() { self.idle.pop_oldest() } else { self.idle.pop_newest() }?;
            if server.is_fit(&self.context.parameters) {
                return Some(server);
            }
            self.close(server);
        }
    }

    /// Takes a server back from a client.
    pub(super) fn release(self: &Rc<Self>, server: Box<Server>) {
        let now = worker::now();
        server.info.touched_at.set(now);
        self.freed_at.set(now);
        if self.uses_once.get() {
            return self.retire(server);
        }
        self.admit(server, now);
    }

    /// Gives a free server to the client that has waited longest, or adds it to the idle servers.
    pub(super) fn admit(self: &Rc<Self>, server: Box<Server>, now: Instant) {
        let info = &server.info;
        info.client_id.set(0);
        info.activity.set(Activity::Idle);
        let is_too_old = info.facts.retire_at.is_some_and(|at| at <= now);
        if info.close_needed.get() || is_too_old || self.is_above_size() {
            return self.retire(server);
        }
        if info.cancels_in_flight.get() > 0 {
            info.activity.set(Activity::BeingCanceled);
            server.stream.clear_waker();
            self.canceling.borrow_mut().push_back(server);
            return;
        }
        if self.database.paused.get() {
            self.close(server);
            return;
        }
        self.assign_or_keep(server);
    }

    /// Closes a server that must not be used again, then serves the waiters or opens a replacement.
    fn retire(self: &Rc<Self>, server: Box<Server>) {
        let info = server.info.clone();
        let is_surplus = self.is_above_size();
        self.close(server);
        self.connect_for_waiters();
        if !is_surplus && !info.close_needed.get() {
            self.replace(&info);
        }
    }

    pub(super) fn assign_or_keep(self: &Rc<Self>, mut server: Box<Server>) {
        if self.is_needed_elsewhere() {
            match self.donate_if_fair(server) {
                Ok(()) => return,
                Err(back) => server = back,
            }
        }
        if self.shared_limits.claim_with_precedence(self, Self::waiting_since).is_some() {
            return self.close(server);
        }
        loop {
            let Some(waiter) = self.waiters.borrow_mut().pop_front() else { break };
            match waiter.grant(self, server) {
                Ok(()) => return,
                Err(back) => server = back,
            }
        }
        self.keep(server);
    }

    /// Adds a server to the idle ones.
    pub(super) fn keep(&self, server: Box<Server>) {
        debug_assert!(server.info.client_id.get() == 0, "an idle server has no client");
        debug_assert!(server.info.cancels_in_flight.get() == 0, "a cancel request would hit the next client");
        debug_assert!(!server.info.close_needed.get(), "a server that has to be closed is not kept");
        server.stream.clear_waker();
        self.idle.push(server);
        self.changed.notify_all();
    }

    /// Takes back a server whose session state may be dirty: it runs the reset query first.
    pub(super) fn release_dirty(self: &Rc<Self>, server: Box<Server>) {
        let settings = self.context.config();
        let sql = settings.settings.server_reset_query.clone();
        if sql.is_empty() || self.uses_once.get() {
            return self.release(server);
        }
        server.info.client_id.set(0);
        if server.info.cancels_in_flight.get() > 0 {
            // A cancel request would hit the reset query itself.
            return self.abandon(server, UnfinishedWork { owes_answers: false, between_messages: true });
        }
        server.info.activity.set(Activity::Tested);
        let pool = self.clone();
        let mut lease = Lease::new(self, server);
        executor::spawn(async move {
            let limit = pool.context.config().settings.server_connect_timeout;
            let run = crate::server::reset::run(&mut lease, &pool.context.parameters, &sql);
            let clean = worker::timers::timeout(limit, run).await.unwrap_or(false);
            if clean {
                return lease.release();
            }
            // Its state is unknown, so dropping the lease closes it.
            tracing::warn!(database = %pool.database.name, user = %pool.user, "server_reset_query failed");
        });
    }

    pub(super) fn close(&self, server: Box<Server>) {
        server.close();
        self.context.process.limits.note_closed(worker::now());
        self.changed.notify_all();
        self.shared_limits.retry_claims();
    }

    /// Closes the server that has been idle longest, to make room for another pool. True if there was one.
    pub(super) fn close_oldest_idle(&self) -> bool {
        let oldest = self.idle.pop_oldest();
        oldest.map(|server| self.close(server)).is_some()
    }

    /// Called when a cancel request is done: servers that only waited for it are free.
    pub fn cancel_ended(self: &Rc<Self>) {
        let (busy, free): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut *self.canceling.borrow_mut())
            .into_iter()
            .partition(|server| server.info.cancels_in_flight.get() > 0);
        *self.canceling.borrow_mut() = busy;
        for server in free {
            self.release(server);
        }
        // The request kept its server in the table, even if the server has been closed meanwhile.
        self.changed.notify_all();
    }

    /// Gives idle servers to waiting clients (after RESUME) and opens more if needed.
    pub fn serve_waiters(self: &Rc<Self>) {
        while self.has_waiters() {
            match self.take_idle() {
                Some(server) => self.assign_or_keep(server),
                None => break,
            }
        }
        self.connect_for_waiters();
    }

    /// True when a client waits; waiters that have left are removed from the front.
    pub(super) fn has_waiters(&self) -> bool {
        let mut waiters = self.waiters.borrow_mut();
        while waiters.front().is_some_and(|waiter| !waiter.is_waiting()) {
            waiters.pop_front();
        }
        !waiters.is_empty()
    }

    /// The number of waiting clients, and since when the first of them waits.
    pub fn waiting(&self) -> (usize, Option<Instant>) {
        let waiters = self.waiters.borrow();
        let mut present = waiters.iter().filter(|waiter| waiter.is_waiting());
        let oldest = present.next().map(|waiter| waiter.since);
        (oldest.map_or(0, |_| 1 + present.count()), oldest)
    }

    /// The number of waiting clients, at most `limit`, which is all that opening servers needs.
    pub(super) fn waiting_up_to(&self, limit: usize) -> usize {
        self.waiters.borrow().iter().filter(|waiter| waiter.is_waiting()).take(limit).count()
    }

    /// Since when the first client in the queue waits.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiters.borrow().iter().find(|waiter| waiter.is_waiting()).map(|waiter| waiter.since)
    }

    /// Since when the first client waits, whether for a server or for its startup response.
    pub fn first_waiting_since(&self) -> Option<Instant> {
        self.waiting_since().into_iter().chain(self.arrivals.first()).min()
    }

    /// Closes all idle servers (PAUSE, KILL).
    pub fn close_idle(&self) {
        let idle = self.idle.take_all();
        for server in idle {
            self.close(server);
        }
    }
}
