//! Load by pgbench. Owns its command line and the reading of its report; it never counts by itself.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bed::{Bed, DATABASE, USER};
use crate::process::{self, Process};

/// How much longer than asked pgbench may take before it is killed: a pooler that hangs must not hang us.
const GRACE: Duration = Duration::from_secs(30);

/// Kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Load {
    /// `pgbench -S` with this query mode: simple, extended or prepared.
    Select(&'static str),
    /// `pgbench -S -C`: a login, one query and a logout each time.
    Logins,
}

/// One run of pgbench.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pgbench {
    /// What it does.
    pub(crate) load: Load,
    /// How many clients at a time.
    pub(crate) clients: u32,
    /// TLS between pgbench and the pooler.
    pub(crate) tls: bool,
    /// For how long, in seconds.
    pub(crate) duration_s: u32,
}

/// What pgbench reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Report {
    /// Transactions that succeeded.
    pub(crate) transactions: u64,
    /// Transactions per second by pgbench's own reckoning.
    pub(crate) per_second: f64,
}

impl Pgbench {
    /// Runs it against the pooler on `port`.
    ///
    /// # Errors
    /// It failed, hung, or a transaction failed.
    pub(crate) fn run(&self, bed: &Bed, port: u16) -> Result<Report> {
        let mut command = process::command(&bed.program("pgbench"));
        command.args([
            "-n",
            "-S",
            "-j",
            "1",
            "-c",
            &self.clients.to_string(),
            "-T",
            &self.duration_s.to_string(),
        ]);
        match self.load {
            Load::Select(mode) => command.args(["-M", mode]),
            Load::Logins => command.args(["-M", "simple", "-C"]),
        };
        command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER, DATABASE]);
        command.env("PGSSLMODE", if self.tls { "require" } else { "disable" }).env("PGGSSENCMODE", "disable");
        let process = Process::start(command, "pgbench", bed.dir().join("pgbench.out"), None)?;
        let output = process.finish(Duration::from_secs(self.duration_s.into()) + GRACE)?;
        read_report(&output).with_context(|| format!("pgbench said: {output}"))
    }
}

fn read_report(output: &str) -> Result<Report> {
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
    Ok(Report { transactions, per_second: field("tps =")?.parse()? })
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
        let report = read_report(OUTPUT).unwrap();
        assert_eq!(report, Report { transactions: 100_542, per_second: 20_125.904 });
    }

    #[test]
    fn failures_are_not_taken_for_speed() {
        assert!(read_report(&OUTPUT.replace("failed transactions: 0", "failed transactions: 3")).is_err());
        assert!(read_report(&OUTPUT.replace("100542", "0")).is_err());
        assert!(read_report("").is_err());
    }
}
