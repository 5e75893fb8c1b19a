//! SHOW commands for settings, pools and the process. Owns their tables; the console itself is shown as a pool.

use super::columns::{Records, Table, int4, shown, text};
use super::console::Console;
use super::driver_parameters::constant;
use super::{DATABASE, show_peers, show_users};
use crate::config::{PoolMode, SettingInfo, table as settings_table};
use crate::lifecycle::Phase;
use crate::stats::snapshot::{PoolCounts, Snapshot};

pub(super) static VERSION: Table<()> = constant(&[text("version", |()| shown(crate::version::TEXT))]);

/// A setting, and its value in force.
pub(super) type SettingRecord = (&'static SettingInfo, Option<String>);

pub(super) static CONFIG: Table<SettingRecord> = Table {
    columns: &[
        text("key", |(setting, _)| shown(setting.name)),
        text("value", |(_, value)| value.clone()),
        text("default", |(setting, _)| shown(&setting.default_text)),
        text("changeable", |(setting, _)| yes_or_no(setting.reloadable())),
    ],
    records: Records::Here(settings),
};

pub(super) fn settings(console: &Console) -> Vec<SettingRecord> {
    let config = console.context.config();
    let record = |setting: &'static SettingInfo| {
        let value = match setting.name {
            // With peer_host it may be chosen at the start.
            "peer_id" => shown(console.context.process.peer_id),
            name => config.settings.get_text(name),
        };
        (setting, value)
    };
    settings_table().iter().map(record).collect()
}

pub(super) fn yes_or_no(is_on: bool) -> Option<String> {
    shown(if is_on { "yes" } else { "no" })
}

/// The pool mode of the console: it has no transactions.
pub(crate) const CONSOLE_MODE: PoolMode = PoolMode::Statement;

/// A pool at all workers.
pub(super) struct PoolRecord {
    database: String,
    user: String,
    counts: PoolCounts,
}

pub(super) static POOLS: Table<PoolRecord> = Table {
    columns: &[
        text("database", |pool| shown(&pool.database)),
        text("user", |pool| shown(&pool.user)),
        int4("cl_active", |pool| shown(pool.counts.clients.idle + pool.counts.clients.active)),
        int4("cl_waiting", |pool| shown(pool.counts.clients.waiting)),
        int4("cl_active_cancel_req", |pool| shown(pool.counts.cancels)),
        int4("cl_waiting_cancel_req", |_| shown(0)),
        int4("sv_active", |pool| shown(pool.counts.active)),
        int4("sv_active_cancel", |pool| shown(pool.counts.active_cancel)),
        int4("sv_being_canceled", |pool| shown(pool.counts.being_canceled)),
        int4("sv_idle", |pool| shown(pool.counts.idle)),
        int4("sv_used", |_| shown(0)),
        int4("sv_tested", |pool| shown(pool.counts.tested)),
        int4("sv_login", |pool| shown(pool.counts.logins)),
        int4("maxwait", |pool| shown(pool.counts.longest_wait.as_secs())),
        int4("maxwait_us", |pool| shown(pool.counts.longest_wait.subsec_micros())),
        text("pool_mode", |pool| shown(pool.counts.mode)),
        text("load_balance_hosts", |pool| pool.counts.load_balance_hosts.and_then(shown)),
    ],
    records: Records::HereInSteps(|console| Box::pin(console.sums(pools))),
};

fn pools(all: Snapshot) -> Vec<PoolRecord> {
    let of_console = PoolCounts::of_console(all.on_console, CONSOLE_MODE);
    let mut pools = all.pools;
    pools.insert((DATABASE.to_owned(), DATABASE.to_owned()), of_console);
    let record = |((database, user), counts)| PoolRecord { database, user, counts };
    pools.into_iter().map(record).collect()
}

/// The name and the number of some objects.
type ListRecord = (&'static str, usize);

pub(super) static LISTS: Table<ListRecord> = Table {
    columns: &[text("list", |(name, _)| shown(name)), int4("items", |(_, count)| shown(count))],
    records: Records::HereInSteps(|console| Box::pin(lists(console))),
};

/// The numbers of what workers have.
#[derive(Default)]
struct ObjectCounts {
    databases: usize,
    pools: usize,
    clients: usize,
    logging_in: usize,
    servers: usize,
}

impl ObjectCounts {
    fn of(all: Snapshot) -> Self {
        Self {
            // The console is one of them.
            databases: all.databases.len() + 1,
            pools: all.pools.len() + 1,
            clients: all.clients,
            logging_in: all.logging_in,
            servers: all.pools.values().map(PoolCounts::servers).sum(),
        }
    }
}

async fn lists(console: &Console) -> Vec<ListRecord> {
    let counts = console.sums(ObjectCounts::of).await;
    let (dns_names, dns_queries) = console.context.process.host_names.counts();
    vec![
        ("databases", counts.databases),
        ("users", show_users::count(console)),
        ("peers", show_peers::peers(console).len()),
        ("pools", counts.pools),
        ("peer_pools", show_peers::peer_pools(console).len()),
        ("free_clients", 0),
        ("used_clients", counts.clients - counts.logging_in),
        ("login_clients", counts.logging_in),
        ("free_servers", 0),
        ("used_servers", counts.servers),
        ("dns_names", dns_names),
        ("dns_zones", 0),
        ("dns_queries", dns_queries),
        ("dns_pending", 0),
    ]
}

/// A state, and whether the process is in it.
type StateRecord = (&'static str, bool);

pub(super) static STATE: Table<StateRecord> = Table {
    columns: &[text("key", |(state, _)| shown(state)), text("value", |(_, is_on)| yes_or_no(*is_on))],
    records: Records::Here(state),
};

fn state(console: &Console) -> Vec<StateRecord> {
    let paused = console.directory.paused.get();
    let running = console.lifecycle.phase() == Phase::Running;
    vec![("active", !paused && running), ("paused", paused), ("suspended", false)]
}
