//! What a metric is: its description, its series and their values. Owns the rules by which names are composed; the
//! tables have the metrics, [`super::exposition`] the text.

use crate::stats::histogram::Buckets;

/// How a metric behaves over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases while the process runs.
    Counter,
    /// Increases and decreases.
    Gauge,
    /// Counts in buckets by size.
    Histogram,
    /// Labels only.
    Info,
}

impl MetricKind {
    /// Its name in tables and in OpenMetrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// The unit of the values; plain counts have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The suffix of the name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// The description of a metric.
pub struct MetricDescription {
    /// Prefix of the names of its table.
    pub(super) prefix: &'static str,
    /// Name without prefix, unit and suffix.
    pub(super) stem: &'static str,
    /// Behavior over time.
    pub kind: MetricKind,
    /// Unit.
    pub unit: Option<Unit>,
    /// Names of labels.
    pub labels: &'static [&'static str],
    /// Help text of one sentence.
    pub help: &'static str,
}

impl MetricDescription {
    /// The name in a metrics store, without the suffixes of histograms.
    pub fn full_name(&self) -> String {
        let suffix = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        format!("{}{suffix}", self.family())
    }

    /// The name of the family in OpenMetrics, which has no suffix.
    pub fn family(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        format!("{}_{}{unit}", self.prefix, self.stem)
    }
}

/// A row of a table of metrics, whose values come from an `F`.
pub(super) struct Metric<F: 'static> {
    pub(super) description: MetricDescription,
    pub(super) samples: fn(&F) -> Vec<Sample>,
}

/// The values of one scrape, from which all metrics of a table come.
pub(super) trait MetricSource {
    /// Prefix of the names of its table.
    const PREFIX: &'static str;
}

pub(super) const SECONDS: Option<Unit> = Some(Unit::Seconds);
pub(super) const BYTES: Option<Unit> = Some(Unit::Bytes);

/// A row of the table of `F`.
pub(super) const fn row<F: MetricSource>(
    stem: &'static str,
    kind: MetricKind,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&F) -> Vec<Sample>,
) -> Metric<F> {
    Metric { description: MetricDescription { prefix: F::PREFIX, stem, kind, unit, labels, help }, samples }
}

/// The descriptions of a table, in the order of a scrape.
pub(super) fn descriptions<F>(
    table: &'static [Metric<F>],
) -> impl Iterator<Item = &'static MetricDescription> {
    table.iter().map(|metric| &metric.description)
}

/// One series at one time.
pub(super) struct Sample {
    /// In the order of the row's label names.
    pub(super) labels: Vec<String>,
    pub(super) value: MetricValue,
}

/// The value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum MetricValue {
    Count(u64),
    /// A counter of a time, in microseconds.
    CountUs(u64),
    Gauge(f64),
    Histogram {
        buckets: Buckets,
        sum_us: u64,
    },
    Info,
}

pub(super) fn sample<const N: usize>(labels: [&str; N], value: MetricValue) -> Sample {
    Sample { labels: labels.map(str::to_owned).into(), value }
}

pub(super) fn one(value: MetricValue) -> Vec<Sample> {
    vec![sample([], value)]
}

pub(super) fn whole(value: u64) -> MetricValue {
    MetricValue::Gauge(value as f64)
}

pub(super) fn flag(is_set: bool) -> MetricValue {
    whole(is_set.into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Checks the rows of a table.
    pub(in super::super) fn check_names<F>(table: &[Metric<F>]) {
        let names: BTreeSet<String> = table.iter().map(|metric| metric.description.full_name()).collect();
        assert_eq!(names.len(), table.len());
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        for MetricDescription { stem, labels, help, kind, unit, .. } in table.iter().map(|m| &m.description) {
            assert!(is_word(stem) && labels.iter().all(|label| is_word(label)), "{stem}");
            assert!(!stem.ends_with("_total") && !stem.ends_with("_info"), "{stem}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{stem}");
            assert!(*kind != MetricKind::Histogram || *unit == Some(Unit::Seconds), "{stem}");
        }
    }
}
