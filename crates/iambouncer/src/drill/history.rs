//! The outcome of each entry according to its client, and what the table has. Owns the comparison.

use crate::sql_client::TextRow;
use std::collections::BTreeMap;
use std::time::Instant;

/// Entries of the table that are read by one query.
pub(super) const ENTRIES_PER_READ: u64 = 10_000;

/// The outcome of an entry, according to its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EntryOutcome {
    /// It is committed.
    Committed,
    /// It is not: the error came before the statement that would have committed it, or that statement was refused.
    Failed(String),
    /// The connection was lost while the statement that commits it was under way.
    Unknown(String),
}

/// One entry.
#[derive(Debug, Clone)]
pub(super) struct WrittenEntry {
    pub(super) entry: u64,
    pub(super) began: Instant,
    pub(super) ended: Instant,
    pub(super) outcome: EntryOutcome,
}

/// A row of the table: an entry and how often it is there.
pub(super) fn row(row: &TextRow) -> Option<(u64, u64)> {
    match row.as_slice() {
        [Some(entry), Some(count)] => Some((entry.parse().ok()?, count.parse().ok()?)),
        _ => None,
    }
}

/// The comparison of the table with what was reported to the clients.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) committed: u64,
    pub(super) failed: u64,
    pub(super) unknown: u64,
    /// Those of unknown outcome that are in the table.
    pub(super) unknown_present: u64,
    /// Committed, according to the client, and not in the table.
    pub(super) lost: u64,
    /// More than once in the table.
    pub(super) duplicated: u64,
    /// Failed, according to the client, and in the table.
    pub(super) wrong: u64,
}

impl Comparison {
    pub(super) fn new(attempts: &[WrittenEntry], found: &[(u64, u64)]) -> Self {
        let found: BTreeMap<u64, u64> = found.iter().copied().collect();
        let mut counts = Self::default();
        for attempt in attempts {
            let times = found.get(&attempt.entry).copied().unwrap_or(0);
            counts.duplicated += u64::from(times > 1);
            match attempt.outcome {
                EntryOutcome::Committed => {
                    counts.committed += 1;
                    counts.lost += u64::from(times == 0);
                }
                EntryOutcome::Failed(_) => {
                    counts.failed += 1;
                    counts.wrong += u64::from(times > 0);
                }
                EntryOutcome::Unknown(_) => {
                    counts.unknown += 1;
                    counts.unknown_present += u64::from(times > 0);
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_compared_with_the_table() {
        let now = Instant::now();
        let attempt = |entry, outcome| WrittenEntry { entry, began: now, ended: now, outcome };
        let failed = || EntryOutcome::Failed("25006".to_owned());
        let unknown = || EntryOutcome::Unknown("08006".to_owned());
        let attempts = [
            attempt(0, EntryOutcome::Committed),
            attempt(1, EntryOutcome::Committed),
            attempt(2, EntryOutcome::Committed),
            attempt(3, failed()),
            attempt(4, failed()),
            attempt(5, unknown()),
            attempt(6, unknown()),
        ];
        let found = [(0, 1), (2, 2), (4, 1), (6, 1)];
        let expected = Comparison {
            committed: 3,
            failed: 2,
            unknown: 2,
            unknown_present: 1,
            lost: 1,
            duplicated: 1,
            wrong: 1,
        };
        assert_eq!(Comparison::new(&attempts, &found), expected);
    }

    #[test]
    fn a_row_has_an_entry_and_a_count() {
        assert_eq!(row(&vec![Some("7".to_owned()), Some("2".to_owned())]), Some((7, 2)));
        assert_eq!(row(&vec![Some("7".to_owned()), None]), None);
    }
}
