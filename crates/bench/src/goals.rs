//! The goals: how much less than PgBouncer the default settings are to need, and what they must not exceed. Owns the table, and which goals are met;
//! never measures.

use std::fmt::Write as _;

use crate::contenders::Contender;
use crate::metrics::ParsedMetric;
use crate::plan::PlanRow;
use crate::report::line;
use crate::summary::Results;

/// What a figure must not exceed.
#[derive(Debug, Clone, Copy)]
enum GoalLimit {
    /// This ratio to PgBouncer's.
    Ratio(f64),
    /// This value, in this unit.
    Value(f64, &'static str),
}

/// A limit of one figure.
struct Goal {
    /// What the name of the row ends with.
    row: &'static str,
    metric: ParsedMetric,
    contender: Contender,
    limit: GoalLimit,
}

/// A limit of the ratio.
const fn goal(row: &'static str, metric: ParsedMetric, contender: Contender, most: f64) -> Goal {
    Goal { row, metric, contender, limit: GoalLimit::Ratio(most) }
}

/// A limit of the value in a login storm.
const fn in_storm(metric: ParsedMetric, contender: Contender, most: f64, unit: &'static str) -> Goal {
    Goal { row: "clients, SCRAM", metric, contender, limit: GoalLimit::Value(most, unit) }
}

const QUERY: ParsedMetric = ParsedMetric::CpuPerTransaction;
const LATENCY: ParsedMetric = ParsedMetric::LatencyMedian;
const LOGIN: ParsedMetric = ParsedMetric::CpuPerLogin;
const STORM_LOGIN: ParsedMetric = ParsedMetric::CpuPerStormLogin;
const FAILED: ParsedMetric = ParsedMetric::FailedLogins;
const GROWTH: ParsedMetric = ParsedMetric::P99Growth;
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
    goal("logins, SCRAM", LOGIN, ANY, 0.95),
    goal("logins, SCRAM", LOGIN, EPOLL, 0.95),
    in_storm(STORM_LOGIN, ANY, 200.0, "µs"),
    in_storm(STORM_LOGIN, EPOLL, 200.0, "µs"),
    in_storm(FAILED, ANY, 0.0, "clients"),
    in_storm(FAILED, EPOLL, 0.0, "clients"),
    in_storm(GROWTH, ANY, 10.0, "ms"),
    in_storm(GROWTH, EPOLL, 10.0, "ms"),
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
    /// This pooler, or PgBouncer if it is compared with, has no figure in the row.
    Open,
}

impl GoalLimit {
    /// Compares a contender's median with the limit; `base` is PgBouncer's.
    fn check(self, median: Option<f64>, base: Option<f64>) -> GoalState {
        let (figure, most) = match self {
            Self::Ratio(most) => (median.zip(base).map(|(of, base)| of / base), most),
            Self::Value(most, _) => (median, most),
        };
        // Compared as the page shows it.
        match figure.map(|figure| (figure * 100.0).round() / 100.0) {
            None => GoalState::Open,
            Some(figure) if figure <= most => GoalState::Hit(figure),
            Some(figure) => GoalState::Miss(figure),
        }
    }

    /// A figure that is compared with the limit, or the limit itself.
    fn cell(self, figure: f64) -> String {
        match self {
            Self::Ratio(_) => format!("{figure:.2}"),
            // Without superfluous zeros: a number of clients has no fraction.
            Self::Value(_, unit) => format!("{figure} {unit}"),
        }
    }

    fn most(self) -> f64 {
        match self {
            Self::Ratio(most) | Self::Value(most, _) => most,
        }
    }

    /// The limit, the figure, and whether it is met.
    fn cells(self, state: GoalState) -> [String; 3] {
        let (figure, word) = match state {
            GoalState::Hit(figure) => (self.cell(figure), "hit"),
            GoalState::Miss(figure) => (self.cell(figure), "**miss**"),
            GoalState::Open => ("–".to_owned(), "open"),
        };
        [self.cell(self.most()), figure, word.to_owned()]
    }
}

/// Writes the section; nothing if no row has a goal.
pub(crate) fn write(page: &mut String, rows: &[PlanRow], results: &Results) {
    let mut table = String::new();
    for Goal { row, metric, contender, limit } in GOALS {
        let Some(index) = rows.iter().position(|known| known.name.ends_with(row)) else { continue };
        let median = |contender| results.summary(index, contender, *metric).map(|summary| summary.median);
        let cells = limit.cells(limit.check(median(*contender), median(Contender::BASE)));
        let what = format!("{}, {}", rows[index].name, contender.name());
        line(&mut table, &what, [metric.short().to_owned()].into_iter().chain(cells));
    }
    if table.is_empty() {
        return;
    }
    let _ = writeln!(
        page,
        "## Goals\n\nAt most these ratios to PgBouncer or, with a unit, these values. `bench/NOTES.md` explains each miss. Without a\n\
         PgBouncer that shares prepared statements (1.21), those rows are open.\n\n\
         | | Figure | Goal | Measured | |\n|---|---|---:|---:|---|\n{table}"
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
        let limit = GoalLimit::Ratio(0.72);
        assert_eq!(limit.check(Some(7.249), Some(10.0)), GoalState::Hit(0.72));
        assert_eq!(limit.check(Some(7.251), Some(10.0)), GoalState::Miss(0.73));
        assert_eq!(limit.check(Some(7.0), None), GoalState::Open);
        assert_eq!(limit.check(None, Some(10.0)), GoalState::Open);
    }

    #[test]
    fn a_value_needs_no_figure_of_pgbouncer() {
        let limit = GoalLimit::Value(10.0, "ms");
        assert_eq!(limit.check(Some(9.5), None), GoalState::Hit(9.5));
        assert_eq!(limit.check(Some(10.01), Some(20.0)), GoalState::Miss(10.01));
        assert_eq!(limit.check(None, Some(20.0)), GoalState::Open);
        // Faster during the storm than before.
        assert_eq!(limit.check(Some(-1.0), None), GoalState::Hit(-1.0));
    }

    #[test]
    fn only_values_have_a_unit() {
        assert_eq!(GoalLimit::Ratio(0.9).cells(GoalState::Hit(0.8)), ["0.90", "0.80", "hit"]);
        let clients = GoalLimit::Value(0.0, "clients");
        assert_eq!(clients.cells(GoalState::Miss(3.0)), ["0 clients", "3 clients", "**miss**"]);
        assert_eq!(clients.cells(GoalState::Open), ["0 clients", "–", "open"]);
    }
}
