//! All databases and pools of a worker. Owns their look-up and creation, and what RELOAD, PAUSE and the limits per
//! database and user need to find them.

use super::acquire::Pool;
use super::shared::SharedPools;
use super::shared_limits::{SharedLimits, longest_idle};
use crate::config::Database;
use crate::context::Context;
use crate::limits::{Counter, CounterKind};
use crate::stats::Totals;
use crate::worker::{self, notify::Notify};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

/// A database as clients name it.
pub struct DatabaseState {
    /// Name clients use.
    pub name: Rc<str>,
    /// Its line, or the fallback's.
    pub line: RefCell<Rc<Database>>,
    /// Made from the `*` line.
    pub is_auto: Cell<bool>,
    /// Servers open, of all users and workers.
    pub open: Counter,
    /// Clients logged in, at all workers.
    pub clients: Counter,
    /// PAUSE is in force.
    pub paused: Cell<bool>,
    /// DISABLE is in force.
    pub disabled: Cell<bool>,
    /// Its line is gone from the file; it is not in the directory any more.
    pub gone: Cell<bool>,
    /// When it was last in use.
    pub(super) used_at: Cell<Instant>,
    /// What pools had counted that were forgotten.
    pub(super) retired: Cell<Totals>,
    pub(super) pools: RefCell<Vec<Weak<Pool>>>,
}

impl DatabaseState {
    /// Pools of this database.
    pub fn pools(&self) -> Vec<Rc<Pool>> {
        self.pools.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Of the pools of users other than `user`, the one whose server has been idle longest.
    pub(super) fn longest_idle_but(&self, user: &str) -> Option<Rc<Pool>> {
        longest_idle(self.pools().into_iter().filter(|pool| &*pool.user != user))
    }
}

/// Database and user on the server.
type PoolKey = (Rc<str>, Rc<str>);

/// All databases and pools.
pub struct Directory {
    pub(super) context: Rc<Context>,
    pub(super) databases: RefCell<BTreeMap<Rc<str>, Rc<DatabaseState>>>,
    pub(super) pools: RefCell<BTreeMap<PoolKey, Rc<Pool>>>,
    /// PAUSE without a name is in force.
    pub paused: Cell<bool>,
    /// Told whenever a server leaves a client or is closed: PAUSE, WAIT_CLOSE and SHUTDOWN wait for it.
    pub changed: Rc<Notify>,
    pub(super) shared_limits: Rc<SharedLimits>,
    /// Told whenever a client is gone.
    pub client_left: Notify,
}

impl Directory {
    /// The databases of the configuration in force.
    pub fn new(context: Rc<Context>, shared_pools: Arc<SharedPools>) -> Rc<Self> {
        let directory = Rc::new(Self {
            context,
            databases: RefCell::default(),
            pools: RefCell::default(),
            paused: Cell::new(false),
            changed: Rc::default(),
            shared_limits: Rc::new(SharedLimits::new(shared_pools)),
            client_left: Notify::default(),
        });
        directory.reload();
        directory
    }

    /// The database of this name, if a client has used it or a line names it.
    pub fn known(&self, name: &str) -> Option<Rc<DatabaseState>> {
        self.databases.borrow().get(name).cloned()
    }

    /// True when a line, or the fallback, covers the name. Registers nothing: anybody can send any name.
    pub fn covers(&self, name: &str) -> bool {
        self.known(name).is_some() || self.context.config().fallback.is_some()
    }

    /// The database a client names, or `None` if no line covers it. For clients that have proven who they are.
    pub fn database(&self, name: &str) -> Option<Rc<DatabaseState>> {
        if let Some(known) = self.known(name) {
            return Some(known);
        }
        let config = self.context.config();
        let line = config.fallback.as_ref()?;
        Some(self.add_database(name, Rc::new(line.clone()), true))
    }

    fn add_database(&self, name: &str, line: Rc<Database>, is_auto: bool) -> Rc<DatabaseState> {
        let name: Rc<str> = name.into();
        let state = Rc::new(DatabaseState {
            line: RefCell::new(line),
            is_auto: Cell::new(is_auto),
            used_at: Cell::new(worker::now()),
            retired: Cell::default(),
            open: self.context.process.limits.counter(CounterKind::DatabaseServers, &name),
            clients: self.context.process.limits.counter(CounterKind::DatabaseClients, &name),
            paused: Cell::new(self.paused.get()),
            disabled: Cell::new(false),
            gone: Cell::new(false),
            pools: RefCell::default(),
            name: name.clone(),
        });
        self.databases.borrow_mut().insert(name, state.clone());
        state
    }

    /// The pool of a database and a user on the server, made when there is none.
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
        database.pools.borrow_mut().push(Rc::downgrade(&pool));
        self.pools.borrow_mut().insert(key, pool.clone());
        pool
    }

    /// The pool of these names, if this worker has it.
    pub fn known_pool(&self, database: &str, user: &str) -> Option<Rc<Pool>> {
        self.pools.borrow().get(&(database.into(), user.into())).cloned()
    }

    /// Makes the pools that are to have servers although nobody has asked yet: a forced user and `min_pool_size`.
    pub fn open_minimum(&self) {
        for database in self.databases() {
            let line = database.line.borrow().clone();
            if let Some(user) = &line.user
                && !database.is_auto.get()
                && self.context.config().pool_rules(&line, user).min_pool_size > 0
            {
                self.pool(&database, user);
            }
        }
    }

    /// The pools in which a server can be logged in to before any client has come, made where there are none: those of
    /// lines that name their user.
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

    /// Brings databases and pools in line with the configuration in force. A changed line retires its servers as
    /// they become free. A database whose line is gone is dropped and marked; its clients are the caller's to end. What
    /// its name means from now on, the fallback says.
    pub fn reload(&self) {
        let config = self.context.config();
        for (name, line) in &config.databases {
            match self.known(name) {
                Some(state) => {
                    state.is_auto.set(false);
                    Self::replace_line(&state, line);
                }
                None => {
                    self.add_database(name, Rc::new(line.clone()), false);
                }
            }
        }
        for state in self.databases() {
            if config.databases.contains_key(&*state.name) {
                continue;
            }
            match config.fallback.as_ref().filter(|_| state.is_auto.get()) {
                Some(line) => Self::replace_line(&state, line),
                None => self.remove(&state),
            }
        }
        for pool in self.pools() {
            pool.reload();
        }
    }

    fn remove(&self, state: &Rc<DatabaseState>) {
        tracing::info!(database = %state.name, "database removed");
        state.gone.set(true);
        self.databases.borrow_mut().remove(&state.name);
        self.pools.borrow_mut().retain(|_, pool| !Rc::ptr_eq(&pool.database, state));
        for pool in state.pools() {
            pool.shut_down();
        }
    }

    fn replace_line(state: &DatabaseState, line: &Database) {
        if **state.line.borrow() != *line {
            *state.line.borrow_mut() = Rc::new(line.clone());
            for pool in state.pools() {
                pool.follow_line();
            }
        }
    }

    /// Pauses or resumes one database, or all.
    pub fn set_paused(&self, database: Option<&Rc<DatabaseState>>, paused: bool) {
        match database {
            Some(database) => database.paused.set(paused),
            None => {
                self.paused.set(paused);
                for database in self.databases() {
                    database.paused.set(paused);
                }
            }
        }
        let chosen = |pool: &Rc<Pool>| database.is_none_or(|d| Rc::ptr_eq(d, &pool.database));
        for pool in self.pools().iter().filter(|pool| chosen(pool)) {
            if paused { pool.close_idle() } else { pool.serve_waiters() }
        }
    }

    /// Servers of this worker that are with a client, being reset, being logged in or on the move. Those that only end
    /// are nobody's any more.
    pub fn busy_servers(&self) -> usize {
        self.pools().iter().map(|pool| pool.busy_servers().saturating_sub(pool.lingering_servers())).sum()
    }
}
