//! The text of a scrape: OpenMetrics, encoded by the official crate. Owns the conversion from the table's values to
//! that crate's calls; defines no names and no values.

use super::figures::Figures;
use super::metrics_table::{Metric, MetricKind, MetricValue, PREFIX, Sample, Unit, table};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as CrateUnit};
use std::fmt;
use std::sync::Arc;

/// All metrics of one scrape as text.
pub(super) fn text(figures: &Arc<Figures>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape(figures.clone())));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Arc<Figures>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in table() {
            let unit = metric.unit.map(|unit| match unit {
                Unit::Seconds => CrateUnit::Seconds,
                Unit::Bytes => CrateUnit::Bytes,
            });
            let kind = match metric.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
                MetricKind::Histogram => MetricType::Histogram,
                MetricKind::Info => MetricType::Info,
            };
            let mut lines = encoder.encode_descriptor(metric.stem(), metric.help, unit.as_ref(), kind)?;
            for sample in metric.samples(&self.0) {
                write_sample(&mut lines, metric, &sample)?;
            }
        }
        Ok(())
    }
}

fn write_sample(lines: &mut MetricEncoder<'_>, metric: &Metric, sample: &Sample) -> fmt::Result {
    debug_assert_eq!(metric.labels.len(), sample.labels.len(), "{}", metric.stem());
    let labels: Vec<(&str, &str)> =
        metric.labels.iter().copied().zip(sample.labels.iter().map(String::as_str)).collect();
    if let MetricValue::Info = sample.value {
        return lines.encode_info(&labels);
    }
    if labels.is_empty() {
        return write_value(lines, &sample.value);
    }
    write_value(&mut lines.encode_family(&labels)?, &sample.value)
}

fn write_value(line: &mut MetricEncoder<'_>, value: &MetricValue) -> fmt::Result {
    match value {
        MetricValue::Count(count) => line.encode_counter::<NoLabelSet, u64, u64>(count, None),
        MetricValue::Gauge(value) => line.encode_gauge(value),
        MetricValue::Histogram { buckets, sum_us } => {
            let cells: Vec<(f64, u64)> = buckets.cells().collect();
            let sum = *sum_us as f64 / 1e6;
            line.encode_histogram::<NoLabelSet>(sum, buckets.count(), &cells, None)
        }
        MetricValue::Info => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::LoginFigures;
    use super::*;
    use crate::health_state::LastReload;
    use crate::stats::Totals;
    use crate::stats::histogram::Histogram;
    use crate::stats::snapshot::{Durations, PoolCounts};
    use std::collections::BTreeMap;
    use std::time::SystemTime;

    fn figures(pools: Vec<((String, String), PoolCounts)>) -> Arc<Figures> {
        Arc::new(Figures {
            pools,
            logging_in: 1,
            on_console: 2,
            workers_answered: 2,
            workers_silent: 0,
            scrape_errors: 0,
            logins: LoginFigures::default(),
            tokens: BTreeMap::new(),
            credentials: Vec::new(),
            secrets: Vec::new(),
            is_ready: true,
            is_draining: false,
            last_reload: LastReload { succeeded_at_s: 1_700_000_000, is_last_good: true },
            began_at: SystemTime::UNIX_EPOCH,
        })
    }

    #[test]
    fn label_values_are_escaped() {
        let key = ("a\"b\\c\nd".to_owned(), "ü".to_owned());
        let totals = Totals { queries: 7, ..Totals::default() };
        let counts = PoolCounts { totals, ..PoolCounts::default() };
        let text = text(&figures(vec![(key, counts)])).unwrap();
        let line = "iambouncer_queries_total{database=\"a\\\"b\\\\c\\nd\",user=\"ü\"} 7\n";
        assert!(text.contains(line), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn histograms_are_cumulative_and_sum_to_their_count() {
        let histogram = Histogram::default();
        [50, 100, 100_000_000].iter().for_each(|us| histogram.observe(*us));
        let totals = Totals { query_us: 100_000_150, ..Totals::default() };
        let durations = Durations { queries: histogram.buckets(), ..Durations::default() };
        let counts = PoolCounts { totals, durations, ..PoolCounts::default() };
        let text = text(&figures(vec![(("d".to_owned(), "u".to_owned()), counts)])).unwrap();
        let name = "iambouncer_query_duration_seconds";
        for line in [
            format!("# TYPE {name} histogram"),
            format!("# UNIT {name} seconds"),
            format!("{name}_sum{{database=\"d\",user=\"u\"}} 100.00015"),
            format!("{name}_count{{database=\"d\",user=\"u\"}} 3"),
            format!("{name}_bucket{{le=\"0.000064\",database=\"d\",user=\"u\"}} 1"),
            format!("{name}_bucket{{le=\"0.000128\",database=\"d\",user=\"u\"}} 2"),
            format!("{name}_bucket{{le=\"33.554432\",database=\"d\",user=\"u\"}} 2"),
            format!("{name}_bucket{{le=\"+Inf\",database=\"d\",user=\"u\"}} 3"),
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\nin\n{text}");
        }
    }

    #[test]
    fn every_row_of_the_table_has_its_help_in_the_text() {
        let text = text(&figures(Vec::new())).unwrap();
        for metric in table() {
            let name = metric.full_name();
            let family = name.trim_end_matches("_total").trim_end_matches("_info");
            assert!(text.contains(&format!("# HELP {family} {}\n", metric.help)), "{name}");
        }
    }
}
