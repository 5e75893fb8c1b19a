//! What a run has found out, and the figures that stand for several. Owns samples, gaps, medians and ranges; it
//! measures nothing and prints nothing.

use crate::contenders::Contender;
use crate::metrics::ParsedMetric;

/// One figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunSample {
    /// Index of the row.
    pub(crate) row: usize,
    /// Whose it is.
    pub(crate) contender: Contender,
    /// In which table it belongs.
    pub(crate) metric: ParsedMetric,
    /// The figure, in the metric's unit.
    pub(crate) value: f64,
}

/// Why a contender has no figures in a row.
#[derive(Debug, Clone)]
pub(crate) struct Gap {
    /// Index of the row.
    pub(crate) row: usize,
    /// Whose they are.
    pub(crate) contender: Contender,
    /// The reason.
    pub(crate) reason: String,
    /// True when it should have had some.
    pub(crate) is_failure: bool,
}

/// Everything a run has found out.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// All figures.
    pub(crate) samples: Vec<RunSample>,
    /// All gaps.
    pub(crate) gaps: Vec<Gap>,
}

impl Results {
    /// The summary of one cell; `None` where there are no figures.
    pub(crate) fn summary(&self, row: usize, contender: Contender, metric: ParsedMetric) -> Option<Summary> {
        let of_cell =
            |sample: &&RunSample| (sample.row, sample.contender, sample.metric) == (row, contender, metric);
        Summary::of(self.samples.iter().filter(of_cell).map(|sample| sample.value).collect())
    }

    /// Throws away what `contender` has in `row`.
    pub(crate) fn forget(&mut self, row: usize, contender: Contender) {
        self.samples.retain(|sample| (sample.row, sample.contender) != (row, contender));
    }

    /// How many gaps should not be there. One that nobody has to have may fail without ending a run as failed.
    pub(crate) fn failures(&self) -> usize {
        self.gaps.iter().filter(|gap| gap.is_failure && !gap.contender.is_optional()).count()
    }
}

/// Median and range of one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle one, or the mean of the two in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Summary {
    /// Of any number of figures; `None` of none.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of(vec![]), None);
        assert_eq!(Summary::of(vec![3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(vec![4.0, 1.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn cells_do_not_mix() {
        let mut results = Results::default();
        for (row, contender, value) in [(0, Contender::Iambouncer, 1.0), (0, Contender::Epoll, 2.0)] {
            results.samples.push(RunSample { row, contender, metric: ParsedMetric::Throughput, value });
        }
        let median = |results: &Results, contender| {
            results.summary(0, contender, ParsedMetric::Throughput).map(|summary| summary.median)
        };
        assert_eq!(median(&results, Contender::Epoll), Some(2.0));
        results.forget(0, Contender::Epoll);
        assert_eq!(median(&results, Contender::Epoll), None);
        assert_eq!(median(&results, Contender::Iambouncer), Some(1.0));
    }
}
