//! All databases and pools of a worker. Owns their look-up and creation, and provides what PAUSE and the limits per
//! database and user need to find them.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::shared::SharedPools;
use super::shared_limits::{SharedLimits, longest_idle};
use crate::config::{Config, Database};
use crate::context::Context;
use crate::limits::{Counter, CounterKind};
use crate::parameters::ParameterIds;
use crate::session_functions::DatabaseFunctions;
use crate::stats::Totals;
use crate::worker::{self, notify::Notify, workers::Workers};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

/// A database, by the name that clients use.
pub struct DatabaseState {
    /// The name that clients use.
    pub name: Rc<str>,
    /// Its line, or the fallback's.
    pub line: RefCell<Rc<Database>>,
    /// Created from the `*` line.
    pub is_auto: Cell<bool>,
    /// Its functions that change the session of their caller.
    pub functions: DatabaseFunctions,
    /// Settings that are known not to be reserved for superusers.
    pub settable: RefCell<ParameterIds>,
    /// Open servers of all users, at all workers.
    pub open: Counter,
    /// Logged-in clients, at all workers.
    pub clients: Counter,
    /// PAUSE or KILL of this database is in force.
    pub paused: Cell<bool>,
    /// PAUSE of all databases is in force.
    all_paused: Rc<Cell<bool>>,
    /// DISABLE is in force.
    pub disabled: Cell<bool>,
    /// Its line was removed; it is no longer in the directory.
    pub gone: Cell<bool>,
    /// When it was last in use.
    pub(super) used_at: Cell<Instant>,
    /// Counters of dropped pools.
    pub(super) retired: Cell<Totals>,
    pub(super) pools: RefCell<Vec<Weak<Pool>>>,
}

impl DatabaseState {
    /// True while its clients get no server.
    pub fn is_paused(&self) -> bool {
        self.paused.get() || self.all_paused.get()
    }

    /// Pools of this database.
    pub fn pools(&self) -> Vec<Rc<Pool>> {
        self.pools.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// True if a pool of it opens servers without a client: that of a line with a user and `min_pool_size`.
    pub(super) fn has_minimum(&self, config: &Config) -> bool {
        let line = self.line.borrow();
        let user = line.user.as_ref().filter(|_| !self.is_auto.get());
        user.is_some_and(|user| config.pool_rules(&line, user).min_pool_size > 0)
    }

    /// Of the pools of other users than `user`, the one whose server has been idle longest.
    pub(super) fn longest_idle_except(&self, user: &str) -> Option<Rc<Pool>> {
        longest_idle(self.pools().into_iter().filter(|pool| &*pool.user != user))
    }
}

/// Database and user on the server.
pub(super) type PoolKey = (Rc<str>, Rc<str>);

/// All databases and pools.
pub struct Directory {
    pub(super) context: Rc<Context>,
    pub(super) databases: RefCell<BTreeMap<Rc<str>, Rc<DatabaseState>>>,
    pub(super) pools: RefCell<BTreeMap<PoolKey, Rc<Pool>>>,
    /// The databases of lines that name their user and have a `min_pool_size`.
    pub(super) with_minimum: RefCell<Vec<Rc<DatabaseState>>>,
    /// The pool that was last checked for its use; `None` if all have been.
    pub(super) last_checked: RefCell<Option<PoolKey>>,
    /// The same for databases.
    pub(super) last_database: RefCell<Option<Rc<str>>>,
    /// PAUSE without a name is in force.
    pub paused: Rc<Cell<bool>>,
    /// Notified when a server is released or closed: PAUSE, WAIT_CLOSE and SHUTDOWN wait for that.
    pub changed: Rc<Notify>,
    pub(super) shared_limits: Rc<SharedLimits>,
    /// Notified when a client has left.
    pub client_left: Notify,
}

impl Directory {
    /// The databases of the current configuration.
    pub fn new(context: Rc<Context>, shared_pools: Arc<SharedPools>, workers: Workers<Self>) -> Rc<Self> {
        let directory = Rc::new(Self {
            context,
            databases: RefCell::default(),
            pools: RefCell::default(),
            with_minimum: RefCell::default(),
            last_checked: RefCell::default(),
            last_database: RefCell::default(),
            paused: Rc::default(),
            changed: Rc::default(),
            shared_limits: Rc::new(SharedLimits::new(shared_pools, workers)),
            client_left: Notify::default(),
        });
        let config = directory.context.config();
        for (name, line) in &config.databases {
            directory.add_database(name, Rc::new(line.clone()), false);
        }
        let with_minimum = directory.databases().into_iter().filter(|state| state.has_minimum(&config));
        *directory.with_minimum.borrow_mut() = with_minimum.collect();
        directory
    }

    /// The database with this name, if a client has used it or a line names it.
    pub fn known(&self, name: &str) -> Option<Rc<DatabaseState>> {
        self.databases.borrow().get(name).cloned()
    }

    /// True when a line or the fallback covers the name. Does not register it, since an unauthenticated client can send
    /// any name.
    pub fn covers(&self, name: &str) -> bool {
        self.known(name).is_some() || self.context.config().fallback.is_some()
    }

    /// The database that a client requests, or `None` if no line covers it. Only for authenticated clients.
    pub fn database(&self, name: &str) -> Option<Rc<DatabaseState>> {
        if let Some(known) = self.known(name) {
            return Some(known);
        }
        let config = self.context.config();
        let line = config.fallback.as_ref()?;
        tracing::info!(worker = self.context.worker.index(), "registered new auto-database: {name}");
        Some(self.add_database(name, Rc::new(line.clone()), true))
    }

    pub(super) fn add_database(&self, name: &str, line: Rc<Database>, is_auto: bool) -> Rc<DatabaseState> {
        let name: Rc<str> = name.into();
        let state = Rc::new(DatabaseState {
            line: RefCell::new(line),
            is_auto: Cell::new(is_auto),
            used_at: Cell::new(worker::now()),
            retired: Cell::default(),
            settable: RefCell::default(),
            functions: self.context.process.session_functions.of_database(&name),
            open: self.context.process.limits.counter(CounterKind::DatabaseServers, &name),
            clients: self.context.process.limits.counter(CounterKind::DatabaseClients, &name),
            paused: Cell::new(false),
            all_paused: self.paused.clone(),
            disabled: Cell::new(false),
            gone: Cell::new(false),
            pools: RefCell::default(),
            name: name.clone(),
        });
        self.databases.borrow_mut().insert(name, state.clone());
        state
    }

    /// The pool of a database and a user on the server, created if necessary.
    pub fn pool(&self, database: &Rc<DatabaseState>, user: &str) -> Rc<Pool> {
        let key: PoolKey = (database.name.clone(), user.into());
        let known = self.pools.borrow().get(&key).cloned();
        if let Some(pool) = known {
            if self.is_still_known(&pool) {
                return pool;
            }
            self.drop_pool(&pool);
        }
        let (context, shared_limits) = (self.context.clone(), self.shared_limits.clone());
        let pool = Pool::new(context, database.clone(), key.1.clone(), self.changed.clone(), shared_limits);
        self.shared_limits.add(&pool);
        pool.request_maintenance();
        database.pools.borrow_mut().push(Rc::downgrade(&pool));
        self.pools.borrow_mut().insert(key, pool.clone());
        pool
    }

    /// The pool with these names, if this worker has it.
    pub fn known_pool(&self, database: &str, user: &str) -> Option<Rc<Pool>> {
        self.pools.borrow().get(&(database.into(), user.into())).cloned()
    }

    /// Creates the pools that open servers without a client: those with a forced user and `min_pool_size`.
    pub fn open_minimum(&self) {
        for database in self.with_minimum.borrow().iter().filter(|database| !database.gone.get()) {
            if let Some(user) = &database.line.borrow().user {
                self.pool(database, user);
            }
        }
    }

    /// True if any line names its user.
    pub fn has_named_user(&self) -> bool {
        self.databases
            .borrow()
            .values()
            .any(|database| !database.is_auto.get() && database.line.borrow().user.is_some())
    }

    /// The pools that can log in without a client, created if necessary: those of lines that name their user.
    pub fn pools_without_clients(&self) -> Vec<Rc<Pool>> {
        let lines = self.databases().into_iter().filter(|database| !database.is_auto.get());
        let pools = lines.filter_map(|database| {
            let user = database.line.borrow().user.clone()?;
            Some(self.pool(&database, &user)).filter(|pool| pool.can_log_in_alone())
        });
        pools.collect()
    }

    /// All databases by name.
    pub fn databases(&self) -> Vec<Rc<DatabaseState>> {
        self.databases.borrow().values().cloned().collect()
    }

    /// Number of pools.
    pub fn pool_count(&self) -> u32 {
        self.pools.borrow().len() as u32
    }

    /// All pools by database and user.
    pub fn pools(&self) -> Vec<Rc<Pool>> {
        self.pools.borrow().values().cloned().collect()
    }

    /// Pauses or resumes one database, or all. To resume all does not resume those that were paused one by one.
    pub fn set_paused(&self, database: Option<&Rc<DatabaseState>>, paused: bool) {
        match database {
            Some(database) => database.paused.set(paused),
            None => self.paused.set(paused),
        }
        let chosen = |pool: &Rc<Pool>| database.is_none_or(|d| Rc::ptr_eq(d, &pool.database));
        for pool in self.pools().iter().filter(|pool| chosen(pool)) {
            if paused { pool.close_idle(ServerCloseReason::Paused) } else { pool.serve_waiters() }
        }
    }

    /// Servers of this worker that are being closed because their clients left in the middle of a request.
    pub fn lingering_servers(&self) -> usize {
        self.pools().iter().map(|pool| pool.lingering_servers()).sum()
    }

    /// Servers of this worker that are linked, being reset, logging in or being moved. Those that are being closed do
    /// not count.
    pub fn busy_servers(&self) -> usize {
        self.pools().iter().map(|pool| pool.busy_servers().saturating_sub(pool.lingering_servers())).sum()
    }
}
