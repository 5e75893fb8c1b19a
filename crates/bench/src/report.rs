//! Converts samples to the Markdown of `bench/RESULTS.md`. Owns columns, ratios and layout; never measures.

use std::fmt::Write as _;

use crate::budget::Budget;
use crate::contenders::Contender;
use crate::goals;
use crate::instructions::{Count, NAME};
use crate::machine::Machine;
use crate::metrics::{MetricsSection, ParsedMetric};
use crate::plan::PlanRow;
use crate::storm_phases;
use crate::summary::{Gap, Results, Summary};

/// Instructions per query with their budget, or the reason why they are missing.
type Counted = anyhow::Result<(Vec<Count>, Budget)>;

/// The inputs of the page.
pub(crate) struct ResultsPage<'a> {
    /// The environment of the run.
    pub(crate) machine: &'a Machine,
    /// The command that repeats the run.
    pub(crate) command: &'a str,
    /// The first row's INI file.
    pub(crate) ini: &'a str,
    /// The rows that were measured.
    pub(crate) rows: &'a [PlanRow],
    /// Their results.
    pub(crate) results: &'a Results,
    /// Instructions, if they were counted.
    pub(crate) counted: Option<&'a Counted>,
    /// The plot next to the page, if there is one.
    pub(crate) plot: Option<&'a str>,
}

impl ResultsPage<'_> {
    /// The whole page.
    pub(crate) fn text(&self) -> String {
        let mut page = String::from(HEAD);
        self.machine.write(&mut page, self.command);
        goals::write(&mut page, self.rows, self.results);
        for section in MetricsSection::ALL {
            self.section(&mut page, section);
        }
        if let Some(counted) = self.counted {
            instructions(&mut page, counted);
        }
        gaps(&mut page, self.rows, &self.results.gaps);
        page.push_str(METHOD);
        let ini = self.ini.trim_end();
        let _ = writeln!(page, "\n## The INI file of the first row\n\n```ini\n{ini}\n```");
        page
    }

    fn section(&self, page: &mut String, section: MetricsSection) {
        let tables: String = section.metrics().iter().map(|&metric| self.table(section, metric)).collect();
        if tables.is_empty() {
            return;
        }
        let _ = writeln!(page, "## {}\n", section.title());
        if let (MetricsSection::Sweep, Some(plot)) = (section, self.plot) {
            let _ = writeln!(page, "![Throughput and p99 against clients]({plot})\n");
        }
        page.push_str(&tables);
        if section == MetricsSection::Storms {
            storm_phases::write(page, self.rows, self.results);
        }
    }

    /// A column for each contender with figures, followed by their ratios.
    fn table(&self, section: MetricsSection, metric: ParsedMetric) -> String {
        let rows: Vec<_> = self.rows.iter().enumerate().filter(|(_, row)| row.section == section).collect();
        let cell = |row, contender| self.results.summary(row, contender, metric);
        let has_figures =
            |contender: &Contender| rows.iter().any(|&(row, _)| cell(row, *contender).is_some());
        let columns: Vec<_> = Contender::ALL.into_iter().filter(has_figures).collect();
        if columns.is_empty() {
            return String::new();
        }
        let mut table = format!("### {}\n\n", metric.title());
        let ratios = ratios(&columns, metric);
        let names = columns.iter().map(|column| column.name().to_owned());
        let quotients = ratios.iter().map(|one| format!("{} / {}", one.short(), Contender::BASE.short()));
        line(&mut table, "", names.chain(quotients));
        let rules = vec!["---:".to_owned(); columns.len() + ratios.len()];
        let _ = writeln!(table, "|---|{}|", rules.join("|"));
        for (index, row) in rows {
            if !columns.iter().any(|&column| cell(index, column).is_some()) {
                continue;
            }
            let base = cell(index, Contender::BASE);
            let figures = columns.iter().map(|&column| figures(cell(index, column)));
            let quotients = ratios.iter().map(|&one| quotient(cell(index, one), base));
            line(&mut table, &row.name, figures.chain(quotients));
        }
        table.push('\n');
        table
    }
}

/// Maximum length of a reason on the page; the run has printed all of it.
const MAX_REASON_CHARS: usize = 200;

const HEAD: &str = "# Results\n\n<!-- Written by `make bench`. Do not edit. -->\n\n\
    iambouncer and others side by side: the same PostgreSQL, the same INI file if they read one, rounds in\n\
    turns. Each cell is the median of the rounds, with the smallest and largest in brackets if they differ. A\n\
    ratio is a median divided by PgBouncer's. HAProxy only relays bytes, with one server connection per client:\n\
    it shows the minimum cost of a process in between. Direct is without a process in between. `bench/NOTES.md`\n\
    explains how to read the tables.\n\n";

const METHOD: &str = "## How it is measured\n\n\
    - Load generator, pooler and PostgreSQL share the machine and use TCP on 127.0.0.1. With few cores\n  \
      the throughput is that of all three together; the CPU time is that of the pooler alone.\n\
    - CPU time is the scheduler's count (`/proc/PID/task/*/schedstat`), user and system, of all threads of\n  \
      the pooler, from before pgbench starts until it has exited: its logins are included.\n\
    - Transactions are those of `pgbench -S`: one indexed SELECT of one row each. Several thousand before the first\n  \
      round fill the pool. Latencies are pgbench's own log of every transaction.\n\
    - A login row is `pgbench -S -C` with 8 clients: connect, one query, disconnect. With SCRAM it is a raw client,\n  \
      two at a time, whose keys are derived beforehand.\n\
    - In a login storm, all clients connect at once and stay. OLTP beside it is `pgbench -S` in simple mode with 4\n  \
      clients, 400 queries per second in all; its p99 covers the time until all are logged in, and the\n  \
      pooler's CPU time includes it. Times of a login count from the call of connect.\n\
    - Idle clients have run one query each; no client resumes the TLS session of another. Growth of the process\n  \
      is divided by their number; kernel memory of sockets is not included. Remaining memory is read when it\n  \
      has stopped shrinking after all have disconnected.\n\
    - A large result is one SELECT, read and discarded by a raw client; COPY in is discarded by PostgreSQL. OLTP\n  \
      beside it is `pgbench -S` in simple mode; its p99 covers the time during which the result was read. With\n  \
      a rate given, latency is measured from the scheduled time, so it includes every stall. A slow client\n  \
      reads 20 MB per second, for a few seconds. Growth refers to the peak of resident memory.\n\
    - More and more clients: simple mode, plain, a pool of 20.\n\
    - All cores: simple mode, plain. \"tokio, mutex per pool\" is `crates/bench/examples/mutex_pool.rs`: not a\n  \
      complete pooler, but the alternative design for several threads.\n\
    - TLS to the server is `verify-full`. Keys are RSA-2048, unless a row states ECDSA (P-256). Logging of\n  \
      logins is off. iambouncer has its default, `workers = auto`, unless a row states otherwise; the others have\n  \
      one thread.\n\
    - Instructions are counted by Valgrind's callgrind while the relay runs, in user space, for `SELECT 1` over\n  \
      one connection: the difference between a long and a short run, divided by the difference in queries.\n";

/// The contenders whose ratios a table contains: all except the base and `Direct`, which has nothing in
/// between.
fn ratios(columns: &[Contender], metric: ParsedMetric) -> Vec<Contender> {
    if !metric.has_ratio() || !columns.contains(&Contender::BASE) {
        return Vec::new();
    }
    let others = columns.iter().copied();
    others.filter(|&one| one != Contender::BASE && one != Contender::Direct).collect()
}

/// A line of a table; the header if `name` is empty.
pub(crate) fn line(table: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<_> = cells.collect();
    let separator = if name.is_empty() { "" } else { " " };
    let _ = writeln!(table, "| {name}{separator}| {} |", cells.join(" | "));
}

/// A cell: the median, and the range if there is one.
pub(crate) fn figures(summary: Option<Summary>) -> String {
    match summary {
        None => "n/a".to_owned(),
        // A single round, or equal rounds: no range.
        Some(Summary { median, min, max }) if min >= max => figure(median),
        Some(Summary { median, min, max }) => {
            format!("{} ({}–{})", figure(median), figure(min), figure(max))
        }
    }
}

/// A cell: the ratio of two medians.
pub(crate) fn quotient(of: Option<Summary>, base: Option<Summary>) -> String {
    match (of, base) {
        (Some(of), Some(base)) if base.median > 0.0 => format!("{:.2}", of.median / base.median),
        _ => "–".to_owned(),
    }
}

/// Three significant digits.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A separate table, because it compares with the budget instead of PgBouncer.
fn instructions(page: &mut String, counted: &Counted) {
    let _ = writeln!(page, "## {}{} (less is better)\n", NAME[..1].to_uppercase(), &NAME[1..]);
    let _ = match counted {
        Ok((counts, budget)) => writeln!(page, "{}", budget.table(counts)),
        Err(error) => writeln!(page, "Failed: {}\n", format!("{error:#}").replace('\n', " ")),
    };
}

fn gaps(page: &mut String, rows: &[PlanRow], gaps: &[Gap]) {
    if gaps.is_empty() {
        return;
    }
    page.push_str("## Missing measurements\n\n");
    for gap in gaps {
        let Some(row) = rows.get(gap.row) else { continue };
        let kind = if gap.is_failure { "failed" } else { "not applicable" };
        let _ = writeln!(page, "- {}, {}: {kind}: {}", row.name, gap.contender.name(), brief(&gap.reason));
    }
    page.push('\n');
}

/// A single line of limited length.
fn brief(reason: &str) -> String {
    let words: Vec<_> = reason.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_REASON_CHARS) {
        Some((end, _)) => format!("{} …", line[..end].trim_end()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_significant_digits() {
        assert_eq!([1234.5, 12.34, 1.234, 0.1234].map(figure), ["1234", "12.3", "1.23", "0.123"]);
    }

    #[test]
    fn a_reason_is_one_short_line() {
        assert_eq!(brief("a\n  b"), "a b");
        let long = brief(&"é ".repeat(500));
        assert!(long.chars().count() <= MAX_REASON_CHARS + 2 && long.ends_with('…'), "{long}");
    }

    #[test]
    fn only_programs_in_between_have_a_ratio() {
        let all = [Contender::Iambouncer, Contender::PgBouncer, Contender::Direct];
        assert_eq!(ratios(&all, ParsedMetric::Throughput), [Contender::Iambouncer]);
        assert_eq!(ratios(&all, ParsedMetric::PeakGrowth), []);
        assert_eq!(ratios(&all[..1], ParsedMetric::Throughput), []);
    }
}
