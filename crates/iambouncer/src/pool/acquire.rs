//! One pool at one worker: its parts, and how a client gets a server. The most recently used server is used first, so
//! that the others can age and be closed. Owns no state but that of its parts.

use super::arrivals::Arrivals;
use super::canceling::CancelingServers;
use super::checking::ServerChecks;
use super::closing::ServerCloseReason;
use super::directory::DatabaseState;
use super::following::Following;
use super::functions::FunctionChecks;
use super::idle::IdleServers;
use super::lease::Lease;
use super::logins::ServerLogins;
use super::maintenance::Maintenance;
use super::queue::Queue;
use super::rebalancer::Rebalancer;
use super::rules::RulesInForce;
use super::session_rules::SessionRules;
use super::shared::SharedPool;
use super::shared_limits::SharedLimits;
use super::shared_listener::Registry;
use super::startup_response::{KnownParameters, LoginUsers, ServerParameters};
use super::table::ServerTable;
use super::waiter::Waiter;
use crate::client_error::ClientError;
use crate::config::PoolRules;
use crate::context::Context;
use crate::limits::{Counter, CounterKind};
use crate::server::Server;
use crate::stats::Statistics;
use crate::worker;
use crate::worker::notify::Notify;
use sql::Features;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

/// The result of requesting a server.
pub enum Acquired {
    /// A server.
    Server(Lease),
    /// A place in the queue.
    Wait(Waiter),
    /// The request is refused, with the reason.
    Refused(Rc<ClientError>),
}

/// Servers of one database and user. What changes is in parts, each of which owns its state; the files of this module
/// share the parts, not what is in them.
pub struct Pool {
    /// The worker's configuration and shared resources.
    pub context: Rc<Context>,
    /// The database.
    pub database: Rc<DatabaseState>,
    /// User on the server.
    pub user: Rc<str>,
    /// Schema changes made by clients of the database.
    schema_changes: Counter,
    pub(super) rules: RulesInForce,
    pub(super) idle: IdleServers,
    pub(super) canceling: CancelingServers,
    pub(super) checks: ServerChecks,
    pub(super) function_checks: FunctionChecks,
    pub(super) queue: Queue,
    pub(super) arrivals: Arrivals,
    pub(super) logins: ServerLogins,
    pub(super) rebalancer: Rebalancer,
    pub(super) following: Following,
    pub(super) maintenance: Maintenance,
    /// Servers of this worker that are being closed.
    pub(super) lingering: Counter,
    pub(super) known_parameters: KnownParameters,
    /// Reasons for which a client has kept its server.
    noted_pins: Cell<Features>,
    /// Transactions since the state of a server was verified.
    unverified_transactions: Cell<u32>,
    #[cfg(debug_assertions)]
    pub(super) rotation: super::rotation::Rotation,
    /// State shared with the pools of the other workers.
    pub(super) shared: Arc<SharedPool>,
    /// Notified when a server becomes free or is closed.
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
        let rules = RulesInForce::new(&context.config(), &database.line.borrow(), &user);
        let schema_changes = context.process.limits.counter(CounterKind::SchemaChanges, &database.name);
        let checks = ServerChecks::default();
        checks.renew(&context.config().settings, worker::now());
        Rc::new(Self {
            checks,
            function_checks: FunctionChecks::default(),
            idle: IdleServers::new(shared.clone(), context.worker.index()),
            context,
            database,
            user,
            schema_changes,
            rules,
            canceling: CancelingServers::default(),
            queue: Queue::new(worker::now()),
            arrivals: Arrivals::default(),
            logins: ServerLogins::default(),
            rebalancer: Rebalancer::new(shared_limits.workers().clone()),
            following: Following::default(),
            maintenance: Maintenance::default(),
            lingering: Counter::default(),
            known_parameters: KnownParameters::default(),
            noted_pins: Cell::default(),
            unverified_transactions: Cell::default(),
            #[cfg(debug_assertions)]
            rotation: super::rotation::Rotation::new(),
            shared,
            changed,
            shared_limits,
            table: ServerTable::default(),
            stats: Statistics::default(),
        })
    }

    /// Rules in force.
    pub fn rules(&self) -> PoolRules {
        self.rules.current().clone()
    }

    /// Passes the current rules, which apply to a session that begins or requests a server now.
    #[inline]
    pub fn with_session_rules<T>(&self, look: impl FnOnce(&Rc<SessionRules>) -> T) -> T {
        self.rules.with_session(look)
    }

    /// The current rules, if they may differ from `known`.
    #[inline]
    pub fn changed_session_rules(&self, known: &Rc<SessionRules>) -> Option<Rc<SessionRules>> {
        self.rules.changed_session(known)
    }

    /// True if a client keeps its server for one of these reasons for the first time.
    pub fn note_pin(&self, features: Features) -> bool {
        let mut noted = self.noted_pins.get();
        noted.add(features);
        self.noted_pins.replace(noted) != noted
    }

    /// True once in `every` calls.
    pub fn is_verified_now(&self, every: u32) -> bool {
        let count = self.unverified_transactions.get() + 1;
        let is_due = count >= every;
        self.unverified_transactions.set(if is_due { 0 } else { count });
        is_due
    }

    /// The clients that share one connection for their notifications.
    pub fn listener_registry(&self) -> &Arc<Registry> {
        &self.shared.listener
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
        let users = LoginUsers::of(&self.database.line.borrow());
        self.known_parameters.get(&self.context.parameters, &self.shared, users)
    }

    /// Requests a server for the client with this id.
    #[inline]
    pub fn acquire_for(self: &Rc<Self>, client_id: u64) -> Acquired {
        #[cfg(debug_assertions)]
        return self.acquire_other(client_id);
        #[cfg(not(debug_assertions))]
        {
            let _ = client_id;
            self.acquire()
        }
    }

    /// Requests a server.
    pub fn acquire(self: &Rc<Self>) -> Acquired {
        if !self.database.is_paused() {
            if self.queue.is_empty()
                && let Some(server) = self.take_idle()
            {
                if !self.checks.is_due(&server) && !self.must_check_functions() {
                    return Acquired::Server(Lease::new(self, server));
                }
                self.check(server);
                self.request_maintenance();
                return Acquired::Wait(self.queue.join(worker::now()));
            }
            if let Some(error) = self.refusal_for(worker::now()) {
                return Acquired::Refused(error);
            }
        }
        let waiter = self.queue.join(worker::now());
        self.request_maintenance();
        self.serve_waiters();
        Acquired::Wait(waiter)
    }

    /// The most recently used idle server that is usable; unusable ones are closed.
    pub(super) fn take_idle(&self) -> Option<Box<Server>> {
        loop {
            let mut server = self.pop_idle()?;
            if server.is_fit(&self.context.parameters) {
                return Some(server);
            }
            self.close(server, ServerCloseReason::Died);
        }
    }

    /// The idle server that is used next.
    #[inline]
    fn pop_idle(&self) -> Option<Box<Server>> {
        #[cfg(debug_assertions)]
        if let Some(server) = self.take_other() {
            return server;
        }
        if self.rules.uses_oldest_first() { self.idle.pop_oldest() } else { self.idle.pop_newest() }
    }

    /// Closes the server that has been idle longest, to make room for another one. True if there was one.
    pub(super) fn close_oldest_idle(&self, reason: ServerCloseReason) -> bool {
        let oldest = self.idle.pop_oldest();
        oldest.map(|server| self.close(server, reason)).is_some()
    }

    /// Gives idle servers to waiting clients, those that have to be checked after the check, and opens more if needed.
    pub fn serve_waiters(self: &Rc<Self>) {
        while !self.database.paused.get() && self.has_unserved_waiters() {
            match self.take_idle() {
                Some(server) if self.checks.is_due(&server) => self.check(server),
                Some(server) => self.assign_or_keep(server),
                None => break,
            }
        }
        self.connect_for_waiters();
    }

    /// Since when the first client waits, whether for a server or for its startup response.
    pub fn first_waiting_since(&self) -> Option<Instant> {
        self.queue.waiting_since().into_iter().chain(self.arrivals.first()).min()
    }

    /// Closes all idle servers.
    pub fn close_idle(&self, reason: ServerCloseReason) {
        let idle = self.idle.take_all();
        for server in idle {
            self.close(server, reason);
        }
    }
}
