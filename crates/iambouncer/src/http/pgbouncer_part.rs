//! What one worker reports for the metrics of pgbouncer_exporter. Owns the counting of clients and databases, in steps
//! between which the worker's other tasks run.

use crate::admin::{Console, ServerDatabase, user_count};
use crate::client_identity::ClientIdentity;
use crate::clients::{ClientState, ClientTable};
use crate::config::{Config, PoolMode};
use crate::pool::DatabaseState;
use crate::stats::snapshot::Snapshot;
use crate::worker::executor;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

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
    let clients = count_clients(&console.clients).await;
    let config = console.context.config();
    let mut databases = Vec::new();
    let add = |state: Rc<DatabaseState>| databases.push(database(&state, &config));
    console.directory.visit_databases(STEP, add).await;
    PgbouncerPart { clients, databases, config: config_figures(&console), snapshot: console.snapshot().await }
}

/// Clients of one identity: idle, waiting, active.
type StateCounts = [(ClientState, u64); 3];

/// A client identity that is in use, with the numbers of its clients.
type IdentityCounts = HashMap<*const ClientIdentity, (Rc<ClientIdentity>, StateCounts)>;

async fn count_clients(clients: &ClientTable) -> Vec<(ClientGroup, u64)> {
    // Identities are shared, so their addresses are compared instead of their texts.
    let mut by_identity = IdentityCounts::new();
    let mut next = Some(0);
    while let Some(slot) = next {
        next = count_step(clients, slot, &mut by_identity);
        executor::yield_now().await;
    }
    let mut groups = Vec::new();
    let mut rest = by_identity.into_values();
    while group_step(&mut rest, &mut groups) {
        executor::yield_now().await;
    }
    groups
}

/// Counts some clients, from a slot on. Returns the slot of the next one.
fn count_step(clients: &ClientTable, slot: u32, by_identity: &mut IdentityCounts) -> Option<u32> {
    clients.visit_from(slot, STEP, |client| {
        let (state, identity) = (client.state.get(), client.identity());
        let none = || [ClientState::Idle, ClientState::Waiting, ClientState::Active].map(|state| (state, 0));
        let (_, counts) = by_identity.entry(Rc::as_ptr(&identity)).or_insert_with(|| (identity, none()));
        counts.iter_mut().filter(|(of, _)| *of == state).for_each(|(_, count)| *count += 1);
    })
}

/// Makes groups of some identities. False if there are no more.
fn group_step(
    identities: &mut impl Iterator<Item = (Rc<ClientIdentity>, StateCounts)>,
    groups: &mut Vec<(ClientGroup, u64)>,
) -> bool {
    let mut is_over = true;
    for (identity, counts) in identities.take(STEP) {
        is_over = false;
        for (state, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let group = ClientGroup {
                database: identity.database.to_string(),
                user: identity.user.to_string(),
                application_name: identity.application_name.to_string(),
                state: state.as_str(),
            };
            groups.push((group, count));
        }
    }
    !is_over
}

fn database(state: &Rc<DatabaseState>, config: &Arc<Config>) -> DatabaseFigures {
    let database = ServerDatabase::of(state, config);
    DatabaseFigures {
        name: state.name.to_string(),
        host: database.hosts().unwrap_or_default(),
        port: database.line.port.to_string(),
        database: database.line.server_dbname(&state.name).to_owned(),
        force_user: database.line.user.clone().unwrap_or_default(),
        pool_mode: database.line.pool_mode,
        pool_size: database.rules.pool_size.into(),
        reserve_pool: database.rules.reserve_pool_size.into(),
        max_connections: database.max_connections().into(),
        current_connections: state.open.taken().into(),
        paused: state.paused.get().into(),
        disabled: state.disabled.get().into(),
    }
}

fn config_figures(console: &Console) -> ConfigFigures {
    let config = console.context.config();
    let settings = &config.settings;
    ConfigFigures {
        users: user_count(console),
        max_client_conn: settings.max_client_conn,
        max_user_connections: settings.max_user_connections,
        max_db_connections: settings.max_db_connections,
        reserve_pool_size: settings.reserve_pool_size,
        listen_port: settings.listen_port.first(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::KeyForm;
    use crate::net::Endpoint;
    use std::time::{Duration, Instant};

    const CLIENTS: usize = 10_000;

    /// The time of each step with ten thousand clients, each with another application name, is printed with
    /// `--release -- --nocapture`; one millisecond is the limit. Here it only has to be the same work in each step.
    #[test]
    fn clients_are_counted_in_short_steps_and_none_is_lost() {
        let table = ClientTable::new(0, KeyForm::Alone);
        for number in 0..CLIENTS {
            let end = Endpoint::Unix("".into());
            let client = table.add(end.clone(), Some(end), 0, Instant::now()).unwrap();
            client.state.set(if number % 2 == 0 { ClientState::Idle } else { ClientState::Login });
            let application_name = format!("application {number}").into();
            let identity = ClientIdentity { application_name, ..ClientIdentity::default() };
            client.set_identity(Rc::new(identity));
        }
        let (mut steps, mut longest) = (0, Duration::ZERO);
        let mut timed = |step: &mut dyn FnMut() -> bool| {
            let began = Instant::now();
            let goes_on = step();
            (steps, longest) = (steps + 1, longest.max(began.elapsed()));
            goes_on
        };
        let (mut by_identity, mut slot) = (IdentityCounts::new(), 0);
        while timed(&mut || match count_step(&table, slot, &mut by_identity) {
            Some(next) => {
                slot = next;
                true
            }
            None => false,
        }) {}
        let (mut rest, mut groups) = (by_identity.into_values(), Vec::new());
        while timed(&mut || group_step(&mut rest, &mut groups)) {}
        assert_eq!((groups.len(), groups.iter().map(|(_, count)| count).sum::<u64>()), (CLIENTS / 2, 5000));
        assert_eq!(steps, 2 * CLIENTS / STEP + 1);
        println!("{steps} steps, the longest took {longest:?}");
    }
}
