//! Runs the rows: both poolers side by side, in turns A B A B. Owns the order of things and the samples; it
//! knows nothing of how a figure is printed. A side that fails a row leaves a note instead of a figure.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bed::Bed;
use crate::cpu::CpuTime;
use crate::idle;
use crate::load::{Load, Pgbench};
use crate::plan::{Metric, Row, Work};
use crate::poolers::{Binary, Pooler, Side};

/// How long a pooler is warmed up before its first round, in seconds.
const WARM_UP_S: u32 = 1;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    /// Rounds per row and side.
    pub(crate) rounds: u32,
    /// Length of one pgbench run, in seconds.
    pub(crate) duration_s: u32,
    /// Idle sessions.
    pub(crate) idle_clients: u32,
    /// Pause between opening them and reading the memory.
    pub(crate) settle: Duration,
    /// Size of the large result.
    pub(crate) bulk_megabytes: u64,
}

/// One figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Index of the row.
    pub(crate) row: usize,
    /// Whose it is.
    pub(crate) side: Side,
    /// In which table it belongs.
    pub(crate) metric: Metric,
    /// The figure, in the metric's unit.
    pub(crate) value: f64,
}

/// Why a side has no figures in a row.
#[derive(Debug, Clone)]
pub(crate) struct Gap {
    /// Index of the row.
    pub(crate) row: usize,
    /// Whose they are.
    pub(crate) side: Side,
    /// The reason.
    pub(crate) reason: String,
    /// True when it should have had some.
    pub(crate) is_failure: bool,
}

/// Everything a run has found out.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// All figures.
    pub(crate) samples: Vec<Sample>,
    /// All gaps.
    pub(crate) gaps: Vec<Gap>,
}

/// The two programs.
pub(crate) struct Binaries {
    /// Ours.
    pub(crate) iambouncer: Binary,
    /// The one to compare with.
    pub(crate) pgbouncer: Binary,
}

impl Binaries {
    /// The program of `side`.
    pub(crate) fn of(&self, side: Side) -> &Binary {
        match side {
            Side::Iambouncer => &self.iambouncer,
            Side::PgBouncer => &self.pgbouncer,
        }
    }
}

/// One run over all rows.
pub(crate) struct Run<'a> {
    /// What everything stands on.
    pub(crate) bed: &'a Bed,
    /// The poolers.
    pub(crate) binaries: &'a Binaries,
    /// How much is measured.
    pub(crate) settings: Settings,
    /// Where each figure goes at once, so that a run cut short is not lost.
    pub(crate) raw: File,
}

impl Run<'_> {
    /// Measures `rows`.
    ///
    /// # Errors
    /// The raw file cannot be written; a pooler that fails is a gap, not an error.
    pub(crate) fn measure(&mut self, rows: &[Row]) -> Result<Results> {
        let mut results = Results::default();
        for (index, row) in rows.iter().enumerate() {
            eprintln!("[{}/{}] {}", index + 1, rows.len(), row.name);
            self.measure_row(index, row, &mut results)?;
        }
        Ok(results)
    }

    fn measure_row(&mut self, index: usize, row: &Row, results: &mut Results) -> Result<()> {
        let mut running = Vec::new();
        for side in Side::BOTH {
            let mut gap =
                |reason, is_failure| results.gaps.push(Gap { row: index, side, reason, is_failure });
            if row.shares_prepared && !self.binaries.of(side).shares_prepared() {
                let version = &self.binaries.of(side).version;
                gap(format!("{version} cannot share prepared statements in transaction pooling"), false);
                continue;
            }
            match self.start(side, row).and_then(|pooler| self.warm_up(row, pooler)) {
                Ok(pooler) => running.push((side, pooler)),
                Err(error) => gap(format!("{error:#}"), true),
            }
        }
        for round in 1..=self.settings.rounds {
            let mut position = 0;
            while let Some((side, pooler)) = running.get_mut(position) {
                let side = *side;
                match self.measure_once(side, row, pooler) {
                    Ok(figures) => {
                        for (metric, value) in figures {
                            self.record(row, side, round, metric, value)?;
                            results.samples.push(Sample { row: index, side, metric, value });
                        }
                        position += 1;
                    }
                    Err(error) => {
                        let reason = format!("round {round}: {error:#}");
                        eprintln!("  {}: {reason}", side.name());
                        results.gaps.push(Gap { row: index, side, reason, is_failure: true });
                        // Figures from before the failure would look like a success.
                        results.samples.retain(|sample| sample.row != index || sample.side != side);
                        running.remove(position);
                    }
                }
            }
        }
        Ok(())
    }

    fn start(&self, side: Side, row: &Row) -> Result<Pooler> {
        Pooler::start(self.bed, side, self.binaries.of(side), row.ini)
            .with_context(|| format!("starting {}", side.name()))
    }

    /// Fills the pool, so that no round pays for logins to the server.
    fn warm_up(&self, row: &Row, pooler: Pooler) -> Result<Pooler> {
        match row.work {
            Work::Pgbench(load, clients) => {
                let tls = row.ini.client_tls;
                Pgbench { load, clients, tls, duration_s: WARM_UP_S }.run(self.bed, pooler.port)?;
            }
            Work::Bulk => {
                idle::large_result(&pooler, 1)?;
            }
            Work::Idle => {}
        }
        Ok(pooler)
    }

    fn measure_once(&self, side: Side, row: &Row, pooler: &mut Pooler) -> Result<Vec<(Metric, f64)>> {
        let tls = row.ini.client_tls;
        match row.work {
            Work::Pgbench(load, clients) => {
                let pgbench = Pgbench { load, clients, tls, duration_s: self.settings.duration_s };
                self.measure_pgbench(&pgbench, pooler)
            }
            Work::Idle => {
                // Memory given back by an earlier round would hide growth, so each round has a new process.
                *pooler = self.start(side, row)?;
                let Settings { idle_clients, settle, .. } = self.settings;
                let memory = idle::memory_per_client(self.bed, pooler, tls, idle_clients, settle)?;
                Ok(vec![(Metric::PssPerClient, memory.pss_kib), (Metric::RssPerClient, memory.rss_kib)])
            }
            Work::Bulk => {
                let bulk = idle::large_result(pooler, self.settings.bulk_megabytes)?;
                Ok(vec![
                    (Metric::CpuPerMegabyte, bulk.us_per_mb),
                    (Metric::MegabytesPerSecond, bulk.mb_per_s),
                ])
            }
        }
    }

    fn measure_pgbench(&self, pgbench: &Pgbench, pooler: &Pooler) -> Result<Vec<(Metric, f64)>> {
        let before = CpuTime::read(pooler.pid())?;
        let report = pgbench.run(self.bed, pooler.port)?;
        let cpu_ns = CpuTime::read(pooler.pid())?.since(&before);
        let us_each = cpu_ns as f64 / 1000.0 / report.transactions as f64;
        Ok(match pgbench.load {
            Load::Select(_) => {
                vec![(Metric::CpuPerTransaction, us_each), (Metric::Throughput, report.per_second)]
            }
            Load::Logins => vec![(Metric::CpuPerLogin, us_each), (Metric::Logins, report.per_second)],
        })
    }

    fn record(&mut self, row: &Row, side: Side, round: u32, metric: Metric, value: f64) -> Result<()> {
        let (side, key) = (side.name(), metric.key());
        eprintln!("  round {round} {side:<10} {key} {value:.2}");
        writeln!(self.raw, "{}\t{round}\t{side}\t{key}\t{value}", row.name).context("writing the raw figures")
    }
}
