//! Turns samples into the Markdown of `bench/RESULTS.md`. Owns medians, ratios and layout; it measures nothing.

use std::fmt::Write as _;

use crate::budget::Budget;
use crate::instructions::{Count, NAME};
use crate::machine::Machine;
use crate::plan::{Metric, Row};
use crate::poolers::Side;
use crate::rounds::{Gap, Results};

/// Median and range of one cell.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Summary {
    median: f64,
    min: f64,
    max: f64,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Self> {
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

/// Instructions per query with their budget, or why there are none.
type Counted = anyhow::Result<(Vec<Count>, Budget)>;

/// The whole page.
pub(crate) fn page(
    machine: &Machine,
    command: &str,
    ini: &str,
    rows: &[Row],
    results: &Results,
    counted: Option<&Counted>,
) -> String {
    let mut page = String::from(
        "# Results\n\n<!-- Written by `make bench`. Do not edit. -->\n\n\
         iambouncer and PgBouncer side by side: the same INI file, the same PostgreSQL, rounds in turns. Each\n\
         cell is the median of the rounds with the smallest and largest in brackets. The ratio is iambouncer's\n\
         median over PgBouncer's.\n\n",
    );
    machine.write(&mut page, command);
    for metric in Metric::ALL {
        table(&mut page, metric, rows, results);
    }
    if let Some(counted) = counted {
        instructions(&mut page, counted);
    }
    gaps(&mut page, rows, &results.gaps);
    page.push_str(METHOD);
    let _ = writeln!(page, "\n## The INI file of the first row\n\n```ini\n{}\n```", ini.trim_end());
    page
}

const METHOD: &str = "## How it is measured\n\n\
    - Load generator, pooler and PostgreSQL share the machine and talk over TCP on 127.0.0.1. On few cores\n  \
      the throughput says how fast all three are together; the CPU time is the pooler's alone.\n\
    - CPU time is the scheduler's count (`/proc/PID/task/*/schedstat`), user and system, of all threads of\n  \
      the pooler, from before pgbench starts to after it has ended: its logins are included.\n\
    - Transactions are those of `pgbench -S`: one indexed SELECT of one row each. A second of warm-up fills\n  \
      the pool before the first round.\n\
    - A login row is `pgbench -S -C` with 8 clients: connect, one query, disconnect.\n\
    - Idle clients have run one query each. The growth of the process is divided by their number; memory of\n  \
      the kernel's sockets is not in it.\n\
    - A large result is one SELECT of rows of 1000 bytes, read and thrown away by a raw client.\n\
    - TLS to the server is `verify-full`. All keys are ECDSA P-256. Neither side logs logins.\n\
    - Instructions are counted by Valgrind's callgrind while the relay runs, in user space, for `SELECT 1` over\n  \
      one connection: the difference between a long and a short run, divided by the difference in queries.\n";

/// A table of our own: it compares with the budget, not with PgBouncer.
fn instructions(page: &mut String, counted: &Counted) {
    let _ = writeln!(page, "## {}{} (less is better)\n", NAME[..1].to_uppercase(), &NAME[1..]);
    let _ = match counted {
        Ok((counts, budget)) => writeln!(page, "{}", budget.table(counts)),
        Err(error) => writeln!(page, "Failed: {}\n", format!("{error:#}").replace('\n', " ")),
    };
}

fn table(page: &mut String, metric: Metric, rows: &[Row], results: &Results) {
    let summary = |row: usize, side: Side| {
        let of_cell = results.samples.iter().filter(|s| s.row == row && s.side == side && s.metric == metric);
        Summary::of(of_cell.map(|sample| sample.value).collect())
    };
    let mut lines = String::new();
    for (index, row) in rows.iter().enumerate() {
        let [ours, theirs] = Side::BOTH.map(|side| summary(index, side));
        if ours.is_none() && theirs.is_none() {
            continue;
        }
        let ratio = match (ours, theirs) {
            (Some(ours), Some(theirs)) if theirs.median > 0.0 => {
                format!("{:.2}", ours.median / theirs.median)
            }
            _ => "–".to_owned(),
        };
        let _ = writeln!(lines, "| {} | {} | {} | {ratio} |", row.name, cell(ours), cell(theirs));
    }
    if !lines.is_empty() {
        let _ = writeln!(page, "## {}\n", metric.title());
        let _ = writeln!(page, "| | iambouncer | PgBouncer | ratio |\n|---|---:|---:|---:|\n{lines}");
    }
}

fn cell(summary: Option<Summary>) -> String {
    summary.map_or_else(
        || "n/a".to_owned(),
        |Summary { median, min, max }| format!("{} ({}–{})", figure(median), figure(min), figure(max)),
    )
}

/// Three digits that mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn gaps(page: &mut String, rows: &[Row], gaps: &[Gap]) {
    if gaps.is_empty() {
        return;
    }
    page.push_str("## Figures that are missing\n\n");
    for gap in gaps {
        let Some(row) = rows.get(gap.row) else { continue };
        let kind = if gap.is_failure { "failed" } else { "not applicable" };
        let reason = gap.reason.lines().collect::<Vec<_>>().join(" ");
        let _ = writeln!(page, "- {}, {}: {kind}: {reason}", row.name, gap.side.name());
    }
    page.push('\n');
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
    fn figures_keep_three_digits() {
        assert_eq!([figure(1234.5), figure(12.34), figure(1.234)], ["1234", "12.3", "1.23"]);
    }
}
