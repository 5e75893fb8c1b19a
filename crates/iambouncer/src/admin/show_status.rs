//! SHOW STATUS: what the process is doing, for `iambouncer status`. Owns the names of the states.

use super::columns::{Records, Table, shown, text};
use super::console::Console;
use crate::lifecycle::Phase;
use std::time::SystemTime;

/// A key and its value.
type StatusRecord = (&'static str, String);

pub(super) static STATUS: Table<StatusRecord> = Table {
    columns: &[text("key", |(key, _)| shown(key)), text("value", |(_, value)| shown(value))],
    records: Records::Here(status),
};

fn status(console: &Console) -> Vec<StatusRecord> {
    let health = &console.context.process.health;
    let uptime = SystemTime::now().duration_since(health.began_wall).unwrap_or_default();
    vec![
        ("version", crate::version::TEXT.to_owned()),
        ("state", state(console).to_owned()),
        ("ready", if health.is_ready() { "yes" } else { "no" }.to_owned()),
        ("uptime_seconds", uptime.as_secs().to_string()),
        ("pid", std::process::id().to_string()),
    ]
}

pub(super) fn state(console: &Console) -> &'static str {
    match console.lifecycle.phase() {
        Phase::Running if !console.context.process.health.is_started() => "starting",
        Phase::Running if console.directory.paused.get() => "paused",
        Phase::Running => "running",
        Phase::DrainAnnounced(_) | Phase::Draining(_) => "draining",
        Phase::WaitForClients => "waiting_for_clients",
        Phase::WaitForServers => "waiting_for_servers",
        Phase::Now => "stopping",
    }
}
