//! The results of a run and their summaries. Owns samples, gaps, medians and ranges; never measures or
//! prints.

use crate::contenders::Contender;
use crate::metrics::ParsedMetric;

/// One figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunSample {
    /// Index of the row.
    pub(crate) row: usize,
    /// The contender it belongs to.
    pub(crate) contender: Contender,
    /// The table it belongs to.
    pub(crate) metric: ParsedMetric,
    /// The figure, in the metric's unit.
    pub(crate) value: f64,
}

/// Why a contender has no figures in a row.
#[derive(Debug, Clone)]
pub(crate) struct Gap {
    /// Index of the row.
    pub(crate) row: usize,
    /// The contender.
    pub(crate) contender: Contender,
    /// The reason.
    pub(crate) reason: String,
    /// True if it should have figures.
    pub(crate) is_failure: bool,
}

/// All results of a run.
#[derive(Debug, Default)]
pub(crate) struct Results {
    /// All figures.
    pub(crate) samples: Vec<RunSample>,
    /// All gaps.
    pub(crate) gaps: Vec<Gap>,
}

impl Results {
    /// The summary of one cell; `None` without figures.
    pub(crate) fn summary(&self, row: usize, contender: Contender, metric: ParsedMetric) -> Option<Summary> {
        let of_cell =
            |sample: &&RunSample| (sample.row, sample.contender, sample.metric) == (row, contender, metric);
        Summary::of(self.samples.iter().filter(of_cell).map(|sample| sample.value).collect())
    }

    /// Discards the figures of `contender` in `row`.
    pub(crate) fn discard(&mut self, row: usize, contender: Contender) {
        self.samples.retain(|sample| (sample.row, sample.contender) != (row, contender));
    }

    /// The number of gaps that are failures. Optional contenders may fail without failing the run.
    pub(crate) fn failures(&self) -> usize {
        self.gaps.iter().filter(|gap| gap.is_failure && !gap.contender.is_optional()).count()
    }
}

/// Median and range of one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle figure, or the mean of the middle two.
    pub(crate) median: f64,
    /// The smallest figure.
    pub(crate) min: f64,
    /// The largest figure.
    pub(crate) max: f64,
}

impl Summary {
    /// The summary of any number of figures; `None` if there are none.
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
    fn the_median_is_the_middle_figure_or_the_mean_of_two() {
        assert_eq!(Summary::of(vec![]), None);
        assert_eq!(Summary::of(vec![3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(vec![4.0, 1.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn cells_are_independent() {
        let mut results = Results::default();
        for (row, contender, value) in [(0, Contender::Iambouncer, 1.0), (0, Contender::Epoll, 2.0)] {
            results.samples.push(RunSample { row, contender, metric: ParsedMetric::Throughput, value });
        }
        let median = |results: &Results, contender| {
            results.summary(0, contender, ParsedMetric::Throughput).map(|summary| summary.median)
        };
        assert_eq!(median(&results, Contender::Epoll), Some(2.0));
        results.discard(0, Contender::Epoll);
        assert_eq!(median(&results, Contender::Epoll), None);
        assert_eq!(median(&results, Contender::Iambouncer), Some(1.0));
    }
}
