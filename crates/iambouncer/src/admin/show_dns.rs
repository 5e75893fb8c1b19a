//! SHOW DNS_HOSTS and SHOW DNS_ZONES. Owns their tables.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use crate::worker;
use std::net::IpAddr;
use std::time::Duration;

/// A host name of servers.
pub(super) struct HostRecord {
    name: String,
    left: Duration,
    addresses: Vec<IpAddr>,
}

pub(super) static HOSTS: Table<HostRecord> = Table {
    columns: &[
        text("hostname", |host| shown(&host.name)),
        int8("ttl", |host| shown(host.left.as_secs())),
        text("addrs", |host| {
            let texts: Vec<String> = host.addresses.iter().map(IpAddr::to_string).collect();
            shown(texts.join(","))
        }),
    ],
    records: Records::Here(hosts),
};

fn hosts(console: &Console) -> Vec<HostRecord> {
    let max_ttl = console.context.config().settings.dns_max_ttl;
    let known = console.context.process.host_names.list(worker::now(), max_ttl);
    let record = |(name, left, addresses)| HostRecord { name, left, addresses };
    known.into_iter().map(record).collect()
}

/// A zone whose serial number is watched. There is none: names are looked up again when they expire.
pub(super) enum ZoneRecord {}

pub(super) static ZONES: Table<ZoneRecord> = Table {
    columns: &[
        text("zonename", |zone| match *zone {}),
        int8("serial", |zone| match *zone {}),
        int4("count", |zone| match *zone {}),
    ],
    records: Records::Here(|_| Vec::new()),
};
