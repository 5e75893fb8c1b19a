//! The instruction budget, `bench/instructions.txt`: the permitted cost of a query in the relay. Owns the
//! file's format, the comparison and its table; never measures.
//!
//! A count is valid for one architecture: on others, counts are shown but not compared.

use std::env::consts::ARCH;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::instructions::{Count, NAME};

/// How far a count may differ from its budget, in percent.
const TOLERANCE_PERCENT: f64 = 3.0;
/// First word of the line that names the architecture.
const ARCH_KEY: &str = "arch";
/// The command that writes the file.
const UPDATE: &str = "make instructions UPDATE_BUDGET=1";

/// Contents of the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    arch: String,
    /// Names of query kinds, with the instructions permitted.
    lines: Vec<(String, u64)>,
}

impl Budget {
    /// Reads the file.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("reading {}; `{UPDATE}` creates it", file.display()))?;
        Self::parse(&text).with_context(|| format!("reading {}", file.display()))
    }

    /// Writes `counts` as the new budget.
    pub(crate) fn write(file: &Path, counts: &[Count]) -> Result<()> {
        let mut text = format!("# Written by `{UPDATE}`; bench/NOTES.md says what is counted.\n");
        let _ = writeln!(text, "{ARCH_KEY} {ARCH}");
        for Count { kind, per_query } in counts {
            let _ = writeln!(text, "{} {per_query}", kind.key());
        }
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
        eprintln!("budget written to {}", fs::canonicalize(file)?.display());
        Ok(())
    }

    /// Compares `counts` with the budget.
    ///
    /// # Errors
    /// A count exceeds its budget or has none.
    pub(crate) fn check(&self, counts: &[Count]) -> Result<()> {
        if self.arch != ARCH {
            eprintln!("{NAME}: the budget is for {}, not compared on {ARCH}", self.arch);
            return Ok(());
        }
        let mut complaints = Vec::new();
        for count in counts {
            let (name, new) = (count.kind.key(), count.per_query);
            let Some(old) = self.of(count) else {
                complaints.push(format!("{name}: {new}, and no budget"));
                continue;
            };
            let percent = percent(old, new);
            if percent > TOLERANCE_PERCENT {
                complaints.push(format!("{name}: {new}, budget {old} ({percent:+.1} %)"));
            } else if percent < -TOLERANCE_PERCENT {
                eprintln!("{NAME}, {name}: {new}, budget {old} ({percent:+.1} %): lower it with `{UPDATE}`");
            }
        }
        if complaints.is_empty() {
            return Ok(());
        }
        bail!("{NAME}, over budget: {}. To accept this: `{UPDATE}`", complaints.join("; "))
    }

    /// The table of the report.
    pub(crate) fn table(&self, counts: &[Count]) -> String {
        let mut table = "| | iambouncer | budget | difference |\n|---|---:|---:|---:|\n".to_owned();
        for count in counts {
            let (name, new) = (count.kind.key(), count.per_query);
            let (budget, difference) = match self.of(count) {
                Some(old) if self.arch == ARCH => (old.to_string(), format!("{:+.1} %", percent(old, new))),
                _ => ("–".to_owned(), "–".to_owned()),
            };
            let _ = writeln!(table, "| {name} | {new} | {budget} | {difference} |");
        }
        table
    }

    fn of(&self, count: &Count) -> Option<u64> {
        self.lines.iter().find(|(name, _)| name == count.kind.key()).map(|&(_, old)| old)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut budget = Self { arch: String::new(), lines: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let (name, value) = line.trim().split_once(' ').with_context(|| format!("{line:?}"))?;
            if name == ARCH_KEY {
                value.clone_into(&mut budget.arch);
                continue;
            }
            match value.parse() {
                Ok(instructions) if instructions > 0 => budget.lines.push((name.to_owned(), instructions)),
                _ => bail!("{line:?} has no count"),
            }
        }
        Ok(budget)
    }
}

/// The difference between `new` and `old`, in percent.
fn percent(old: u64, new: u64) -> f64 {
    (new as f64 - old as f64) * 100.0 / old as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instructions::QueryKind;

    fn check(new: u64) -> Result<()> {
        let budget = Budget::parse(&format!("# about\n\narch {ARCH}\nsimple 1000\n")).unwrap();
        budget.check(&[Count { kind: QueryKind::Simple, per_query: new }])
    }

    #[test]
    fn differences_up_to_three_percent_are_accepted() {
        for new in [1, 970, 1000, 1030] {
            check(new).unwrap();
        }
    }

    #[test]
    fn an_exceeded_budget_is_reported_with_both_counts() {
        let complaint = check(1031).unwrap_err().to_string();
        assert!(complaint.contains("simple: 1031, budget 1000 (+3.1 %)"), "{complaint}");
    }

    #[test]
    fn a_kind_without_budget_fails() {
        let budget = Budget::parse(&format!("arch {ARCH}\nprepared 1000")).unwrap();
        assert!(budget.check(&[Count { kind: QueryKind::Simple, per_query: 1 }]).is_err());
    }

    #[test]
    fn another_architecture_is_not_compared() {
        let budget = Budget::parse("arch vax\nsimple 1").unwrap();
        let counts = [Count { kind: QueryKind::Simple, per_query: 1000 }];
        budget.check(&counts).unwrap();
        assert!(budget.table(&counts).contains("| simple | 1000 | – | – |"));
    }

    #[test]
    fn lines_without_a_count_are_refused() {
        for text in ["simple", "simple x", "simple 0", "simple -1"] {
            assert!(Budget::parse(text).is_err(), "{text}");
        }
    }
}
