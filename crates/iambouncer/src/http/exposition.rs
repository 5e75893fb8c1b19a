//! The text of a scrape, in Prometheus' text format or in OpenMetrics. Owns the syntax of both; defines no names and no
//! values.

use super::metric::{Metric, MetricDescription, MetricKind, MetricValue, Sample};
use std::fmt::Write as _;

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpositionFormat {
    /// Version 0.0.4, which every agent reads.
    Prometheus,
    /// Version 1.0.0.
    OpenMetrics,
}

impl ExpositionFormat {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics of a table as text.
pub(super) fn text<F>(table: &[Metric<F>], figures: &F, format: ExpositionFormat) -> String {
    let mut page = Page { text: String::new(), format };
    for metric in table {
        page.describe(&metric.description);
        let name = metric.description.full_name();
        for sample in (metric.samples)(figures) {
            debug_assert_eq!(metric.description.labels.len(), sample.labels.len(), "{name}");
            page.sample(&name, metric.description.labels, &sample);
        }
    }
    if format == ExpositionFormat::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

struct Page {
    text: String,
    format: ExpositionFormat,
}

impl Page {
    fn describe(&mut self, metric: &MetricDescription) {
        let (name, kind) = match (self.format, metric.kind) {
            // The older format has no such type.
            (ExpositionFormat::Prometheus, MetricKind::Info) => (metric.full_name(), MetricKind::Gauge),
            (ExpositionFormat::Prometheus, kind) => (metric.full_name(), kind),
            (ExpositionFormat::OpenMetrics, kind) => (metric.family(), kind),
        };
        self.text.push_str("# HELP ");
        self.text.push_str(&name);
        self.text.push(' ');
        self.escape(metric.help, self.format == ExpositionFormat::OpenMetrics);
        self.line(format_args!("\n# TYPE {name} {}\n", kind.as_str()));
        if let (ExpositionFormat::OpenMetrics, Some(unit)) = (self.format, metric.unit) {
            self.line(format_args!("# UNIT {name} {}\n", unit.as_str()));
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(line);
    }

    fn sample(&mut self, name: &str, labels: &[&str], sample: &Sample) {
        match sample.value {
            MetricValue::Count(count) => self.value(name, "", labels, sample, None, format_args!("{count}")),
            MetricValue::CountUs(us) => {
                self.value(name, "", labels, sample, None, format_args!("{}", us as f64 / 1e6));
            }
            MetricValue::Gauge(value) => {
                self.value(name, "", labels, sample, None, format_args!("{}", Number(value)));
            }
            MetricValue::Info => self.value(name, "", labels, sample, None, format_args!("1")),
            MetricValue::Histogram { buckets, sum_us } => {
                let mut cumulative = 0;
                for (bound, count) in buckets.cells() {
                    cumulative += count;
                    self.value(name, "_bucket", labels, sample, Some(bound), format_args!("{cumulative}"));
                }
                self.value(name, "_sum", labels, sample, None, format_args!("{}", sum_us as f64 / 1e6));
                self.value(name, "_count", labels, sample, None, format_args!("{cumulative}"));
            }
        }
    }

    fn value(
        &mut self,
        name: &str,
        suffix: &str,
        labels: &[&str],
        sample: &Sample,
        bound: Option<f64>,
        value: std::fmt::Arguments<'_>,
    ) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let mut opening = '{';
        for (label, value) in labels.iter().zip(&sample.labels) {
            self.line(format_args!("{opening}{label}=\""));
            self.escape(value, true);
            self.text.push('"');
            opening = ',';
        }
        if let Some(bound) = bound {
            self.line(format_args!("{opening}le=\"{}\"", Number(bound)));
            opening = ',';
        }
        if opening == ',' {
            self.text.push('}');
        }
        self.line(format_args!(" {value}\n"));
    }

    fn escape(&mut self, text: &str, with_quotes: bool) {
        for character in text.chars() {
            match character {
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '"' if with_quotes => self.text.push_str("\\\""),
                other => self.text.push(other),
            }
        }
    }
}

/// A number as both formats write it.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            number => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::{Unit, sample};
    use super::*;
    use crate::stats::histogram::Histogram;
    use ExpositionFormat::{OpenMetrics, Prometheus};

    const fn metric(
        kind: MetricKind,
        unit: Option<Unit>,
        samples: fn(&Histogram) -> Vec<Sample>,
    ) -> Metric<Histogram> {
        let labels = &["a"];
        let help = "A \"word\" \\ and.";
        Metric {
            description: MetricDescription { prefix: "test", stem: "row", kind, unit, labels, help },
            samples,
        }
    }

    #[test]
    fn the_formats_differ_in_names_types_and_units() {
        let counter = metric(MetricKind::Counter, Some(Unit::Bytes), |_| {
            vec![sample(["a\"b\\c\ndü"], MetricValue::Count(7))]
        });
        let info = metric(MetricKind::Info, None, |_| vec![sample([""], MetricValue::Info)]);
        let table = [counter, info];
        let series = "test_row_bytes_total{a=\"a\\\"b\\\\c\\ndü\"} 7\n";
        assert_eq!(
            text(&table, &Histogram::default(), Prometheus),
            format!(
                "# HELP test_row_bytes_total A \"word\" \\\\ and.\n# TYPE test_row_bytes_total counter\n{series}\
                 # HELP test_row_info A \"word\" \\\\ and.\n# TYPE test_row_info gauge\ntest_row_info{{a=\"\"}} 1\n"
            )
        );
        assert_eq!(
            text(&table, &Histogram::default(), OpenMetrics),
            format!(
                "# HELP test_row_bytes A \\\"word\\\" \\\\ and.\n# TYPE test_row_bytes counter\n\
                 # UNIT test_row_bytes bytes\n{series}\
                 # HELP test_row A \\\"word\\\" \\\\ and.\n# TYPE test_row info\ntest_row_info{{a=\"\"}} 1\n# EOF\n"
            )
        );
    }

    #[test]
    fn histograms_are_cumulative_and_sum_to_their_count() {
        let row = metric(MetricKind::Histogram, Some(Unit::Seconds), |histogram| {
            let value = MetricValue::Histogram { buckets: histogram.buckets(), sum_us: 100_000_150 };
            vec![sample(["d"], value)]
        });
        let histogram = Histogram::default();
        [50, 100, 100_000_000].iter().for_each(|us| histogram.observe(*us));
        let text = text(&[row], &histogram, Prometheus);
        for line in [
            "# TYPE test_row_seconds histogram",
            "test_row_seconds_bucket{a=\"d\",le=\"0.000064\"} 1",
            "test_row_seconds_bucket{a=\"d\",le=\"0.000128\"} 2",
            "test_row_seconds_bucket{a=\"d\",le=\"33.554432\"} 2",
            "test_row_seconds_bucket{a=\"d\",le=\"+Inf\"} 3",
            "test_row_seconds_sum{a=\"d\"} 100.00015",
            "test_row_seconds_count{a=\"d\"} 3",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\nin\n{text}");
        }
    }
}
