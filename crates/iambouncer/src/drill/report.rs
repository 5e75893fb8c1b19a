//! The report of a drill, as text and as JSON. Owns the figures and their words.

use super::history::{Comparison, EntryOutcome, WrittenEntry};
use crate::printable;
use serde_json::{Value, json as object};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A client that has waited longer has noticed something.
const LONG_WAIT: Duration = Duration::from_secs(1);
/// Maximum number of different errors that are listed.
const MAX_ERRORS: usize = 20;

/// A time without a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitGap {
    /// When it began: a commit, or the start.
    pub from: SystemTime,
    /// When it ended: a commit, or the end.
    pub until: SystemTime,
}

impl CommitGap {
    fn length(&self) -> Duration {
        self.until.duration_since(self.from).unwrap_or_default()
    }
}

/// What became of the entries.
#[derive(Debug)]
pub struct DrillReport {
    counts: Comparison,
    longest_gap: Option<CommitGap>,
    longest_wait: Duration,
    long_waits: u64,
    errors: BTreeMap<String, u64>,
}

impl DrillReport {
    /// `found` is the table; `clock` is the same moment by both clocks, when the clients began.
    pub(super) fn new(
        attempts: &[WrittenEntry],
        found: &[(u64, u64)],
        clock: (Instant, SystemTime),
        ended_at: Instant,
    ) -> Self {
        let mut errors = BTreeMap::new();
        for attempt in attempts {
            if let EntryOutcome::Failed(error) | EntryOutcome::Unknown(error) = &attempt.outcome {
                *errors.entry(error.clone()).or_default() += 1;
            }
        }
        let waits = || attempts.iter().map(|attempt| attempt.ended.saturating_duration_since(attempt.began));
        Self {
            counts: Comparison::new(attempts, found),
            longest_gap: longest_gap(attempts, clock, ended_at),
            longest_wait: waits().max().unwrap_or_default(),
            long_waits: waits().filter(|wait| *wait > LONG_WAIT).count() as u64,
            errors,
        }
    }

    /// True if entries are missing, or there more than once, or there although they have failed.
    pub fn is_bad(&self) -> bool {
        let Comparison { lost, duplicated, wrong, .. } = self.counts;
        lost + duplicated + wrong > 0
    }
}

/// The longest time between two commits of any clients, or the beginning or the end.
fn longest_gap(
    attempts: &[WrittenEntry],
    clock: (Instant, SystemTime),
    ended_at: Instant,
) -> Option<CommitGap> {
    let is_committed = |attempt: &&WrittenEntry| attempt.outcome == EntryOutcome::Committed;
    let mut commits: Vec<Instant> =
        attempts.iter().filter(is_committed).map(|attempt| attempt.ended).collect();
    commits.extend([clock.0, ended_at]);
    commits.sort();
    let wall = |at: Instant| clock.1 + at.saturating_duration_since(clock.0);
    let pairs = commits.windows(2).map(|pair| (pair[0], pair[1]));
    let (from, until) = pairs.max_by_key(|(from, until)| *until - *from)?;
    Some(CommitGap { from: wall(from), until: wall(until) })
}

fn unix_us(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// The report for people.
pub fn text(report: &DrillReport) -> String {
    let DrillReport { counts, longest_gap, longest_wait, long_waits, errors } = report;
    let total = counts.committed + counts.failed + counts.unknown;
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display, meaning: &str| {
        let _ = writeln!(text, "{}", format!("{name:<34} {value:>9}  {meaning}").trim_end());
    };
    let seconds = |duration: Duration| format!("{:.3} s", duration.as_secs_f64());
    line("entries", &total, "");
    line("committed", &counts.committed, "according to the client");
    line("failed", &counts.failed, "with an error, and not committed");
    line("unknown", &counts.unknown, "the connection was lost during the COMMIT");
    line("  of which in the table", &counts.unknown_present, "");
    line("lost", &counts.lost, "committed, but not in the table");
    line("duplicated", &counts.duplicated, "more than once in the table");
    line("wrong", &counts.wrong, "failed, but in the table");
    let gap = longest_gap.map_or(Duration::ZERO, |gap| gap.length());
    line("longest time without a commit", &seconds(gap), "");
    line("longest wait of a client", &seconds(*longest_wait), "for one entry");
    line("waits of more than a second", long_waits, "");
    for (error, count) in errors.iter().take(MAX_ERRORS) {
        let _ = writeln!(text, "  {count} × {}", printable::lines(error));
    }
    text
}

/// The same for programs. Times are microseconds, moments since 1970.
pub fn json(report: &DrillReport) -> Value {
    let DrillReport { counts, longest_gap, longest_wait, long_waits, errors } = report;
    object!({
        "committed": counts.committed,
        "failed": counts.failed,
        "unknown": counts.unknown,
        "unknown_present": counts.unknown_present,
        "lost": counts.lost,
        "duplicated": counts.duplicated,
        "wrong": counts.wrong,
        "gap_from_us": longest_gap.map(|gap| unix_us(gap.from)),
        "gap_until_us": longest_gap.map(|gap| unix_us(gap.until)),
        "longest_wait_us": longest_wait.as_micros() as u64,
        "long_waits": long_waits,
        "errors": errors,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_commits_of_any_clients() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let attempt = |entry, ended_ms, outcome| WrittenEntry { entry, began, ended: at(ended_ms), outcome };
        let attempts = [
            attempt(0, 10, EntryOutcome::Committed),
            attempt(2, 1500, EntryOutcome::Committed),
            attempt(1, 300, EntryOutcome::Failed("x".to_owned())),
            attempt(3, 1600, EntryOutcome::Committed),
        ];
        let wall = UNIX_EPOCH + Duration::from_secs(1000);
        let report = DrillReport::new(&attempts, &[(0, 1), (2, 1), (3, 1)], (began, wall), at(1700));
        let gap = report.longest_gap.unwrap();
        assert_eq!((gap.length(), gap.from), (Duration::from_millis(1490), wall + Duration::from_millis(10)));
        assert_eq!(report.long_waits, 2);
        assert!(!report.is_bad());
        let shown = json(&report);
        assert_eq!(
            (shown["gap_from_us"].as_u64(), shown["committed"].as_u64()),
            (Some(1_000_010_000), Some(3))
        );
        assert!(text(&report).contains("longest time without a commit        1.490 s"), "{}", text(&report));
    }
}
