//! The goals: how much less than PgBouncer the default settings are to need. Owns the table, and which goals are met;
//! never measures.

use std::fmt::Write as _;

use crate::contenders::Contender;
use crate::metrics::ParsedMetric;
use crate::plan::PlanRow;
use crate::report::line;
use crate::summary::Results;

/// A ratio to PgBouncer that a figure must not exceed.
struct Goal {
    /// What the name of the row ends with.
    row: &'static str,
    metric: ParsedMetric,
    contender: Contender,
    most: f64,
}

const fn goal(row: &'static str, metric: ParsedMetric, contender: Contender, most: f64) -> Goal {
    Goal { row, metric, contender, most }
}

const QUERY: ParsedMetric = ParsedMetric::CpuPerTransaction;
const LATENCY: ParsedMetric = ParsedMetric::LatencyMedian;
const LOGIN: ParsedMetric = ParsedMetric::CpuPerLogin;
const MEGABYTE: ParsedMetric = ParsedMetric::CpuPerMegabyte;
/// The engine that the pooler selects, and the one that containers permit.
const ANY: Contender = Contender::Iambouncer;
const EPOLL: Contender = Contender::Epoll;

const GOALS: &[Goal] = &[
    goal("simple, 1 client, plain", QUERY, ANY, 0.90),
    goal("simple, 1 client, plain", LATENCY, ANY, 1.00),
    goal("simple, 1 client, plain", LATENCY, EPOLL, 1.00),
    goal("simple, 16 clients, plain", QUERY, ANY, 0.72),
    goal("simple, 16 clients, plain", QUERY, EPOLL, 0.85),
    goal("simple, 64 clients, plain", QUERY, ANY, 0.62),
    goal("simple, 64 clients, plain", QUERY, EPOLL, 0.72),
    goal("prepared, 1 client, plain", QUERY, ANY, 0.85),
    goal("prepared, 16 clients, plain", QUERY, ANY, 0.58),
    goal("prepared, 16 clients, plain", QUERY, EPOLL, 0.70),
    goal("prepared, 64 clients, plain", QUERY, ANY, 0.44),
    goal("prepared, 64 clients, plain", QUERY, EPOLL, 0.55),
    goal("simple, 16 clients, TLS to server", QUERY, ANY, 0.55),
    goal("simple, 16 clients, TLS to server", QUERY, EPOLL, 0.80),
    goal("simple, 64 clients, TLS to server", QUERY, ANY, 0.48),
    goal("simple, 64 clients, TLS to server", QUERY, EPOLL, 0.58),
    goal("prepared, 16 clients, TLS to server", QUERY, ANY, 0.48),
    goal("prepared, 16 clients, TLS to server", QUERY, EPOLL, 0.60),
    goal("prepared, 64 clients, TLS to server", QUERY, ANY, 0.35),
    goal("prepared, 64 clients, TLS to server", QUERY, EPOLL, 0.45),
    goal("logins, plain", LOGIN, ANY, 0.95),
    goal("logins, plain", LOGIN, EPOLL, 0.95),
    goal("MB, 100-byte rows, plain", MEGABYTE, ANY, 0.55),
    goal("MB, 100-byte rows, plain", MEGABYTE, EPOLL, 0.60),
    goal("MB, 100-byte rows, TLS to server", MEGABYTE, ANY, 0.50),
    goal("MB, 100-byte rows, TLS to server", MEGABYTE, EPOLL, 0.50),
    goal("MB, 100-byte rows, TLS from client", MEGABYTE, ANY, 0.55),
    goal("COPY out, 100-byte rows, plain", MEGABYTE, ANY, 0.55),
    goal("COPY in, 100-byte rows, plain", MEGABYTE, ANY, 0.55),
];

/// Whether a goal is met.
#[derive(Debug, Clone, Copy, PartialEq)]
enum GoalState {
    Hit(f64),
    Miss(f64),
    /// PgBouncer, or this pooler, has no figure in the row.
    Open,
}

impl GoalState {
    fn of(ratio: Option<f64>, most: f64) -> Self {
        // Compared as the page shows it.
        let rounded = ratio.map(|ratio| (ratio * 100.0).round() / 100.0);
        match rounded {
            None => Self::Open,
            Some(ratio) if ratio <= most => Self::Hit(ratio),
            Some(ratio) => Self::Miss(ratio),
        }
    }

    fn cells(self) -> [String; 2] {
        match self {
            Self::Hit(ratio) => [format!("{ratio:.2}"), "hit".to_owned()],
            Self::Miss(ratio) => [format!("{ratio:.2}"), "**miss**".to_owned()],
            Self::Open => ["–".to_owned(), "open".to_owned()],
        }
    }
}

/// Writes the section; nothing if no row has a goal.
pub(crate) fn write(page: &mut String, rows: &[PlanRow], results: &Results) {
    let mut table = String::new();
    for Goal { row, metric, contender, most } in GOALS {
        let Some(index) = rows.iter().position(|known| known.name.ends_with(row)) else { continue };
        let median = |contender| results.summary(index, contender, *metric).map(|summary| summary.median);
        let ratio = median(*contender).zip(median(Contender::BASE)).map(|(of, base)| of / base);
        let [ratio, state] = GoalState::of(ratio, *most).cells();
        let what = format!("{}, {}", rows[index].name, contender.name());
        line(&mut table, &what, [metric.short().to_owned(), format!("{most:.2}"), ratio, state].into_iter());
    }
    if table.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Goals\n\nRatios to PgBouncer, at most. `bench/NOTES.md` explains each miss. Without a PgBouncer that shares prepared\n\
         statements (1.21), those rows are open.\n\n| | Figure | Goal | Ratio | |\n|---|---|---:|---:|---|\n{table}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use crate::plan;

    #[test]
    fn every_goal_has_a_row() {
        let rows = plan::rows(true, &args::FULL);
        for goal in GOALS {
            let found = rows.iter().filter(|row| row.name.ends_with(goal.row));
            assert_eq!(found.count(), 1, "{}", goal.row);
        }
    }

    #[test]
    fn a_goal_is_met_as_the_page_shows_it() {
        assert_eq!(GoalState::of(Some(0.7249), 0.72), GoalState::Hit(0.72));
        assert_eq!(GoalState::of(Some(0.7251), 0.72), GoalState::Miss(0.73));
        assert_eq!(GoalState::of(None, 0.72), GoalState::Open);
    }
}
