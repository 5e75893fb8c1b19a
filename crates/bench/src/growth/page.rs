//! Converts results to the Markdown of `bench/GROWTH.md`. Owns its text and its tables; never measures.

use std::fmt::Write as _;

use super::burst::{self, BurstRound};
use super::levels::{ACTIVE_CLIENTS, LevelRow};
use super::worker_counts::{COMPARED_WITH_TWO, WORKERS, WorkersRow};
use super::{GrowthResults, GrowthSettings, Section, statements, targets, tenants};
use crate::load::Length;
use crate::machine::Machine;
use crate::report::{figures, line};
use crate::summary::Summary;

/// The inputs of the page.
pub(super) struct GrowthPage<'a> {
    /// The environment of the run.
    pub(super) machine: &'a Machine,
    /// The command that repeats the run.
    pub(super) command: &'a str,
    /// The amounts that were measured.
    pub(super) settings: &'a GrowthSettings,
    /// The figures.
    pub(super) results: &'a GrowthResults,
}

/// What a section about sizes counts, and which columns it has.
struct LevelTable<'a> {
    title: &'a str,
    intro: &'a str,
    /// What the memory columns refer to.
    entry: Option<&'a str>,
    each: &'a str,
    has_idle: bool,
}

impl GrowthPage<'_> {
    /// The whole page.
    pub(super) fn text(&self) -> String {
        let GrowthResults { databases, users, clients, statements, workers, burst } = self.results;
        let mut page = String::from(HEAD);
        self.machine.write(&mut page, self.command);
        targets::write(&mut page, self.results);
        levels(&mut page, &DATABASES, databases);
        levels(&mut page, &USERS, users);
        levels(&mut page, &CLIENTS, clients);
        levels(&mut page, &STATEMENTS, statements);
        section(&mut page, "Workers", WORKERS_INTRO, workers, worker_table);
        section(&mut page, "A burst", &self.burst_intro(), burst, burst_table);
        self.method(&mut page);
        page.trim_end().to_owned() + "\n"
    }

    fn burst_intro(&self) -> String {
        let GrowthSettings { burst_clients, burst, .. } = self.settings;
        format!(
            "`workers = auto`. {} idle clients start to send batches at the same time, for {} s. A batch closes a statement that\n\
             does not exist {} times: the pooler answers it without a server. The spread ends when no active worker has fewer than\n\
             half of the mean number of clients (`SHOW WORKERS`, every few ms). Without a second active worker there is no\n\
             spread; p99 is then that of the first {} s and of the rest.",
            grouped(*burst_clients),
            burst.as_secs_f64(),
            burst::BATCH_MESSAGES,
            burst::FIRST.min(*burst / 2).as_secs_f64()
        )
    }

    fn method(&self, page: &mut String) {
        let GrowthSettings { idle, length, rounds, worker_rounds, delay_rounds, statements, .. } =
            self.settings;
        let length = match length {
            Length::Seconds(seconds) => format!("{seconds} s"),
            Length::Transactions(count) => format!("{} transactions", grouped(*count)),
        };
        let bytes = statements::text_bytes(statements.last().copied().unwrap_or(1));
        let _ = write!(
            page,
            "## How it is measured\n\n\
             - Load generator, poolers and PostgreSQL share the machine and use TCP on 127.0.0.1 without TLS. iambouncer has its\n  \
               default settings except for `max_client_conn`, addresses and logging. PgBouncer is measured at the smallest and the\n  \
               largest number.\n\
             - Authentication is `trust`: the passwords in `auth_file` are plain text and are not compared.\n\
             - While pools are made, `server_lifetime = 0` and `server_idle_timeout = 1` are set by the console; figures are measured\n  \
               with the defaults, after all servers are closed. At most {} users log in, each with a role of its own.\n\
             - CPU time is the scheduler's count, user and system, of all threads of the pooler. When idle, it is measured over\n  \
               {} s. Per query, it is that of `pgbench -S` with {ACTIVE_CLIENTS} clients for {length}: simple mode, in the section about\n  \
               statements prepared mode. Rounds: {rounds}, about workers {worker_rounds}. The sizes run in turn within a round, the\n  \
               clients only with the smallest; a ratio is the median of the ratios within the rounds.\n\
             - Memory is the growth of PSS divided by the number, without the pages of the program's file: these count less the more\n  \
               poolers share them. Kernel memory of sockets is not included.\n\
             - Delays: one client sends `SELECT 1` all the time, while a command runs {delay_rounds} times. A period is the command and the 20 ms\n  \
               after it. Each is followed by an equally long period without a command. The cells are the longest query of a\n  \
               period: median, with the smallest and largest in brackets. On few cores, a part of the difference is the wait for a\n  \
               core that the client of the command uses. The longest turn is the most CPU time that a worker took at a time\n  \
               (`longest_turn_us` in SHOW WORKERS), during which its clients wait.\n\
             - A scrape is `GET /metrics`. Pools after the first 200 have no series of their own.\n\
             - The texts of statements have up to {bytes} bytes; at most {} clients prepare them.\n",
            grouped(tenants::MOST_POOLS),
            idle.as_secs_f64(),
            statements::OWNERS
        );
    }
}

const HEAD: &str = "# Growth\n\n<!-- Written by `make bench-growth`. Do not edit. -->\n\n\
    How cost grows with the number of databases, users, clients, statements and workers. Less is better in all tables. Each\n\
    cell is the median of the rounds, with the smallest and largest in brackets if they differ. `bench/NOTES.md` says how to read\n\
    the tables.\n\n";

const DATABASES: LevelTable<'_> = LevelTable {
    title: "Databases",
    intro: "The INI file has this number of databases. Each was used once, so each has a pool; all servers are closed. One of them\nis queried.",
    entry: Some("database"),
    each: "pool",
    has_idle: true,
};
const USERS: LevelTable<'_> = LevelTable {
    title: "Users",
    intro: "`auth_file` has this number of users. Each, up to 10,000, was used once, so each has a pool; all servers are closed.\nOne of them queries.",
    entry: Some("user"),
    each: "pool",
    has_idle: true,
};
const CLIENTS: LevelTable<'_> = LevelTable {
    title: "Clients",
    intro: "This number of clients is idle; each has run one query. Others query.",
    entry: None,
    each: "client",
    has_idle: true,
};
const STATEMENTS: LevelTable<'_> = LevelTable {
    title: "Statements",
    intro: "Clients in transaction pooling have prepared this number of different statements. Others query, with statements of\ntheir own.",
    entry: None,
    each: "statement",
    has_idle: false,
};
const WORKERS_INTRO: &str = "CPU time per transaction in µs, `pgbench -S` in simple mode. Ratios are medians of those within the rounds.";

/// The heading and the table of a section, or why it failed; nothing if it was not requested.
fn section<T>(
    page: &mut String,
    title: &str,
    intro: &str,
    section: &Section<T>,
    table: impl FnOnce(&mut String, &[T]),
) {
    let Some(measured) = section else { return };
    let _ = writeln!(page, "## {title}\n\n{intro}\n");
    match measured {
        Ok(rows) => table(page, rows),
        Err(error) => {
            let _ = writeln!(page, "Failed: {}", format!("{error:#}").replace('\n', " "));
        }
    }
    page.push('\n');
}

fn levels(page: &mut String, kind: &LevelTable<'_>, measured: &Section<LevelRow>) {
    section(page, kind.title, kind.intro, measured, |page, rows| {
        level_table(page, kind, rows);
        page.push('\n');
        delay_table(page, rows);
    });
}

fn level_table(page: &mut String, kind: &LevelTable<'_>, rows: &[LevelRow]) {
    let idle = kind.has_idle.then(|| "CPU when idle, % of a core".to_owned());
    let entry = kind.entry.map(|entry| format!("KiB per {entry}"));
    let names =
        [format!("KiB per {}", kind.each), "CPU per query, µs".into(), "Ratio to the smallest".into()];
    header(page, idle.into_iter().chain(entry).chain(names));
    for row in rows {
        let idle = kind.has_idle.then(|| single(row.idle_percent));
        let entry = kind.entry.map(|_| single(row.entry_kib));
        let ratio = row.cpu_ratio.map_or_else(missing, |ratio| format!("{ratio:.2}"));
        let others = [single(row.each_kib), figures(row.cpu_us), ratio];
        line(page, &label(row), idle.into_iter().chain(entry).chain(others));
    }
}

fn delay_table(page: &mut String, rows: &[LevelRow]) {
    let names =
        ["Time, ms", "Longest turn, ms", "Longest query during it, ms", "Without it, ms", "Added, ms"];
    header(page, names.into_iter().map(str::to_owned));
    for row in rows {
        for delay in &row.delays {
            let added = delay.added_ms().map_or_else(missing, |added| format!("{added:+.1}"));
            let cells = [delay.time_ms, delay.turn_ms, delay.during_ms, delay.without_ms].map(figures);
            let name = format!("{}, {}", delay.action.title(), label(row));
            line(page, &name, cells.into_iter().chain([added]));
        }
    }
}

fn worker_table(page: &mut String, rows: &[WorkersRow]) {
    let to_two = COMPARED_WITH_TWO.map(|column| format!("{} / 2", WORKERS[column]));
    let ratios = to_two.into_iter().chain(["auto / better of 1 and 2".to_owned()]);
    header(page, WORKERS.into_iter().map(str::to_owned).chain(ratios));
    for row in rows {
        let cells = (0..WORKERS.len()).map(|column| figures(row.cell(column)));
        let to_two = COMPARED_WITH_TWO.map(|column| row.ratio_to_two(column));
        let ratios = to_two.into_iter().chain([row.auto_to_best()]);
        let ratios = ratios.map(|ratio| ratio.map_or_else(missing, |ratio| format!("{ratio:.2}")));
        let name = format!("`io_engine = {}`, {} clients", row.engine, grouped(row.clients));
        line(page, &name, cells.chain(ratios));
    }
}

fn burst_table(page: &mut String, rounds: &[BurstRound]) {
    let names = [
        "Active workers",
        "Busiest worker, % of a core",
        "Spread, ms",
        "p99 until then, ms",
        "p99 after it, ms",
    ];
    header(page, names.into_iter().map(str::to_owned));
    for (index, round) in rounds.iter().enumerate() {
        let spread = if round.active > 1 { "not even" } else { "no second worker joined" };
        let spread = round.spread_ms.map_or_else(|| spread.to_owned(), |ms| single(Some(ms)));
        let [busiest, before, after] =
            [Some(round.busiest_percent), round.p99_before_ms, round.p99_after_ms].map(single);
        let name = format!("burst {}", index + 1);
        line(page, &name, [round.active.to_string(), busiest, spread, before, after].into_iter());
    }
    if rounds.iter().all(|round| round.active < 2) {
        page.push_str(NO_SECOND);
    }
}

/// What the page says if there is nothing to measure about the spread.
const NO_SECOND: &str = "\nNo second worker joined in any burst, so this run says nothing about the spread. A worker joins when one has computed\n\
    for more than 85 % of ten milliseconds; on few cores, the load may leave it less.\n";

fn header(page: &mut String, names: impl Iterator<Item = String>) {
    let names: Vec<_> = names.collect();
    let rules = "---:|".repeat(names.len());
    line(page, "", names.into_iter());
    let _ = writeln!(page, "|---|{rules}");
}

fn label(row: &LevelRow) -> String {
    format!("{}, {}", grouped(row.count), row.pooler)
}

fn single(value: Option<f64>) -> String {
    value.map_or_else(missing, |value| figures(Summary::of(vec![value])))
}

fn missing() -> String {
    "–".to_owned()
}

/// A number with separators between thousands.
pub(super) fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::delays::{DelayAction, QueryDelay};
    use super::*;

    #[test]
    fn thousands_are_separated() {
        assert_eq!(
            [1, 999, 1000, 33_000, 1_234_567].map(grouped),
            ["1", "999", "1,000", "33,000", "1,234,567"]
        );
    }

    #[test]
    fn a_section_has_figures_and_delays() {
        let one = |value| Summary::of(vec![value]);
        let delay = QueryDelay {
            action: DelayAction::Scrape,
            time_ms: one(2.0),
            turn_ms: one(0.5),
            during_ms: one(3.0),
            without_ms: one(1.0),
        };
        let row = LevelRow {
            pooler: "iambouncer",
            count: 1000,
            idle_percent: Some(0.05),
            each_kib: Some(2.0),
            cpu_us: one(12.5),
            cpu_ratio: Some(1.0),
            delays: vec![delay],
            ..LevelRow::default()
        };
        let mut page = String::new();
        levels(&mut page, &CLIENTS, &Some(Ok(vec![row])));
        assert!(page.contains("| 1,000, iambouncer | 0.050 | 2.00 | 12.5 | 1.00 |\n"), "{page}");
        assert!(
            page.contains("| scrape, 1,000, iambouncer | 2.00 | 0.500 | 3.00 | 1.00 | +2.0 |\n"),
            "{page}"
        );
    }

    #[test]
    fn a_failed_section_has_the_reason() {
        let mut page = String::new();
        levels(&mut page, &USERS, &Some(Err(anyhow::anyhow!("no\nroles"))));
        assert!(page.contains("Failed: no roles\n"), "{page}");
        page.clear();
        levels(&mut page, &USERS, &None);
        assert!(page.is_empty());
    }

    #[test]
    fn a_burst_without_a_second_worker_says_so() {
        let mut page = String::new();
        burst_table(&mut page, &[BurstRound { active: 1, ..BurstRound::default() }]);
        assert!(page.contains("| burst 1 | 1 |") && page.ends_with(NO_SECOND), "{page}");
    }
}
