//! Runs the rows: all contenders side by side, in the order A B C A B C. Owns the sequence; never formats a
//! figure for the report. A contender that fails a row gets a note instead of a figure.

use std::fs::File;
use std::io::Write as _;

use anyhow::{Context, Result};

use crate::contenders::Contender;
use crate::entrants::{Entrant, Entrants};
use crate::measure::{self, Measurement};
use crate::plan::{BenchSettings, PlanRow};
use crate::poolers::Pooler;
use crate::summary::{Gap, Results, RunSample};
use crate::test_bed::TestBed;

/// One run over all rows.
pub(crate) struct BenchRun<'a> {
    /// The test bed.
    pub(crate) test_bed: &'a TestBed,
    /// The contenders.
    pub(crate) entrants: &'a Entrants,
    /// The amounts to measure.
    pub(crate) settings: BenchSettings,
    /// Every figure is written here immediately, so that an interrupted run is not lost.
    pub(crate) raw: File,
}

impl<'a> BenchRun<'a> {
    /// Measures `rows`.
    ///
    /// # Errors
    /// The raw file cannot be written; a failing contender is a gap, not an error.
    pub(crate) fn measure(&mut self, rows: &[PlanRow]) -> Result<Results> {
        let mut results = Results::default();
        for (index, row) in rows.iter().enumerate() {
            eprintln!("[{}/{}] {}", index + 1, rows.len(), row.name);
            self.measure_row(index, row, &mut results)?;
        }
        Ok(results)
    }

    fn measure_row(&mut self, index: usize, row: &PlanRow, results: &mut Results) -> Result<()> {
        let mut running = self.start_all(index, row, results);
        for round in 1..=row.rounds(self.settings.rounds) {
            let mut position = 0;
            while let Some((entrant, pooler)) = running.get_mut(position) {
                let contender = entrant.contender;
                match self.measure_once(entrant, row, pooler) {
                    Ok(figures) => {
                        for (metric, value) in figures {
                            let sample = RunSample { row: index, contender, metric, value };
                            self.record(row, round, &sample)?;
                            results.samples.push(sample);
                        }
                        position += 1;
                    }
                    Err(error) => {
                        let reason = format!("round {round}: {error:#}");
                        fail(index, contender, reason, results);
                        // Figures from before the failure would look like a success.
                        results.discard(index, contender);
                        running.remove(position);
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts all contenders that take part in `row` and can run it.
    fn start_all(&self, index: usize, row: &PlanRow, results: &mut Results) -> Vec<(&'a Entrant, Pooler)> {
        let mut running = Vec::new();
        for entrant in self.entrants.0.iter().filter(|entrant| row.admits(entrant.contender)) {
            let contender = entrant.contender;
            if let Some(reason) = entrant.gap(row) {
                results.gaps.push(Gap { row: index, contender, reason, is_failure: false });
                continue;
            }
            match measure::start(self.test_bed, &self.settings, entrant, row) {
                Ok(pooler) => running.push((entrant, pooler)),
                Err(error) => fail(index, contender, format!("{error:#}"), results),
            }
        }
        running
    }

    fn measure_once(&self, entrant: &Entrant, row: &PlanRow, pooler: &mut Pooler) -> Result<Measurement> {
        if row.work.needs_new_process() {
            *pooler = measure::start(self.test_bed, &self.settings, entrant, row)?;
        }
        measure::once(self.test_bed, &self.settings, row, entrant.contender, pooler)
    }

    fn record(&mut self, row: &PlanRow, round: u32, sample: &RunSample) -> Result<()> {
        let (name, key, value) = (sample.contender.name(), sample.metric.key(), sample.value);
        eprintln!("  round {round} {name:<16} {key} {value:.3}");
        writeln!(self.raw, "{}\t{round}\t{name}\t{key}\t{value}", row.name).context("writing the raw figures")
    }
}

fn fail(row: usize, contender: Contender, reason: String, results: &mut Results) {
    eprintln!("  {}: {reason}", contender.name());
    results.gaps.push(Gap { row, contender, reason, is_failure: true });
}
