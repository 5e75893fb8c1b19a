//! The Markdown of `bench/FAILOVER.md`. Owns its text and its table; never measures.

use std::fmt::Write as _;

use super::{CLIENTS, FailoverKind, FailoverSample, RATE};
use crate::machine::Machine;
use crate::report::{figures, line};
use crate::summary::Summary;

/// The inputs of the page.
pub(super) struct FailoverPage<'a> {
    /// The environment of the run.
    pub(super) machine: &'a Machine,
    /// The command that repeats the run.
    pub(super) command: &'a str,
    /// The measured figures.
    pub(super) samples: &'a [FailoverSample],
    /// Number of runs of each kind.
    pub(super) runs: u32,
    /// How long clients write in each run.
    pub(super) seconds: u64,
}

/// A column of the table.
type FigureColumn = (&'static str, fn(&FailoverSample) -> f64);

const COLUMNS: [FigureColumn; 8] = [
    ("Promotion to first commit, ms", |sample| sample.to_first_commit_ms),
    ("Without a commit, ms", |sample| sample.without_commit_ms),
    ("Committed", |sample| sample.committed),
    ("Failed", |sample| sample.failed),
    ("Unknown", |sample| sample.unknown),
    ("Lost", |sample| sample.lost),
    ("Duplicated", |sample| sample.duplicated),
    ("Wrong", |sample| sample.wrong),
];

impl FailoverPage<'_> {
    /// The whole page.
    pub(super) fn text(&self) -> String {
        let mut page = String::from(HEAD);
        self.machine.write(&mut page, self.command);
        page.push_str("## The writer changes\n\n");
        line(&mut page, "", COLUMNS.iter().map(|(title, _)| (*title).to_owned()));
        let _ = writeln!(page, "|---|{}", "---:|".repeat(COLUMNS.len()));
        for kind in FailoverKind::ALL {
            let cells = COLUMNS.iter().map(|(_, value)| {
                let of_kind = self.samples.iter().filter(|sample| sample.kind == kind);
                figures(Summary::of(of_kind.map(value).collect()))
            });
            line(&mut page, kind.title(), cells);
        }
        let Self { runs, seconds, .. } = self;
        let _ = writeln!(
            page,
            "\n## How it is measured\n\n\
             - {runs} runs of each kind. In each, `iambouncer drill` writes with {CLIENTS} clients, {RATE} entries per second and\n  \
               for {seconds} s. Half of the clients use transactions of three requests.\n{METHOD}",
        );
        page
    }
}

const HEAD: &str = "# Failover\n\n<!-- Written by `make bench-failover`. Do not edit. -->\n\n\
    What clients experience when the one of two hosts changes that accepts writes (`target_session_attrs = read-write`). Each\n\
    cell is the median of the runs, with the smallest and largest in brackets. [docs/failover.md](../docs/failover.md)\n\
    explains what the pooler does.\n\n";

const METHOD: &str = "\
    - A primary and its standby, which the primary waits for at each commit. Both, the pooler and the clients share the\n  \
      machine. The pooler has its default settings.\n\
    - The promotion is complete when `pg_is_in_recovery()` is false, which is asked for every few milliseconds; the first\n  \
      commit may come before that was seen. The time without a commit includes the time until the promotion.\n\
    - Failed: the client has received an error, and nothing was committed. Unknown: the connection was lost during the\n  \
      statement that commits. Afterwards the table is compared with what was reported to clients. Lost: committed, but not in the\n  \
      table. Duplicated: more than once in the table. Wrong: failed, but in the table.\n";
