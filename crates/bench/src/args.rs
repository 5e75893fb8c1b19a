//! The command line and the environment. Owns the amounts measured by a full and a short run, and the command
//! line that repeats a run; never starts anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use clap::builder::FalseyValueParser;

use crate::contenders::Contender;
use crate::instructions;
use crate::load::Length;
use crate::plan::{self, BenchSettings};

/// Debian's path of PgBouncer; `/usr/sbin` is not in every user's PATH.
const DEBIAN_PGBOUNCER: &str = "/usr/sbin/pgbouncer";
/// Debian's path of HAProxy.
const DEBIAN_HAPROXY: &str = "/usr/sbin/haproxy";
/// Cargo's path of the spike, relative to this program.
const MUTEX_POOL: &str = "examples/mutex_pool";

/// The amounts measured by default.
pub(crate) const FULL: BenchSettings = BenchSettings {
    rounds: 5,
    length: Length::Seconds(2),
    warm_up: Some(Length::Transactions(5000)),
    idle_clients: 10_000,
    settle: Duration::from_secs(2),
    bulk_megabytes: 200,
    beside_mebibytes: 1024,
    beside_s: 2,
    slow: Duration::from_secs(3),
    storm_clients: 20_000,
    storm_quiet_s: 3,
    storm_s: 6,
    sweep: &[1, 4, 16, 64, 256, 1000],
};

/// The amounts measured by a short run: every row once, too briefly for meaningful figures.
const QUICK: BenchSettings = BenchSettings {
    rounds: 1,
    length: Length::Transactions(3000),
    warm_up: None,
    idle_clients: 200,
    settle: Duration::from_millis(200),
    bulk_megabytes: 20,
    beside_mebibytes: 128,
    beside_s: 1,
    slow: Duration::from_secs(1),
    storm_clients: 300,
    storm_quiet_s: 1,
    storm_s: 2,
    sweep: &[1, 64, 1000],
};

/// Compares iambouncer with PgBouncer and others on this machine.
#[derive(Parser)]
pub(crate) struct Args {
    /// Measure only rows whose name contains this, such as "simple" or "logins"
    #[arg(env = "BENCH_ONLY")]
    pub(crate) only: Option<String>,
    /// Maximum number of rounds per row and contender [default: 5]
    #[arg(long, env = "ROUNDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    /// Seconds per run of pgbench [default: 2]
    #[arg(long, env = "DURATION", value_parser = clap::value_parser!(u32).range(1..))]
    duration: Option<u32>,
    /// One short round, to check that everything runs
    #[arg(long, env = "QUICK", value_parser = FalseyValueParser::new())]
    pub(crate) quick: bool,
    /// Only count instructions per query in the relay, and compare them with the budget
    #[arg(long)]
    instructions: bool,
    /// Only sign tokens, compared with signers in other languages
    #[arg(long)]
    pub(crate) tokens: bool,
    /// Only measure how cost grows with databases, users, clients, statements and workers
    #[arg(long)]
    pub(crate) growth: bool,
    /// Only measure what clients experience when the writer of a line changes
    #[arg(long)]
    pub(crate) failover: bool,
    /// Directory of the drivers installed by tools/drivers [default: `drivers` in the target directory of this program]
    #[arg(long, env = "DRIVERS")]
    drivers: Option<PathBuf>,
    /// Store the counted instructions as the new budget
    #[arg(long, env = "UPDATE_BUDGET", value_parser = FalseyValueParser::new())]
    pub(crate) update_budget: bool,
    /// The iambouncer to measure [default: the one in the directory of this program]
    #[arg(long, env = "IAMBOUNCER")]
    iambouncer: Option<PathBuf>,
    /// The PgBouncer to compare with
    #[arg(long, env = "PGBOUNCER", default_value = DEBIAN_PGBOUNCER)]
    pgbouncer: PathBuf,
    /// The HAProxy to compare with
    #[arg(long, env = "HAPROXY", default_value = DEBIAN_HAPROXY)]
    haproxy: PathBuf,
    /// A PgCat to compare with
    #[arg(long, env = "PGCAT")]
    pgcat: Option<PathBuf>,
    /// A PgDog to compare with
    #[arg(long, env = "PGDOG")]
    pgdog: Option<PathBuf>,
    /// A pg_doorman to compare with
    #[arg(long, env = "PG_DOORMAN")]
    pg_doorman: Option<PathBuf>,
    /// An Odyssey to compare with
    #[arg(long, env = "ODYSSEY")]
    odyssey: Option<PathBuf>,
}

impl Args {
    /// The pooler to measure: the one given, or the one in the directory of this program.
    pub(crate) fn iambouncer(&self) -> Result<PathBuf> {
        if let Some(path) = &self.iambouncer {
            return Ok(path.clone());
        }
        let here = std::env::current_exe().context("finding this program")?;
        Ok(here.with_file_name("iambouncer"))
    }

    /// The directory of drivers in other languages.
    pub(crate) fn drivers(&self) -> Result<PathBuf> {
        if let Some(path) = &self.drivers {
            return Ok(path.clone());
        }
        let here = std::env::current_exe().context("finding this program")?;
        let target = here.ancestors().nth(2).context("this program is not in a target directory")?;
        Ok(target.join("drivers"))
    }

    /// The programs of all contenders.
    pub(crate) fn programs(&self) -> Result<Vec<(Contender, PathBuf)>> {
        let iambouncer = self.iambouncer()?;
        let here = std::env::current_exe().context("finding this program")?;
        let always = [
            (Contender::MutexPool, here.with_file_name(MUTEX_POOL)),
            (Contender::Iambouncer, iambouncer.clone()),
            (Contender::Epoll, iambouncer),
            (Contender::PgBouncer, self.pgbouncer.clone()),
            (Contender::HaProxy, self.haproxy.clone()),
        ];
        let optional = self.optional().into_iter();
        let optional = optional.filter_map(|(contender, _, path)| Some((contender, path.clone()?)));
        Ok(always.into_iter().chain(optional).collect())
    }

    /// The amounts to measure.
    pub(crate) fn settings(&self) -> BenchSettings {
        if self.quick {
            return QUICK;
        }
        BenchSettings {
            rounds: self.rounds.unwrap_or(FULL.rounds),
            length: self.duration.map_or(FULL.length, Length::Seconds),
            beside_s: self.duration.unwrap_or(FULL.beside_s),
            ..FULL
        }
    }

    /// True if instructions are to be counted.
    pub(crate) fn wants_instructions(&self) -> bool {
        self.only.as_ref().is_none_or(|only| instructions::NAME.contains(only.as_str()))
    }

    /// True if nothing else is measured, so that neither test data nor other contenders are needed.
    pub(crate) fn only_instructions(&self) -> bool {
        let rows = plan::rows(false, &self.settings());
        let is_row = |only: &String| rows.iter().any(|row| row.name.contains(only.as_str()));
        self.instructions || self.wants_instructions() && self.only.as_ref().is_some_and(|only| !is_row(only))
    }

    /// The command line that repeats this run.
    pub(crate) fn command_line(&self) -> String {
        let mut command = String::from("make bench");
        if self.quick {
            command.push_str(" QUICK=1");
        } else if let BenchSettings { rounds, length: Length::Seconds(seconds), .. } = self.settings() {
            command.push_str(&format!(" ROUNDS={rounds} DURATION={seconds}"));
        }
        if let Some(only) = &self.only {
            command.push_str(&format!(" BENCH_ONLY='{only}'"));
        }
        let named = [
            ("PGBOUNCER", Some(&self.pgbouncer).filter(|&path| path != Path::new(DEBIAN_PGBOUNCER))),
            ("HAPROXY", Some(&self.haproxy).filter(|&path| path != Path::new(DEBIAN_HAPROXY))),
        ];
        let optional = self.optional().map(|(_, variable, path)| (variable, path.as_ref()));
        for (variable, path) in named.into_iter().chain(optional) {
            if let Some(path) = path {
                // Without the directory, which differs between machines.
                let name = path.file_name().unwrap_or(path.as_os_str());
                command.push_str(&format!(" {variable}={}", name.display()));
            }
        }
        command
    }

    /// The command line that repeats the token benchmark.
    pub(crate) fn tokens_command_line(&self) -> String {
        let rounds = self.rounds.map(|rounds| format!(" ROUNDS={rounds}")).unwrap_or_default();
        let quick = if self.quick { " QUICK=1" } else { "" };
        format!("make bench-tokens{quick}{rounds}")
    }

    /// The command line that repeats the benchmark of growth.
    pub(crate) fn growth_command_line(&self) -> String {
        let quick = if self.quick { " QUICK=1" } else { "" };
        let only = self.only.as_ref().map(|only| format!(" BENCH_ONLY='{only}'")).unwrap_or_default();
        format!("make bench-growth{quick}{only}")
    }

    /// The command line that repeats the failovers.
    pub(crate) fn failover_command_line(&self) -> String {
        let rounds = self.rounds.map(|rounds| format!(" ROUNDS={rounds}")).unwrap_or_default();
        let quick = if self.quick { " QUICK=1" } else { "" };
        format!("make bench-failover{quick}{rounds}")
    }

    /// Contenders that take part only if a program is given, with the variable that gives it.
    fn optional(&self) -> [(Contender, &'static str, &Option<PathBuf>); 4] {
        [
            (Contender::PgCat, "PGCAT", &self.pgcat),
            (Contender::PgDog, "PGDOG", &self.pgdog),
            (Contender::PgDoorman, "PG_DOORMAN", &self.pg_doorman),
            (Contender::Odyssey, "ODYSSEY", &self.odyssey),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Args {
        Args::parse_from([&["bench"], args].concat())
    }

    #[test]
    fn the_command_line_contains_changed_settings() {
        let args = parse(&["--rounds=3", "--pgcat=/opt/pgcat", "simple"]);
        let command = "make bench ROUNDS=3 DURATION=2 BENCH_ONLY='simple' PGCAT=pgcat";
        assert_eq!(args.command_line(), command);
        assert!(args.programs().unwrap().contains(&(Contender::PgCat, "/opt/pgcat".into())));
    }

    #[test]
    fn the_command_line_of_growth_contains_the_section() {
        let command = parse(&["--growth", "--quick", "users"]).growth_command_line();
        assert_eq!(command, "make bench-growth QUICK=1 BENCH_ONLY='users'");
    }

    #[test]
    fn counting_instructions_needs_no_other_contender() {
        assert!(parse(&["instructions"]).only_instructions());
        assert!(!parse(&["simple"]).only_instructions());
        assert!(!parse(&[]).only_instructions());
    }
}
