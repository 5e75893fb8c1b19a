//! Durations in buckets. Owns the bounds, which are powers of two in microseconds, so that an observation costs one
//! count of leading zeros and one addition; never reads a clock.

use std::cell::Cell;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first bound is two to the power of this, in microseconds: 64 µs; differences below do not matter in a network.
const FIRST_EXPONENT: u32 = 6;
/// Number of bounds, each twice the previous one: up to 33.6 s.
pub const BOUNDS: usize = 20;
/// Number of cells: one per bound, and one for longer times.
const CELLS: usize = BOUNDS + 1;

/// The cell of a time. A bound is included in its cell.
#[inline]
fn cell_of(us: u64) -> usize {
    let exponent = u64::BITS - us.saturating_sub(1).leading_zeros();
    (exponent.saturating_sub(FIRST_EXPONENT) as usize).min(BOUNDS)
}

/// The upper bound of a cell in seconds; infinite for the last one.
fn bound_seconds(cell: usize) -> f64 {
    if cell >= BOUNDS { f64::INFINITY } else { (1u64 << (FIRST_EXPONENT + cell as u32)) as f64 / 1e6 }
}

/// Counts per cell at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buckets([u64; CELLS]);

impl Buckets {
    /// Upper bound in seconds and count of each cell; counts are not cumulative.
    pub fn cells(&self) -> impl Iterator<Item = (f64, u64)> {
        self.0.iter().enumerate().map(|(cell, count)| (bound_seconds(cell), *count))
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time in seconds below which this part of all observations is, estimated within its cell as Prometheus does;
    /// `None` without observations.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let rank = part * self.count() as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (upper, count) in self.cells().filter(|_| self.count() > 0) {
            let count = count as f64;
            if count > 0.0 && below + count >= rank {
                let within = (rank - below).max(0.0) / count;
                // The last cell has no upper bound.
                return Some(if upper.is_finite() { lower + (upper - lower) * within } else { lower });
            }
            below += count;
            lower = upper;
        }
        None
    }

    /// Adds `count` observations of zero duration.
    pub fn with_instant(mut self, count: u64) -> Self {
        self.0[0] += count;
        self
    }
}

impl Add for Buckets {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(cell, more)| *cell += more);
        self
    }
}

impl Sub for Buckets {
    type Output = Self;

    fn sub(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(cell, less)| *cell = cell.saturating_sub(less));
        self
    }
}

/// Observations of one worker.
#[derive(Default)]
pub struct Histogram([Cell<u64>; CELLS]);

impl Histogram {
    /// Counts a time in microseconds.
    #[inline]
    pub fn observe(&self, us: u64) {
        let cell = &self.0[cell_of(us)];
        cell.set(cell.get() + 1);
    }

    /// Current counts.
    pub fn buckets(&self) -> Buckets {
        Buckets(self.0.each_ref().map(Cell::get))
    }
}

/// Observations of all threads, for rare events.
#[derive(Default)]
pub struct SharedHistogram {
    cells: [AtomicU64; CELLS],
    sum_us: AtomicU64,
}

impl SharedHistogram {
    /// Counts a time.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.cells[cell_of(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Current counts, and the sum of all times in microseconds.
    pub fn read(&self) -> (Buckets, u64) {
        let cells = self.cells.each_ref().map(|cell| cell.load(Ordering::Relaxed));
        (Buckets(cells), self.sum_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bound_is_included_in_its_cell() {
        assert_eq!([0, 1, 64, 65, 128, 129].map(cell_of), [0, 0, 0, 1, 1, 2]);
        assert_eq!(cell_of(1 << 25), BOUNDS - 1);
        assert_eq!([(1 << 25) + 1, u64::MAX].map(cell_of), [BOUNDS; 2]);
        assert_eq!(bound_seconds(0), 0.000_064);
        assert_eq!(bound_seconds(BOUNDS - 1), 33.554_432);
    }

    proptest! {
        #[test]
        fn every_time_is_in_the_cell_between_its_bounds(us in prop_oneof![0..100_000_000u64, any::<u64>()]) {
            let cell = cell_of(us);
            let seconds = us as f64 / 1e6;
            prop_assert!(seconds <= bound_seconds(cell));
            prop_assert!(cell == 0 || seconds > bound_seconds(cell - 1));
        }
    }

    #[test]
    fn sums_and_differences_are_taken_per_cell() {
        let (one, two) = (Histogram::default(), Histogram::default());
        for us in [1, 100, 100, 1_000_000_000] {
            one.observe(us);
        }
        two.observe(100);
        let sum = one.buckets() + two.buckets();
        assert_eq!((sum.count(), sum.cells().nth(1)), (5, Some((0.000_128, 3))));
        assert_eq!(sum - one.buckets(), two.buckets());
        assert_eq!(one.buckets().with_instant(7).count(), 11);
    }

    #[test]
    fn quantiles_are_estimated_within_a_cell() {
        let histogram = Histogram::default();
        assert_eq!(histogram.buckets().quantile(0.5), None);
        (0..98).for_each(|_| histogram.observe(100));
        [1000, u64::MAX].iter().for_each(|us| histogram.observe(*us));
        let quantile = |part| histogram.buckets().quantile(part).unwrap();
        assert!((0.000_064..=0.000_128).contains(&quantile(0.5)), "{}", quantile(0.5));
        assert!((0.000_512..=0.001_024).contains(&quantile(0.99)), "{}", quantile(0.99));
        assert_eq!(quantile(1.0), 33.554_432);
    }

    #[test]
    fn threads_share_a_histogram() {
        let shared = SharedHistogram::default();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..1000).for_each(|_| shared.observe(Duration::from_millis(3))));
            }
        });
        let (buckets, sum_us) = shared.read();
        assert_eq!((buckets.count(), sum_us), (2000, 6_000_000));
    }
}
