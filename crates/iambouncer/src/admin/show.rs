//! SHOW commands for configuration and pools. Owns the rows; the columns are in the table.

use super::console::Console;
use super::table::Row;
use crate::config::table as settings_table;
use crate::lifecycle::Phase;
use crate::stats::snapshot::Snapshot;

pub(super) fn text(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

pub(super) fn version(_: &Console) -> Vec<Row> {
    vec![vec![text(concat!("iambouncer ", env!("CARGO_PKG_VERSION")))]]
}

pub(super) fn config(console: &Console) -> Vec<Row> {
    let config = console.context.config();
    settings_table()
        .iter()
        .map(|setting| {
            let changeable = if setting.reloadable() { "yes" } else { "no" };
            vec![
                text(setting.name),
                config.settings.get_text(setting.name),
                text(&setting.default_text),
                text(changeable),
            ]
        })
        .collect()
}

pub(super) fn databases(console: &Console) -> Vec<Row> {
    let config = console.context.config();
    let settings = &config.settings;
    let mut rows: Vec<Row> = console
        .directory
        .databases()
        .iter()
        .map(|database| {
            let line = database.line.borrow();
            let rules = config.pool_rules(&line, line.user.as_deref().unwrap_or(""));
            let hosts: Vec<String> = line.host.iter().map(ToString::to_string).collect();
            vec![
                text(&database.name),
                (!hosts.is_empty()).then(|| hosts.join(",")),
                text(line.port),
                text(line.server_dbname(&database.name)),
                line.user.clone(),
                text(rules.pool_size),
                text(rules.min_pool_size),
                text(rules.reserve_pool_size),
                text(rules.server_lifetime.as_secs()),
                line.pool_mode.map(|mode| mode.to_string()),
                text(line.load_balance_hosts),
                text(line.max_db_connections.unwrap_or(settings.max_db_connections)),
                text(database.open.taken()),
                text(line.max_db_client_connections.unwrap_or(settings.max_db_client_connections)),
                text(database.clients.taken()),
                text(u8::from(database.paused.get())),
                text(u8::from(database.disabled.get())),
            ]
        })
        .collect();
    rows.push(console_database(settings));
    rows
}

fn console_database(settings: &crate::config::Settings) -> Row {
    let mut row = vec![None; 17];
    row[0] = text(super::DATABASE);
    row[2] = text(settings.listen_port);
    row[3] = text(super::DATABASE);
    row[4] = text(super::DATABASE);
    row[5] = text(2);
    row[9] = text("statement");
    for at in [6, 7, 8, 11, 12, 13, 14, 15, 16] {
        row[at] = text(0);
    }
    row
}

pub(super) fn pools(_: &Console, all: &Snapshot) -> Vec<Row> {
    let rows = all.pools.iter().map(|((database, user), pool)| {
        vec![
            text(database),
            text(user),
            text(pool.clients.idle + pool.clients.active),
            text(pool.clients.waiting),
            text(pool.cancels),
            text(0),
            text(pool.active),
            text(pool.active_cancel),
            text(pool.being_canceled),
            text(pool.idle),
            text(0),
            text(pool.tested),
            text(pool.logins),
            text(pool.longest_wait.as_secs()),
            text(pool.longest_wait.subsec_micros()),
            text(pool.mode),
            text(pool.load_balance_hosts),
        ]
    });
    rows.collect()
}

pub(super) fn lists(console: &Console, all: &Snapshot) -> Vec<Row> {
    let servers: usize = all.pools.values().map(|pool| pool.servers()).sum();
    let idle: usize = all.pools.values().map(|pool| pool.idle).sum();
    let config = console.context.config();
    let (dns_names, dns_queries) = console.context.process.host_names.counts();
    let counts = [
        ("databases", all.databases.len() + 1),
        ("users", console.context.loaded().users.len()),
        ("peers", config.peers.len()),
        ("pools", all.pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", all.clients - all.logging_in),
        ("login_clients", all.logging_in),
        ("free_servers", idle),
        ("used_servers", servers.saturating_sub(idle)),
        ("dns_names", dns_names),
        ("dns_zones", 0),
        ("dns_queries", dns_queries),
        ("dns_pending", 0),
    ];
    counts.iter().map(|(name, count)| vec![text(name), text(count)]).collect()
}

pub(super) fn state(console: &Console) -> Vec<Row> {
    let paused = console.directory.paused.get();
    let running = console.lifecycle.phase() == Phase::Running;
    let yes_or_no = |is_on: bool| text(if is_on { "yes" } else { "no" });
    vec![
        vec![text("active"), yes_or_no(!paused && running)],
        vec![text("paused"), yes_or_no(paused)],
        vec![text("suspended"), yes_or_no(false)],
    ]
}

pub(super) fn client_encoding(_: &Console) -> Vec<Row> {
    vec![vec![text("UTF8")]]
}

pub(super) fn standard_conforming_strings(_: &Console) -> Vec<Row> {
    vec![vec![text("on")]]
}

pub(super) fn datestyle(_: &Console) -> Vec<Row> {
    vec![vec![text("ISO")]]
}

pub(super) fn timezone(_: &Console) -> Vec<Row> {
    vec![vec![text("UTC")]]
}
