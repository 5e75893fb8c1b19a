//! The plan: one table of rows, used by the runs and the report. Owns the list, which contenders take part in
//! a row, and how often; never runs anything.

use std::time::Duration;

use crate::certs::KeyKind;
use crate::contenders::{Contender, ContenderKind};
use crate::formats::Ini;
use crate::load::{Length, Load, Pgbench};
use crate::metrics::MetricsSection;
use crate::storm;
use crate::test_bed::MAX_UNPOOLED_CLIENTS;
use crate::transfer::Transfer;

/// Pool size of all transaction-pooling rows.
const POOL_SIZE: u32 = 20;
/// Clients of the login rows: enough to keep a pooler busy, few enough not to saturate PostgreSQL.
const LOGIN_CLIENTS: u32 = 8;
/// Clients and pool size of the rows about threads. With the second pair, servers change clients all the
/// time, which shows how a server moves to the thread of a waiting client.
const CORES: [(u32, u32); 2] = [(64, POOL_SIZE), (16, 4)];
/// Prepared statements per server, if both readers of the INI file accept the setting.
const MAX_PREPARED: u32 = 200;
/// `listen_backlog` for a storm: the most that Linux grants by default.
const STORM_BACKLOG: u32 = 4096;
/// Clients beside a large result: fewer than servers in the pool, so that no client queues.
const CLIENTS_BESIDE: u32 = 8;
/// Their rate per second if it is limited: low enough to leave cores idle.
const RATE_BESIDE_PER_S: u32 = 2000;
/// Rows of large results: as in a table of numbers, where the headers of rows count …
const SMALL_ROW_BYTES: u64 = 100;
/// … and as in one with texts.
const LARGE_ROW_BYTES: u64 = 1000;
/// Maximum number of rounds of rows that start a new process each time, which takes long.
const FRESH_ROUNDS: u32 = 2;
/// Maximum number of rounds of the sweep and of the rows about threads.
const FEW_ROUNDS: u32 = 3;

/// The amounts to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BenchSettings {
    /// Maximum number of rounds per row and contender.
    pub(crate) rounds: u32,
    /// Length of one pgbench run.
    pub(crate) length: Length,
    /// How long the pool is warmed up before the first round.
    pub(crate) warm_up: Option<Length>,
    /// Number of idle sessions.
    pub(crate) idle_clients: u32,
    /// Delay between opening them and reading the memory.
    pub(crate) settle: Duration,
    /// Size of the large result that is timed.
    pub(crate) bulk_megabytes: u64,
    /// Size of the large result beside other clients.
    pub(crate) beside_mebibytes: u64,
    /// How long the other clients are measured alone; twice as long beside the result.
    pub(crate) beside_s: u32,
    /// How long a slow client reads.
    pub(crate) slow: Duration,
    /// Number of clients in a login storm.
    pub(crate) storm_clients: u32,
    /// How long the other clients are measured before it …
    pub(crate) storm_quiet_s: u32,
    /// … and how long they continue after it has begun.
    pub(crate) storm_s: u32,
    /// Numbers of clients in the sweep.
    pub(crate) sweep: &'static [u32],
}

/// The work of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// pgbench with this load and number of clients.
    Pgbench(Load, u32),
    /// Logins with SCRAM, one after the other.
    ScramLogins,
    /// Many logins at once beside these short queries.
    Storm(Pgbench),
    /// Idle sessions.
    Idle,
    /// One large result, or COPY.
    Bulk(Transfer),
    /// A large result beside these short queries.
    Beside(Pgbench),
    /// A large result for a client that reads slowly.
    Slow,
}

impl Work {
    /// True if each round needs a new process: memory freed in an earlier round would hide growth.
    pub(crate) fn needs_new_process(self) -> bool {
        matches!(self, Self::Storm(_) | Self::Idle | Self::Beside(_) | Self::Slow)
    }
}

/// One row of the tables.
#[derive(Debug, Clone)]
pub(crate) struct PlanRow {
    /// Its name, which the filter matches.
    pub(crate) name: String,
    /// Its section in the report.
    pub(crate) section: MetricsSection,
    /// Its work.
    pub(crate) work: Work,
    /// The configuration of the poolers.
    pub(crate) ini: Ini,
    /// True if a pooler must share prepared statements in transaction pooling.
    pub(crate) shares_prepared: bool,
}

impl PlanRow {
    /// True if `contender` takes part in the row. One that takes part but cannot run it is a gap; others are
    /// omitted.
    pub(crate) fn admits(&self, contender: Contender) -> bool {
        match self.section {
            // Both engines, since the alternative design uses epoll; the others do not have the setting.
            MetricsSection::Cores => {
                matches!(contender, Contender::Iambouncer | Contender::Epoll | Contender::MutexPool)
            }
            _ if contender.is_spike() => false,
            _ if self.ini.needs_ini_reader() && !contender.reads_ini() => false,
            // The plot compares numbers of clients, not engines.
            MetricsSection::Sweep if contender == Contender::Epoll => false,
            _ if self.ini.server_tls && !contender.verifies_servers() => false,
            _ => match contender.kind() {
                ContenderKind::Pooler => true,
                ContenderKind::Relay => self.allows_unpooled(),
                // Without a program there is no memory to measure.
                ContenderKind::Nothing => self.allows_unpooled() && self.work != Work::Slow,
            },
        }
    }

    /// The number of rounds if `rounds` were requested.
    pub(crate) fn rounds(&self, rounds: u32) -> u32 {
        match self.section {
            MetricsSection::Queries | MetricsSection::Logins | MetricsSection::Bulk => rounds,
            MetricsSection::Storms | MetricsSection::Idle | MetricsSection::Beside => {
                rounds.min(FRESH_ROUNDS)
            }
            MetricsSection::Sweep | MetricsSection::Cores => rounds.min(FEW_ROUNDS),
        }
    }

    /// True if every client can have its own server connection, without a program in between that terminates
    /// TLS.
    fn allows_unpooled(&self) -> bool {
        let fits = match self.work {
            Work::Pgbench(_, clients) => clients <= MAX_UNPOOLED_CLIENTS,
            Work::Idle | Work::ScramLogins | Work::Storm(_) => false,
            Work::Bulk(_) | Work::Beside(_) | Work::Slow => true,
        };
        fits && self.ini.pool_mode == "transaction" && !self.ini.client_tls
    }
}

/// The configuration of most rows. `shared_prepared`: true if all readers of the INI file accept
/// `max_prepared_statements`.
pub(crate) fn base(shared_prepared: bool) -> Ini {
    Ini {
        pool_mode: "transaction",
        pool_size: POOL_SIZE,
        server_tls: false,
        client_tls: false,
        client_key: KeyKind::Rsa,
        scram: false,
        listen_backlog: None,
        max_prepared: shared_prepared.then_some(MAX_PREPARED),
        workers: None,
    }
}

/// All rows; `shared_prepared` as for [`base`].
pub(crate) fn rows(shared_prepared: bool, settings: &BenchSettings) -> Vec<PlanRow> {
    let base = base(shared_prepared);
    let mut rows = queries(base);
    rows.extend(singles(base, settings));
    rows.extend(settings.sweep.iter().map(|&clients| {
        let name = format!("sweep, {clients} client{}", if clients == 1 { "" } else { "s" });
        row(name, MetricsSection::Sweep, Work::Pgbench(Load::Select("simple"), clients), base)
    }));
    rows.extend(cores(base));
    rows
}

fn cores(base: Ini) -> impl Iterator<Item = PlanRow> {
    CORES.into_iter().flat_map(move |(clients, pool_size)| {
        [1, 2].map(|workers| {
            let pool =
                if pool_size == POOL_SIZE { String::new() } else { format!(" on a pool of {pool_size}") };
            let name = format!("all cores, {clients} clients{pool}, workers = {workers}");
            let work = Work::Pgbench(Load::Select("simple"), clients);
            row(name, MetricsSection::Cores, work, Ini { workers: Some(workers), pool_size, ..base })
        })
    })
}

fn row(name: String, section: MetricsSection, work: Work, ini: Ini) -> PlanRow {
    PlanRow { name, section, work, ini, shares_prepared: false }
}

fn queries(base: Ini) -> Vec<PlanRow> {
    let mut rows = Vec::new();
    for server_tls in [false, true] {
        let to_server = if server_tls { "TLS to server" } else { "plain" };
        for mode in ["simple", "extended", "prepared"] {
            for clients in [1, 16, 64] {
                let plural = if clients == 1 { "" } else { "s" };
                let name = format!("{mode}, {clients} client{plural}, {to_server}");
                let work = Work::Pgbench(Load::Select(mode), clients);
                let is_prepared = mode == "prepared";
                let ini = Ini { server_tls, ..base };
                rows.push(PlanRow {
                    shares_prepared: is_prepared,
                    ..row(name.clone(), MetricsSection::Queries, work, ini)
                });
                if is_prepared && base.max_prepared.is_none() {
                    // A PgBouncer that cannot share statements still has figures for session pooling.
                    let ini = Ini { pool_mode: "session", pool_size: clients, ..ini };
                    rows.push(row(format!("{name}, session pooling"), MetricsSection::Queries, work, ini));
                }
            }
        }
    }
    rows
}

fn singles(base: Ini, settings: &BenchSettings) -> Vec<PlanRow> {
    let BenchSettings { idle_clients, bulk_megabytes, beside_mebibytes, .. } = settings;
    let logins = Work::Pgbench(Load::Logins, LOGIN_CLIENTS);
    let client_tls = Ini { client_tls: true, ..base };
    let ecdsa = Ini { client_key: KeyKind::Ecdsa, ..client_tls };
    let scram = Ini { scram: true, ..base };
    let size = match beside_mebibytes {
        1024 => "1 GiB".to_owned(),
        _ => format!("{beside_mebibytes} MiB"),
    };
    let beside = |rate_per_s| {
        let load = Load::Select("simple");
        let length = Length::Seconds(settings.beside_s);
        Work::Beside(Pgbench { load, clients: CLIENTS_BESIDE, tls: false, length, rate_per_s })
    };
    let rows = [
        ("logins, plain".to_owned(), MetricsSection::Logins, logins, base),
        ("logins, SCRAM".to_owned(), MetricsSection::Logins, Work::ScramLogins, scram),
        ("logins, TLS from client".to_owned(), MetricsSection::Logins, logins, client_tls),
        ("logins, TLS from client, ECDSA".to_owned(), MetricsSection::Logins, logins, ecdsa),
        (format!("{idle_clients} idle clients, plain"), MetricsSection::Idle, Work::Idle, base),
        (
            format!("{idle_clients} idle clients, TLS from client"),
            MetricsSection::Idle,
            Work::Idle,
            client_tls,
        ),
        (format!("{size} beside {CLIENTS_BESIDE} busy clients"), MetricsSection::Beside, beside(None), base),
        (
            format!("{size} beside {CLIENTS_BESIDE} clients, {RATE_BESIDE_PER_S} transactions per second"),
            MetricsSection::Beside,
            beside(Some(RATE_BESIDE_PER_S)),
            base,
        ),
        (format!("{size} to a slow client"), MetricsSection::Beside, Work::Slow, base),
    ];
    let rows = rows.into_iter().map(|(name, section, work, ini)| row(name, section, work, ini));
    rows.chain([storm_of(scram, settings)]).chain(bulk(base, *bulk_megabytes)).collect()
}

/// Many logins at once.
fn storm_of(scram: Ini, settings: &BenchSettings) -> PlanRow {
    let work = Work::Storm(storm::others(settings.storm_quiet_s + settings.storm_s));
    let name = format!("storm of {} clients, SCRAM", settings.storm_clients);
    row(name, MetricsSection::Storms, work, Ini { listen_backlog: Some(STORM_BACKLOG), ..scram })
}

/// The rows about large amounts of data.
fn bulk(base: Ini, megabytes: u64) -> impl Iterator<Item = PlanRow> {
    let (small, large) = (Transfer::Rows(SMALL_ROW_BYTES), Transfer::Rows(LARGE_ROW_BYTES));
    let (copy_out, copy_in) = (Transfer::CopyOut(SMALL_ROW_BYTES), Transfer::CopyIn(SMALL_ROW_BYTES));
    let server_tls = Ini { server_tls: true, ..base };
    let client_tls = Ini { client_tls: true, ..base };
    let rows = [
        (small, "plain", base),
        (large, "plain", base),
        (small, "TLS to server", server_tls),
        (large, "TLS to server", server_tls),
        (small, "TLS from client", client_tls),
        (copy_out, "plain", base),
        (copy_in, "plain", base),
    ];
    rows.into_iter().map(move |(transfer, connections, ini)| {
        let name = format!("{megabytes} MB, {}, {connections}", transfer.name());
        row(name, MetricsSection::Bulk, Work::Bulk(transfer), ini)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use std::collections::BTreeSet;

    fn all() -> Vec<PlanRow> {
        rows(false, &args::FULL)
    }

    #[test]
    fn names_are_unique() {
        for shared_prepared in [false, true] {
            let all = rows(shared_prepared, &args::FULL);
            let names: BTreeSet<_> = all.iter().map(|row| &row.name).collect();
            assert_eq!(names.len(), all.len());
        }
    }

    #[test]
    fn every_section_has_rows() {
        for section in MetricsSection::ALL {
            assert!(all().iter().any(|row| row.section == section), "{section:?}");
        }
    }

    #[test]
    fn the_spike_takes_part_only_in_rows_about_threads() {
        for row in all() {
            let is_compared = row.section == MetricsSection::Cores;
            assert_eq!(row.admits(Contender::MutexPool), is_compared, "{}", row.name);
        }
    }

    #[test]
    fn only_readers_of_the_ini_file_take_part_in_storms() {
        let all = all();
        let storm = all.iter().find(|row| row.section == MetricsSection::Storms).unwrap();
        let admitted: Vec<_> = Contender::ALL.into_iter().filter(|&one| storm.admits(one)).collect();
        assert_eq!(admitted, [Contender::Iambouncer, Contender::Epoll, Contender::PgBouncer]);
    }

    #[test]
    fn unpooled_contenders_get_at_most_one_client_per_server() {
        let unpooled = all().into_iter().filter(|row| row.admits(Contender::HaProxy));
        for row in unpooled {
            assert!(!row.ini.server_tls && !row.ini.client_tls, "{}", row.name);
            if let Work::Pgbench(_, clients) = row.work {
                assert!(clients <= MAX_UNPOOLED_CLIENTS, "{}", row.name);
            }
        }
    }
}
