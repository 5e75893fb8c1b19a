//! SHOW CLIENTS and SHOW SERVERS. Owns the rows of connections; never shows a secret or a query.

use super::console::Console;
use super::show::text;
use super::table::Row;
use crate::clients::ClientState;
use crate::net::Endpoint;
use crate::worker;
use std::time::{Instant, SystemTime};
use time::OffsetDateTime;
use time::macros::format_description;

/// A time in PgBouncer's format, in UTC.
fn time_text(at: SystemTime) -> Option<String> {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    OffsetDateTime::from(at).format(format).ok()
}

/// Wall time for a time of the worker's clock.
fn wall(at: Instant) -> SystemTime {
    SystemTime::now() - worker::now().saturating_duration_since(at)
}

fn address(end: Option<&Endpoint>) -> [Option<String>; 2] {
    match end {
        Some(end) => [text(end.host_text()), text(end.port())],
        None => [text("unix"), text(0)],
    }
}

/// Client and server ids are separate sequences, but appear in the same columns.
fn link(kind: char, id: u64) -> Option<String> {
    if id == 0 { text("") } else { text(format!("{kind}{id:x}")) }
}

pub(super) fn clients(console: &Console) -> Vec<Row> {
    console
        .clients
        .list()
        .iter()
        .map(|client| {
            let server = client.server();
            let identity = client.identity();
            let timing = client.timing.get();
            let waiting = client.state.get() == ClientState::Waiting;
            let wait = timing.query_at.filter(|_| waiting).map(|at| worker::now() - at).unwrap_or_default();
            let [addr, port] = address(Some(&client.remote()));
            let [local_addr, local_port] = address(client.local().as_ref());
            vec![
                text("C"),
                text(&identity.user),
                text(&identity.database),
                text("none"),
                text(client.state.get().as_str()),
                addr,
                port,
                local_addr,
                local_port,
                time_text(client.connected_wall()),
                time_text(wall(timing.query_at.unwrap_or(timing.quiet_since))),
                text(wait.as_secs()),
                text(wait.subsec_micros()),
                text(0),
                link('c', client.id),
                link('s', server.map_or(0, |server| server.facts.id)),
                text(0),
                text(&identity.tls),
                text(&identity.application_name),
                text(client.prepared_count.get()),
                text(client.id),
            ]
        })
        .collect()
}

pub(super) fn servers(console: &Console) -> Vec<Row> {
    let mut rows = Vec::new();
    for pool in console.directory.pools() {
        for server in pool.table.list() {
            let facts = &server.facts;
            let [addr, port] = address(facts.remote.as_ref().or(Some(&facts.route.endpoint)));
            let [local_addr, local_port] = address(facts.local.as_ref());
            rows.push(vec![
                text("S"),
                text(&pool.user),
                text(&pool.database.name),
                text("none"),
                text(server.activity.get().as_str()),
                addr,
                port,
                local_addr,
                local_port,
                time_text(facts.connected_wall),
                time_text(wall(server.touched_at.get())),
                text(0),
                text(0),
                text(u8::from(server.close_needed.get())),
                link('s', facts.id),
                link('c', server.client_id.get()),
                text(facts.pid),
                text(&facts.tls),
                text(facts.application_name.borrow()),
                text(server.prepared_count.get()),
                text(facts.id),
            ]);
        }
    }
    rows
}
