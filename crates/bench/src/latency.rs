//! Latencies of single transactions, as logged by pgbench with `--log`. Owns parsing of its lines and the
//! percentiles; never starts anything.
//!
//! Fields of a line: client, transaction, latency in µs, script, and the time of completion in seconds and
//! µs.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Columns before the latency.
const COLUMNS_BEFORE_LATENCY: usize = 2;
/// Columns between the latency and the time.
const COLUMNS_BEFORE_TIME: usize = 1;

/// One transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Transaction {
    latency_us: u64,
    /// Time of completion, since 1970.
    completed: Duration,
}

/// The transactions of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Latencies(Vec<Transaction>);

impl Latencies {
    /// Reads all files in `dir`, one for each thread of pgbench.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut all = Self::default();
        for file in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = file?.path();
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            all.parse(&text)?;
        }
        Ok(all)
    }

    /// The transactions completed between `from` and `to`.
    pub(crate) fn between(&self, from: SystemTime, to: SystemTime) -> Result<Self> {
        let (from, to) = (from.duration_since(UNIX_EPOCH)?, to.duration_since(UNIX_EPOCH)?);
        Ok(Self(self.0.iter().filter(|one| (from..=to).contains(&one.completed)).copied().collect()))
    }

    /// The latency that `percent` of the transactions did not exceed, in ms; `None` without transactions.
    pub(crate) fn percentile_ms(&self, percent: usize) -> Option<f64> {
        let mut sorted: Vec<_> = self.0.iter().map(|one| one.latency_us).collect();
        sorted.sort_unstable();
        nearest_rank(&sorted, percent).map(|us| us as f64 / 1000.0)
    }

    /// The 99th percentile in ms.
    ///
    /// # Errors
    /// There are no transactions.
    pub(crate) fn p99_ms(&self) -> Result<f64> {
        self.percentile_ms(99).context("no transaction has finished")
    }

    fn parse(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            self.0.push(
                transaction(line).with_context(|| format!("unexpected line in pgbench's log: {line:?}"))?,
            );
        }
        Ok(())
    }
}

/// The value that `percent` of the `sorted` ones do not exceed; `None` without values.
pub(crate) fn nearest_rank<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

fn transaction(line: &str) -> Option<Transaction> {
    let mut columns = line.split(' ').skip(COLUMNS_BEFORE_LATENCY);
    let latency_us = columns.next()?.parse().ok()?;
    let mut columns = columns.skip(COLUMNS_BEFORE_TIME);
    let seconds = Duration::from_secs(columns.next()?.parse().ok()?);
    let completed = seconds + Duration::from_micros(columns.next()?.parse().ok()?);
    Some(Transaction { latency_us, completed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Latencies {
        let mut latencies = Latencies::default();
        latencies.parse(text).unwrap();
        latencies
    }

    #[test]
    fn percentiles_use_the_nearest_rank() {
        let text: String = (1..=200).rev().map(|n| format!("0 1 {n}000 0 9 0\n")).collect();
        assert_eq!(of(&text).percentile_ms(50), Some(100.0));
        assert_eq!(of(&text).percentile_ms(99), Some(198.0));
        assert_eq!(of("3 1 1500 0 9 0").percentile_ms(99), Some(1.5));
        assert_eq!(of("").percentile_ms(99), None);
    }

    #[test]
    fn transactions_are_selected_by_time() {
        let all = of("0 1 1000 0 10 0\n0 2 2000 0 11 500000\n0 3 3000 0 13 0\n");
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(all.between(at(11), at(12)).unwrap().percentile_ms(99), Some(2.0));
    }

    #[test]
    fn invalid_lines_are_errors() {
        assert!(Latencies::default().parse("0 1 skipped 0 9 0").is_err());
        assert!(Latencies::default().parse("0 1 5").is_err());
    }
}
