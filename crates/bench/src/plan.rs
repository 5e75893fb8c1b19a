//! What is measured: one table of rows, from which come the runs and the report. Owns the list; it runs nothing.

use crate::load::Load;
use crate::poolers::Ini;

/// Pool size of all transaction-pooling rows.
const POOL_SIZE: u32 = 20;
/// Clients of the login rows: enough to keep a pooler busy, few enough to leave PostgreSQL alone.
const LOGIN_CLIENTS: u32 = 8;
/// Prepared statements per server, where both sides know the setting.
const MAX_PREPARED: u32 = 200;

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// pgbench with this load and so many clients.
    Pgbench(Load, u32),
    /// Idle sessions.
    Idle,
    /// One large result.
    Bulk,
}

/// One row of the tables.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Name, and what the filter looks at.
    pub(crate) name: String,
    /// What it does.
    pub(crate) work: Work,
    /// How the poolers are configured.
    pub(crate) ini: Ini,
    /// Whether a pooler has to share prepared statements in transaction pooling.
    pub(crate) shares_prepared: bool,
}

/// A table of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// CPU time of the pooler per transaction.
    CpuPerTransaction,
    /// Transactions per second.
    Throughput,
    /// CPU time of the pooler per login.
    CpuPerLogin,
    /// Logins per second.
    Logins,
    /// Growth of PSS per idle client.
    PssPerClient,
    /// Growth of RSS per idle client.
    RssPerClient,
    /// CPU time of the pooler per megabyte of a large result.
    CpuPerMegabyte,
    /// Megabytes per second of a large result.
    MegabytesPerSecond,
}

impl Metric {
    /// All, in the order of the report.
    pub(crate) const ALL: [Self; 8] = [
        Self::CpuPerTransaction,
        Self::Throughput,
        Self::CpuPerLogin,
        Self::Logins,
        Self::PssPerClient,
        Self::RssPerClient,
        Self::CpuPerMegabyte,
        Self::MegabytesPerSecond,
    ];

    /// Heading of the table.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::CpuPerTransaction => "CPU time of the pooler per transaction, µs (less is better)",
            Self::Throughput => "Transactions per second (more is better)",
            Self::CpuPerLogin => "CPU time of the pooler per login, query and logout, µs (less is better)",
            Self::Logins => "Logins per second (more is better)",
            Self::PssPerClient => "Memory per idle client: growth of PSS, KiB (less is better)",
            Self::RssPerClient => "Memory per idle client: growth of RSS, KiB (less is better)",
            Self::CpuPerMegabyte => "CPU time of the pooler per MB of a large result, µs (less is better)",
            Self::MegabytesPerSecond => "Large result, MB per second (more is better)",
        }
    }

    /// Word in the raw lines.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::CpuPerTransaction => "cpu_us_per_transaction",
            Self::Throughput => "transactions_per_s",
            Self::CpuPerLogin => "cpu_us_per_login",
            Self::Logins => "logins_per_s",
            Self::PssPerClient => "pss_kib_per_client",
            Self::RssPerClient => "rss_kib_per_client",
            Self::CpuPerMegabyte => "cpu_us_per_mb",
            Self::MegabytesPerSecond => "mb_per_s",
        }
    }
}

/// What most rows configure. `both_share_prepared` says whether both binaries know `max_prepared_statements`.
pub(crate) fn base(both_share_prepared: bool) -> Ini {
    Ini {
        pool_mode: "transaction",
        pool_size: POOL_SIZE,
        server_tls: false,
        client_tls: false,
        max_prepared: both_share_prepared.then_some(MAX_PREPARED),
    }
}

/// All rows, for which `both_share_prepared` is as for [`base`].
pub(crate) fn rows(both_share_prepared: bool) -> Vec<Row> {
    let base = base(both_share_prepared);
    let mut rows = Vec::new();
    for server_tls in [false, true] {
        let to_server = if server_tls { "TLS to server" } else { "plain" };
        for mode in ["simple", "extended", "prepared"] {
            for clients in [16, 64] {
                let name = format!("{mode}, {clients} clients, {to_server}");
                let work = Work::Pgbench(Load::Select(mode), clients);
                let is_prepared = mode == "prepared";
                let ini = Ini { server_tls, ..base };
                rows.push(Row { name: name.clone(), work, ini, shares_prepared: is_prepared });
                if is_prepared && !both_share_prepared {
                    // A PgBouncer that cannot share statements still has a figure in session pooling.
                    let ini = Ini { pool_mode: "session", pool_size: clients, ..ini };
                    let name = format!("{name}, session pooling");
                    rows.push(Row { name, work, ini, shares_prepared: false });
                }
            }
        }
    }
    rows.extend(single_rows(base));
    rows
}

fn single_rows(base: Ini) -> Vec<Row> {
    let row = |name: &str, work, server_tls, client_tls| Row {
        name: name.to_owned(),
        work,
        ini: Ini { server_tls, client_tls, ..base },
        shares_prepared: false,
    };
    let logins = Work::Pgbench(Load::Logins, LOGIN_CLIENTS);
    vec![
        row("logins, plain", logins, false, false),
        row("logins, TLS from client", logins, false, true),
        row("idle clients, plain", Work::Idle, false, false),
        row("idle clients, TLS from client", Work::Idle, false, true),
        row("large result, plain", Work::Bulk, false, false),
        row("large result, TLS to server", Work::Bulk, true, false),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique() {
        for both in [false, true] {
            let all = rows(both);
            let names: BTreeSet<_> = all.iter().map(|row| &row.name).collect();
            assert_eq!(names.len(), all.len());
        }
    }
}
