//! SHOW DATABASES. Owns its table, of which the console is a row.

use super::DATABASE;
use super::columns::{PendingRecords, Records, Table, int4, shown, text};
use super::console::Console;
use super::show::CONSOLE_MODE;
use crate::config::{Config, Database, PoolRules, Settings};
use crate::limits::CounterKind;
use crate::pool::DatabaseState;
use std::rc::Rc;
use std::sync::Arc;

/// The pool size that PgBouncer shows for its console.
pub(crate) const CONSOLE_POOL_SIZE: u32 = 2;

/// Databases that are listed before other tasks of the worker run.
const DATABASES_PER_STEP: usize = 100;

/// What clients can connect to.
pub(super) enum DatabaseRecord {
    /// A database on a server.
    Server(ServerDatabase),
    /// The console.
    Console(ConsoleDatabase),
}

/// A database on a server, with the settings in force for it.
pub(crate) struct ServerDatabase {
    state: Rc<DatabaseState>,
    pub(crate) line: Rc<Database>,
    pub(crate) rules: PoolRules,
    config: Arc<Config>,
}

pub(super) struct ConsoleDatabase {
    config: Arc<Config>,
    clients: u32,
}

impl DatabaseRecord {
    /// A value of a database on a server, or that of the console.
    fn show<C: ToString>(
        &self,
        server: impl FnOnce(&ServerDatabase) -> Option<String>,
        console: impl FnOnce(&ConsoleDatabase, &Settings) -> C,
    ) -> Option<String> {
        match self {
            Self::Server(database) => server(database),
            Self::Console(database) => shown(console(database, &database.config.settings)),
        }
    }

    /// A value of a database on a server; that of the console is NULL.
    fn or_null(&self, value: impl FnOnce(&ServerDatabase) -> Option<String>) -> Option<String> {
        match self {
            Self::Server(database) => value(database),
            Self::Console(_) => None,
        }
    }
}

impl ServerDatabase {
    pub(crate) fn of(state: &Rc<DatabaseState>, config: &Arc<Config>) -> Self {
        let line = state.line.borrow().clone();
        let rules = config.pool_rules(&line, line.user.as_deref().unwrap_or(""));
        Self { state: state.clone(), line, rules, config: config.clone() }
    }

    /// Its hosts, with commas between them; `None` for one that has none.
    pub(crate) fn hosts(&self) -> Option<String> {
        let hosts: Vec<String> = self.line.host.iter().map(ToString::to_string).collect();
        (!hosts.is_empty()).then(|| hosts.join(","))
    }

    pub(crate) fn max_connections(&self) -> u32 {
        self.line.max_db_connections.unwrap_or(self.config.settings.max_db_connections)
    }

    fn max_clients(&self) -> u32 {
        self.line.max_db_client_connections.unwrap_or(self.config.settings.max_db_client_connections)
    }
}

pub(super) static DATABASES: Table<DatabaseRecord> = Table {
    columns: &[
        text("name", |d| d.show(|d| shown(&d.state.name), |_, _| DATABASE)),
        text("host", |d| d.or_null(ServerDatabase::hosts)),
        int4("port", |d| d.show(|d| shown(d.line.port), |_, s| s.listen_port.first())),
        text("database", |d| d.show(|d| shown(d.line.server_dbname(&d.state.name)), |_, _| DATABASE)),
        text("force_user", |d| d.show(|d| d.line.user.clone(), |_, _| DATABASE)),
        int4("pool_size", |d| d.show(|d| shown(d.rules.pool_size), |_, _| CONSOLE_POOL_SIZE)),
        int4("min_pool_size", |d| d.show(|d| shown(d.rules.min_pool_size), |_, s| s.min_pool_size)),
        int4("reserve_pool_size", |d| {
            d.show(|d| shown(d.rules.reserve_pool_size), |_, s| s.reserve_pool_size)
        }),
        int4("server_lifetime", |d| {
            d.show(|d| shown(d.rules.server_lifetime.as_secs()), |_, s| s.server_lifetime.as_secs())
        }),
        text("pool_mode", |d| d.show(|d| d.line.pool_mode.and_then(shown), |_, _| CONSOLE_MODE)),
        text("load_balance_hosts", |d| d.or_null(|d| d.line.load_balanced().and_then(shown))),
        int4("max_connections", |d| d.show(|d| shown(d.max_connections()), |_, s| s.max_db_connections)),
        int4("current_connections", |d| d.show(|d| shown(d.state.open.taken()), |_, _| 0)),
        int4("max_client_connections", |d| {
            d.show(|d| shown(d.max_clients()), |_, s| s.max_db_client_connections)
        }),
        int4("current_client_connections", |d| d.show(|d| shown(d.state.clients.taken()), |d, _| d.clients)),
        int4("paused", |d| d.show(|d| shown(u8::from(d.state.paused.get())), |_, _| 0)),
        int4("disabled", |d| d.show(|d| shown(u8::from(d.state.disabled.get())), |_, _| 0)),
    ],
    records: Records::Distinct(databases),
};

fn databases(console: Rc<Console>) -> PendingRecords<'static, DatabaseRecord> {
    Box::pin(async move {
        let config = console.context.config();
        let mut records = Vec::new();
        let add = |state| records.push(DatabaseRecord::Server(ServerDatabase::of(&state, &config)));
        console.directory.visit_databases(DATABASES_PER_STEP, add).await;
        let clients = console.context.process.limits.counter(CounterKind::DatabaseClients, DATABASE).taken();
        records.push(DatabaseRecord::Console(ConsoleDatabase { config: config.clone(), clients }));
        records
    })
}
