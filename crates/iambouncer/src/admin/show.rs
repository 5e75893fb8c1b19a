//! SHOW commands about configuration and pools. Owns the rows; the columns stand in the table.

use super::console::Console;
use super::table::Row;
use crate::clients::ClientState;
use crate::config::table as settings_table;
use crate::lifecycle::Phase;
use crate::pool::Pool;
use crate::server::Activity;
use crate::worker;

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
                text(database.clients.get()),
                text(u8::from(database.paused.get())),
                text(u8::from(database.disabled.get() || database.gone.get())),
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

pub(super) fn pools(console: &Console) -> Vec<Row> {
    console.directory.pools().iter().map(|pool| pool_row(console, pool)).collect()
}

fn pool_row(console: &Console, pool: &std::rc::Rc<Pool>) -> Row {
    let of_pool = |client: &&std::rc::Rc<crate::clients::ClientInfo>| {
        client.pool.borrow().as_ref().is_some_and(|p| std::rc::Rc::ptr_eq(p, pool))
    };
    let clients = console.clients.list();
    let in_state = |wanted: fn(ClientState) -> bool| {
        clients.iter().filter(of_pool).filter(|client| wanted(client.state.get())).count()
    };
    let servers = pool.table.list();
    let doing = |activity| servers.iter().filter(|server| server.activity.get() == activity).count();
    let canceling = servers
        .iter()
        .filter(|s| s.activity.get() == Activity::Active && s.cancels_in_flight.get() > 0)
        .count();
    let (_, oldest) = pool.waiting();
    let wait = oldest.map(|since| worker::now() - since).unwrap_or_default();
    let rules = pool.rules();
    vec![
        text(&pool.database.name),
        text(&pool.user),
        text(in_state(|state| matches!(state, ClientState::Active | ClientState::Idle))),
        text(in_state(|state| state == ClientState::Waiting)),
        text(servers.iter().map(|server| server.cancels_in_flight.get()).sum::<u32>()),
        text(0),
        text(doing(Activity::Active)),
        text(canceling),
        text(doing(Activity::BeingCanceled)),
        text(pool.idle_count()),
        text(0),
        text(doing(Activity::Tested)),
        text(pool.login_count()),
        text(wait.as_secs()),
        text(wait.subsec_micros()),
        text(rules.pool_mode),
        text(pool.database.line.borrow().load_balance_hosts),
    ]
}

pub(super) fn lists(console: &Console) -> Vec<Row> {
    let pools = console.directory.pools();
    let clients = console.clients.list();
    let logging_in = clients.iter().filter(|client| client.state.get() == ClientState::Login).count();
    let servers: usize = pools.iter().map(|pool| pool.table.list().len()).sum();
    let idle: usize = pools.iter().map(|pool| pool.idle_count()).sum();
    let config = console.context.config();
    let counts = [
        ("databases", console.directory.databases().len() + 1),
        ("users", console.context.loaded().users.len()),
        ("peers", config.peers.len()),
        ("pools", pools.len()),
        ("peer_pools", 0),
        ("free_clients", 0),
        ("used_clients", clients.len() - logging_in),
        ("login_clients", logging_in),
        ("free_servers", idle),
        ("used_servers", servers.saturating_sub(idle)),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    counts.iter().map(|(name, count)| vec![text(name), text(count)]).collect()
}

pub(super) fn state(console: &Console) -> Vec<Row> {
    let paused = console.directory.paused.get();
    let running = console.lifecycle.phase() == Phase::Running;
    let word = |yes: bool| text(if yes { "yes" } else { "no" });
    vec![
        vec![text("active"), word(!paused && running)],
        vec![text("paused"), word(paused)],
        vec![text("suspended"), word(false)],
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
