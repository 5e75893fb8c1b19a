//! Workers: CPU time per transaction for each number of workers and of clients, with both engines. Owns the columns of
//! that table; never decides how many are right.

use anyhow::Result;

use super::GrowthRun;
use super::bouncer::GrowthBouncer;
use super::config::GrowthIni;
use super::levels::{CpuLoad, cpu_costs, median_ratio};
use crate::summary::Summary;

/// The columns: values of `workers`. With `1-8`, the pooler has as many threads as by default on eight cores, and uses
/// those that the load needs.
pub(super) const WORKERS: [&str; 7] = ["auto", "1", "2", "4", "8", "1-4", "1-8"];
/// The engines that are measured.
pub(super) const ENGINES: [&str; 2] = ["auto", "epoll"];
/// Columns of the values in ratios.
const AUTO: usize = 0;
const ONE: usize = 1;
const TWO: usize = 2;
/// The numbers that are compared with two workers.
pub(super) const COMPARED_WITH_TWO: [usize; 4] = [3, 4, 5, 6];

/// One number of clients with one engine.
#[derive(Debug, Clone)]
pub(super) struct WorkersRow {
    /// `io_engine`.
    pub(super) engine: &'static str,
    /// Number of clients.
    pub(super) clients: u32,
    /// CPU time per transaction of each round, in µs, for each of [`WORKERS`].
    pub(super) rounds_us: Vec<Vec<f64>>,
}

impl WorkersRow {
    /// The figure of a column.
    pub(super) fn cell(&self, column: usize) -> Option<Summary> {
        Summary::of(self.rounds_us.get(column)?.clone())
    }

    fn ratio(&self, of: usize, base: usize) -> Option<f64> {
        median_ratio(self.rounds_us.get(of)?, self.rounds_us.get(base)?)
    }

    /// One of [`WORKERS`] compared with 2.
    pub(super) fn ratio_to_two(&self, column: usize) -> Option<f64> {
        self.ratio(column, TWO)
    }

    /// `auto` compared with the better of 1 and 2.
    pub(super) fn auto_to_best(&self) -> Option<f64> {
        Some(self.ratio(AUTO, ONE)?.max(self.ratio(AUTO, TWO)?))
    }
}

/// Measures all engines and all `clients`.
pub(super) fn measure(run: &GrowthRun<'_>, clients: &[u32]) -> Result<Vec<WorkersRow>> {
    let mut rows = Vec::new();
    for engine in ENGINES {
        let start = |workers| {
            let io_engine = (engine != ENGINES[0]).then_some(engine);
            let ini = GrowthIni {
                workers: (workers != WORKERS[AUTO]).then_some(workers),
                io_engine,
                ..GrowthIni::SMALLEST
            };
            GrowthBouncer::start(run.test_bed, run.iambouncer, ini)
        };
        let poolers = WORKERS.into_iter().map(start).collect::<Result<Vec<_>>>()?;
        let poolers: Vec<_> = poolers.iter().collect();
        for &clients in clients {
            eprintln!("  io_engine = {engine}: {clients} clients");
            let load = CpuLoad {
                mode: "simple",
                clients,
                length: run.settings.length,
                rounds: run.settings.worker_rounds,
            };
            rows.push(WorkersRow { engine, clients, rounds_us: cpu_costs(run.test_bed, &poolers, load)? });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_is_compared_with_the_better_one() {
        let rounds_us = [3.0, 4.0, 2.0, 3.0, 5.0, 2.0, 2.5].map(|us| vec![us]).to_vec();
        let row = WorkersRow { engine: ENGINES[0], clients: 1, rounds_us };
        assert_eq!(row.auto_to_best(), Some(1.5));
        assert_eq!(COMPARED_WITH_TWO.map(|column| row.ratio_to_two(column)), [1.5, 2.5, 1.0, 1.25].map(Some));
        assert_eq!(row.cell(4).map(|cell| cell.median), Some(5.0));
        assert_eq!(row.cell(WORKERS.len()), None);
    }
}
