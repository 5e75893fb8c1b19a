//! SHOW DATABASES. Owns its table; the console itself is the last row.

use super::DATABASE;
use super::columns::{Records, Table, int4, shown, text};
use super::console::Console;
use crate::config::{Config, Database, PoolRules};
use crate::pool::DatabaseState;
use std::rc::Rc;
use std::sync::Arc;

/// What clients can connect to.
pub(super) enum DatabaseRecord {
    /// A database on a server.
    Server(ServerDatabase),
    /// The console, with its port.
    Console(u16),
}

pub(super) struct ServerDatabase {
    state: Rc<DatabaseState>,
    line: Rc<Database>,
    rules: PoolRules,
    config: Arc<Config>,
}

impl DatabaseRecord {
    /// A value of a database on a server, or that of the console.
    fn or<C: ToString>(
        &self,
        console: C,
        value: impl FnOnce(&ServerDatabase) -> Option<String>,
    ) -> Option<String> {
        match self {
            Self::Server(database) => value(database),
            Self::Console(_) => shown(console),
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
    fn hosts(&self) -> Option<String> {
        let hosts: Vec<String> = self.line.host.iter().map(ToString::to_string).collect();
        (!hosts.is_empty()).then(|| hosts.join(","))
    }

    fn max_connections(&self) -> u32 {
        self.line.max_db_connections.unwrap_or(self.config.settings.max_db_connections)
    }

    fn max_clients(&self) -> u32 {
        self.line.max_db_client_connections.unwrap_or(self.config.settings.max_db_client_connections)
    }
}

pub(super) static DATABASES: Table<DatabaseRecord> = Table {
    columns: &[
        text("name", |d| d.or(DATABASE, |d| shown(&d.state.name))),
        text("host", |d| d.or_null(ServerDatabase::hosts)),
        int4("port", |d| match d {
            DatabaseRecord::Server(d) => shown(d.line.port),
            DatabaseRecord::Console(port) => shown(port),
        }),
        text("database", |d| d.or(DATABASE, |d| shown(d.line.server_dbname(&d.state.name)))),
        text("force_user", |d| d.or(DATABASE, |d| d.line.user.clone())),
        int4("pool_size", |d| d.or(2, |d| shown(d.rules.pool_size))),
        int4("min_pool_size", |d| d.or(0, |d| shown(d.rules.min_pool_size))),
        int4("reserve_pool_size", |d| d.or(0, |d| shown(d.rules.reserve_pool_size))),
        int4("server_lifetime", |d| d.or(0, |d| shown(d.rules.server_lifetime.as_secs()))),
        text("pool_mode", |d| d.or("statement", |d| d.line.pool_mode.map(|mode| mode.to_string()))),
        text("load_balance_hosts", |d| d.or_null(|d| shown(d.line.load_balance_hosts))),
        int4("max_connections", |d| d.or(0, |d| shown(d.max_connections()))),
        int4("current_connections", |d| d.or(0, |d| shown(d.state.open.taken()))),
        int4("max_client_connections", |d| d.or(0, |d| shown(d.max_clients()))),
        int4("current_client_connections", |d| d.or(0, |d| shown(d.state.clients.taken()))),
        int4("paused", |d| d.or(0, |d| shown(u8::from(d.state.paused.get())))),
        int4("disabled", |d| d.or(0, |d| shown(u8::from(d.state.disabled.get())))),
    ],
    records: Records::Distinct(databases),
};

fn databases(console: &Console) -> Vec<DatabaseRecord> {
    let config = console.context.config();
    let record = |state: &Rc<DatabaseState>| {
        let line = state.line.borrow().clone();
        let rules = config.pool_rules(&line, line.user.as_deref().unwrap_or(""));
        DatabaseRecord::Server(ServerDatabase { state: state.clone(), line, rules, config: config.clone() })
    };
    let mut records: Vec<DatabaseRecord> = console.directory.databases().iter().map(record).collect();
    records.push(DatabaseRecord::Console(config.settings.listen_port));
    records
}
