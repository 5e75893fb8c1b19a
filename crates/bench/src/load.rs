//! Load by pgbench. Owns its command line and the reading of its report; it never counts by itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bed::{Bed, DATABASE, USER};
use crate::latency::Latencies;
use crate::process::{self, ChildProcess};

/// How much longer than asked pgbench may take before it is killed: a pooler that hangs must not hang us.
const GRACE: Duration = Duration::from_secs(30);

/// ContenderKind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// `pgbench -S` with this query mode: simple, extended or prepared.
    Select(&'static str),
    /// `pgbench -S -C`: a login, one query and a logout each time.
    Logins,
}

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// So many seconds.
    Seconds(u32),
    /// About so many transactions, shared by all clients.
    Transactions(u32),
}

/// One run of pgbench.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pgbench {
    /// What it does.
    pub(crate) load: Load,
    /// How many clients at a time.
    pub(crate) clients: u32,
    /// TLS between pgbench and the pooler.
    pub(crate) tls: bool,
    /// For how long.
    pub(crate) length: Length,
    /// Transactions per second, if not as many as go. Latency then counts from when each was due.
    pub(crate) rate_per_s: Option<u32>,
}

/// What pgbench reports.
#[derive(Debug)]
pub(crate) struct LoadReport {
    /// Transactions that succeeded.
    pub(crate) transactions: u64,
    /// Transactions per second by pgbench's own reckoning.
    pub(crate) per_second: f64,
    /// Every transaction by itself; none for logins, whose latency pgbench does not log.
    pub(crate) latencies: Latencies,
}

impl Pgbench {
    /// Runs it against the pooler on `port`.
    ///
    /// # Errors
    /// It failed, hung, or a transaction failed.
    pub(crate) fn run(&self, bed: &Bed, port: u16) -> Result<LoadReport> {
        let mut command = process::command(&bed.program("pgbench"));
        command.args(["-n", "-S", "-j", "1", "-c", &self.clients.to_string()]);
        match self.length {
            Length::Seconds(seconds) => command.args(["-T", &seconds.to_string()]),
            Length::Transactions(all) => command.args(["-t", &all.div_ceil(self.clients).to_string()]),
        };
        if let Some(rate) = self.rate_per_s {
            command.args(["-R", &rate.to_string()]);
        }
        let logs = logs(bed);
        match self.load {
            Load::Select(mode) => {
                bed.make_dir(&logs)?;
                command.args(["-M", mode, "--log", "--log-prefix"]).arg(logs.join("log"))
            }
            Load::Logins => command.args(["-M", "simple", "-C"]),
        };
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER, DATABASE]);
        command.env("PGSSLMODE", if self.tls { "require" } else { "disable" }).env("PGGSSENCMODE", "disable");
        let process = ChildProcess::start(command, "pgbench", bed.dir().join("pgbench.out"), None)?;
        let outcome = process.finish(self.limit());
        let latencies = match self.load {
            Load::Select(_) => {
                let latencies = Latencies::read(&logs);
                // The next run wants an empty directory, whatever became of this one.
                fs::remove_dir_all(&logs).with_context(|| format!("removing {}", logs.display()))?;
                latencies
            }
            Load::Logins => Ok(Latencies::default()),
        };
        let output = outcome?;
        let (transactions, per_second) =
            read_report(&output).with_context(|| format!("pgbench said: {output}"))?;
        Ok(LoadReport { transactions, per_second, latencies: latencies? })
    }

    fn limit(&self) -> Duration {
        match self.length {
            Length::Seconds(seconds) => Duration::from_secs(seconds.into()) + GRACE,
            Length::Transactions(_) => GRACE,
        }
    }
}

/// Whether the pgbench that runs now has finished transactions. It writes its log in blocks, so this is true a
/// little late, and never early.
pub(crate) fn has_begun(bed: &Bed) -> bool {
    let files = fs::read_dir(logs(bed)).into_iter().flatten().flatten();
    files.flat_map(|file| file.metadata()).any(|file| file.len() > 0)
}

/// Where pgbench writes its log.
fn logs(bed: &Bed) -> PathBuf {
    bed.dir().join("latencies")
}

/// Transactions, and transactions per second.
fn read_report(output: &str) -> Result<(u64, f64)> {
    let field = |name: &str| {
        let value = output.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
        value.and_then(|value| value.split([' ', '/']).next()).with_context(|| format!("no line {name:?}"))
    };
    // PostgreSQL before 15 does not print this line; there a failed transaction ends its client.
    let failed: u64 = field("number of failed transactions:").unwrap_or("0").parse()?;
    let is_aborted = output.contains("aborted");
    if failed > 0 || is_aborted {
        bail!("transactions failed");
    }
    let transactions = field("number of transactions actually processed:")?.parse()?;
    if transactions == 0 {
        bail!("no transaction was processed");
    }
    Ok((transactions, field("tps =")?.parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "pgbench (15.18)\nnumber of clients: 16\nduration: 5 s\n\
        number of transactions actually processed: 100542\nnumber of failed transactions: 0 (0.000%)\n\
        latency average = 0.795 ms\ninitial connection time = 11.5 ms\n\
        tps = 20125.904 (without initial connection time)\n";

    #[test]
    fn a_report_is_read() {
        assert_eq!(read_report(OUTPUT).unwrap(), (100_542, 20_125.904));
        // With a number of transactions instead of a time.
        assert_eq!(read_report(&OUTPUT.replace("100542", "800/800")).unwrap().0, 800);
    }

    #[test]
    fn failures_are_not_taken_for_speed() {
        assert!(read_report(&OUTPUT.replace("failed transactions: 0", "failed transactions: 3")).is_err());
        assert!(read_report(&OUTPUT.replace("100542", "0")).is_err());
        assert!(read_report("").is_err());
    }
}
