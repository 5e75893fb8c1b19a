//! The phases of the logins of a storm: their percentiles, and their table, which has one line for each. Owns names and
//! arithmetics; never measures.

use std::fmt::Write as _;
use std::time::Duration;

use crate::contenders::Contender;
use crate::latency::nearest_rank;
use crate::metrics::{MetricsSection, ParsedMetric};
use crate::plan::PlanRow;
use crate::report::{figures, line, quotient};
use crate::scram_session::LoginTimes;
use crate::summary::Results;

/// The end of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StormPhase {
    /// The first answer.
    Answered,
    /// The challenge.
    Challenged,
    /// Ready for queries.
    Ready,
}

/// What is reported of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StormRank {
    /// The median.
    P50,
    /// The 99th percentile.
    P99,
    /// The longest.
    Max,
}

impl StormPhase {
    const ALL: [Self; 3] = [Self::Answered, Self::Challenged, Self::Ready];

    fn of(self, times: &LoginTimes) -> Duration {
        match self {
            Self::Answered => times.answered,
            Self::Challenged => times.challenged,
            Self::Ready => times.ready,
        }
    }
}

impl StormRank {
    const ALL: [Self; 3] = [Self::P50, Self::P99, Self::Max];

    fn percent(self) -> usize {
        match self {
            Self::P50 => 50,
            Self::P99 => 99,
            Self::Max => 100,
        }
    }
}

/// The name of a line, and the name in the raw file.
pub(crate) fn names(phase: StormPhase, rank: StormRank) -> (&'static str, &'static str) {
    use {StormPhase as P, StormRank as R};
    match (phase, rank) {
        (P::Answered, R::P50) => ("first answer, median", "first_answer_median_ms"),
        (P::Answered, R::P99) => ("first answer, p99", "first_answer_p99_ms"),
        (P::Answered, R::Max) => ("first answer, longest", "first_answer_longest_ms"),
        (P::Challenged, R::P50) => ("challenge, median", "challenge_median_ms"),
        (P::Challenged, R::P99) => ("challenge, p99", "challenge_p99_ms"),
        (P::Challenged, R::Max) => ("challenge, longest", "challenge_longest_ms"),
        (P::Ready, R::P50) => ("logged in, median", "logged_in_median_ms"),
        (P::Ready, R::P99) => ("logged in, p99", "logged_in_p99_ms"),
        (P::Ready, R::Max) => ("logged in, longest", "logged_in_longest_ms"),
    }
}

fn all() -> impl Iterator<Item = (StormPhase, StormRank)> {
    StormPhase::ALL.into_iter().flat_map(|phase| StormRank::ALL.map(|rank| (phase, rank)))
}

/// The figures of all phases; none without logins.
pub(crate) fn summarize(times: &[LoginTimes]) -> Vec<(ParsedMetric, f64)> {
    let of_phase = |phase: StormPhase| {
        let mut sorted: Vec<_> = times.iter().map(|times| phase.of(times)).collect();
        sorted.sort_unstable();
        StormRank::ALL.into_iter().filter_map(move |rank| {
            let time = nearest_rank(&sorted, rank.percent())?;
            Some((ParsedMetric::StormLogin(phase, rank), time.as_secs_f64() * 1000.0))
        })
    };
    StormPhase::ALL.into_iter().flat_map(of_phase).collect()
}

/// Writes a table for each storm that was measured.
pub(crate) fn write(page: &mut String, rows: &[PlanRow], results: &Results) {
    for (index, row) in rows.iter().enumerate().filter(|(_, row)| row.section == MetricsSection::Storms) {
        let cell = |contender, (phase, rank)| {
            results.summary(index, contender, ParsedMetric::StormLogin(phase, rank))
        };
        let has_figures = |contender: &Contender| all().any(|one| cell(*contender, one).is_some());
        let columns: Vec<_> = Contender::ALL.into_iter().filter(has_figures).collect();
        if columns.is_empty() {
            continue;
        }
        let others = columns.iter().copied().filter(|&one| one != Contender::BASE);
        let ratios: Vec<_> = others.filter(|_| columns.contains(&Contender::BASE)).collect();
        let _ = writeln!(page, "### {}: time from connect, ms (less is better)\n", row.name);
        let quotients = ratios.iter().map(|one| format!("{} / {}", one.short(), Contender::BASE.short()));
        line(page, "", columns.iter().map(|column| column.name().to_owned()).chain(quotients));
        let _ = writeln!(page, "|---|{}|", vec!["---:"; columns.len() + ratios.len()].join("|"));
        for one in all() {
            let base = cell(Contender::BASE, one);
            let cells = columns.iter().map(|&column| figures(cell(column, one)));
            let quotients = ratios.iter().map(|&of| quotient(cell(of, one), base));
            line(page, names(one.0, one.1).0, cells.chain(quotients));
        }
        page.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn percentiles_use_the_nearest_rank_of_each_phase() {
        let ms = Duration::from_millis;
        let times: Vec<_> = (1..=200)
            .rev()
            .map(|n| LoginTimes { answered: ms(n), challenged: ms(2 * n), ready: ms(3 * n) })
            .collect();
        let values: Vec<_> = summarize(&times).into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [100.0, 198.0, 200.0, 200.0, 396.0, 400.0, 300.0, 594.0, 600.0]);
        assert!(summarize(&[]).is_empty());
    }

    #[test]
    fn every_figure_has_names_of_its_own() {
        let names: BTreeSet<_> = all().flat_map(|(phase, rank)| <[_; 2]>::from(names(phase, rank))).collect();
        assert_eq!(names.len(), 2 * all().count());
    }
}
