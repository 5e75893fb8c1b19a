//! What one worker reports for the metrics of pgbouncer_exporter. Owns the counting of clients and databases, in steps
//! between which the worker's other tasks run.

use crate::admin::Console;
use crate::client_identity::ClientIdentity;
use crate::clients::ClientState;
use crate::config::{CONSOLE_DATABASE, Database, PoolMode};
use crate::pool::DatabaseState;
use crate::stats::snapshot::Snapshot;
use crate::worker::executor;
use std::collections::HashMap;
use std::rc::Rc;

/// Clients, or databases, that are counted before other tasks of the worker get their turn.
const STEP: usize = 500;

/// Clients with the same labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientGroup {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) application_name: String,
    pub(super) state: &'static str,
}

/// A row of SHOW DATABASES, without the console's.
#[derive(Debug, Clone)]
pub(super) struct DatabaseFigures {
    pub(super) name: String,
    pub(super) host: String,
    pub(super) port: String,
    pub(super) database: String,
    pub(super) force_user: String,
    pub(super) pool_mode: Option<PoolMode>,
    pub(super) pool_size: u64,
    pub(super) reserve_pool: u64,
    pub(super) max_connections: u64,
    pub(super) current_connections: u64,
    pub(super) paused: u64,
    pub(super) disabled: u64,
}

/// Settings that the exporter reads; the same at all workers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConfigFigures {
    pub(super) users: usize,
    pub(super) max_client_conn: u32,
    pub(super) max_user_connections: u32,
    pub(super) max_db_connections: u32,
    pub(super) reserve_pool_size: u32,
    pub(super) listen_port: u16,
}

/// The part of one worker.
pub(super) struct PgbouncerPart {
    pub(super) snapshot: Snapshot,
    pub(super) clients: Vec<(ClientGroup, u64)>,
    pub(super) databases: Vec<DatabaseFigures>,
    pub(super) config: ConfigFigures,
}

/// Collects the part of this worker.
pub(super) async fn collect(console: Rc<Console>) -> PgbouncerPart {
    let clients = count_clients(&console).await;
    let mut databases = Vec::new();
    for states in console.directory.databases().chunks(STEP) {
        databases.extend(states.iter().map(|state| database(&console, state)));
        executor::yield_now().await;
    }
    PgbouncerPart { clients, databases, config: config(&console), snapshot: console.snapshot() }
}

/// Clients of one identity: idle, waiting, active.
type StateCounts = [(ClientState, u64); 3];

async fn count_clients(console: &Console) -> Vec<(ClientGroup, u64)> {
    // Identities are shared, so their addresses are compared instead of their texts.
    let mut by_identity: HashMap<*const ClientIdentity, (Rc<ClientIdentity>, StateCounts)> = HashMap::new();
    let mut next = Some(0);
    while let Some(slot) = next {
        next = console.clients.visit_from(slot, STEP, |client| {
            let state = client.state.get();
            let identity = client.identity();
            let none =
                || [ClientState::Idle, ClientState::Waiting, ClientState::Active].map(|state| (state, 0));
            let (_, counts) = by_identity.entry(Rc::as_ptr(&identity)).or_insert_with(|| (identity, none()));
            counts.iter_mut().filter(|(of, _)| *of == state).for_each(|(_, count)| *count += 1);
        });
        executor::yield_now().await;
    }
    let mut groups = Vec::new();
    for (at, (identity, counts)) in by_identity.into_values().enumerate() {
        for (state, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let group = ClientGroup {
                database: identity.database.to_string(),
                user: identity.user.to_string(),
                application_name: identity.application_name.to_string(),
                state: state.as_str(),
            };
            groups.push((group, count));
        }
        if at % STEP == STEP - 1 {
            executor::yield_now().await;
        }
    }
    groups
}

fn database(console: &Console, state: &DatabaseState) -> DatabaseFigures {
    let config = console.context.config();
    let line: Rc<Database> = state.line.borrow().clone();
    let rules = config.pool_rules(&line, line.user.as_deref().unwrap_or(""));
    let hosts: Vec<String> = line.host.iter().map(ToString::to_string).collect();
    DatabaseFigures {
        name: state.name.to_string(),
        host: hosts.join(","),
        port: line.port.to_string(),
        database: line.server_dbname(&state.name).to_owned(),
        force_user: line.user.clone().unwrap_or_default(),
        pool_mode: line.pool_mode,
        pool_size: rules.pool_size.into(),
        reserve_pool: rules.reserve_pool_size.into(),
        max_connections: line.max_db_connections.unwrap_or(config.settings.max_db_connections).into(),
        current_connections: state.open.taken().into(),
        paused: state.paused.get().into(),
        disabled: state.disabled.get().into(),
    }
}

fn config(console: &Console) -> ConfigFigures {
    let loaded = console.context.loaded();
    let settings = &loaded.config.settings;
    let is_of_file = |user: &str| loaded.users.contains_key(user);
    let of_lines = loaded.config.users.keys().filter(|user| !is_of_file(user)).count();
    let has_console = is_of_file(CONSOLE_DATABASE) || loaded.config.users.contains_key(CONSOLE_DATABASE);
    ConfigFigures {
        // As in SHOW USERS: those of both, and that of the console.
        users: loaded.users.len() + of_lines + usize::from(!has_console),
        max_client_conn: settings.max_client_conn,
        max_user_connections: settings.max_user_connections,
        max_db_connections: settings.max_db_connections,
        reserve_pool_size: settings.reserve_pool_size,
        listen_port: settings.listen_port.first(),
    }
}
