//! Rate limit of log lines that unauthenticated peers can cause. Owns the rate, a few lines per kind and second, and the
//! number of suppressed lines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The period that a limit is for.
const PERIOD: Duration = Duration::from_secs(1);
/// Lines of a kind per period: enough for a few failing clients, of which an operator wants to see each.
const MAX_LINES: u32 = 10;

/// The lines of one kind.
struct LineCount {
    /// Start of the current period.
    since: Instant,
    written: u32,
    left_out: u64,
}

/// The limit of the whole process.
#[derive(Clone, Default)]
pub struct LogLimit(Arc<Mutex<BTreeMap<&'static str, LineCount>>>);

/// Permission to write a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LinePermit {
    /// Number of suppressed lines of its kind since the last one.
    pub left_out: Option<u64>,
}

impl LogLimit {
    fn kinds(&self) -> MutexGuard<'_, BTreeMap<&'static str, LineCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests permission for a line. Kinds are constants, so their number is bounded.
    pub fn turn(&self, kind: &'static str, now: Instant) -> Option<LinePermit> {
        let mut kinds = self.kinds();
        let new = LineCount { since: now, written: 0, left_out: 0 };
        let lines = kinds.entry(kind).or_insert(new);
        if now.saturating_duration_since(lines.since) >= PERIOD {
            (lines.since, lines.written) = (now, 0);
        }
        if lines.written == MAX_LINES {
            lines.left_out += 1;
            return None;
        }
        lines.written += 1;
        let left_out = std::mem::take(&mut lines.left_out);
        Some(LinePermit { left_out: (left_out > 0).then_some(left_out) })
    }

    /// Kinds with suppressed lines and none written since, with their number. Called periodically.
    pub fn overdue(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut kinds = self.kinds();
        let is_over = |lines: &LineCount| now.saturating_duration_since(lines.since) >= 2 * PERIOD;
        let over: Vec<_> = kinds
            .iter()
            .filter(|(_, lines)| is_over(lines))
            .map(|(kind, lines)| (*kind, lines.left_out))
            .collect();
        kinds.retain(|_, lines| !is_over(lines));
        over.into_iter().filter(|(_, left_out)| *left_out > 0).collect()
    }
}

/// A warning about an unauthenticated peer: a few per kind and second, with the number of suppressed lines.
macro_rules! warn_unauthenticated {
    ($context:expr, $kind:expr, $($line:tt)+) => {
        if let Some(turn) = $context.process.log_limit.turn($kind, crate::worker::now()) {
            tracing::warn!(left_out = turn.left_out, $($line)+);
        }
    };
}
pub(crate) use warn_unauthenticated;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_yields_a_few_lines_per_second_and_all_lines_are_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for ms in 0..u64::from(MAX_LINES) {
            assert_eq!(limit.turn("a", at(ms)), Some(LinePermit { left_out: None }));
        }
        assert_eq!(limit.turn("b", at(0)), Some(LinePermit { left_out: None }));
        assert_eq!(limit.turn("a", at(900)), None);
        assert_eq!(limit.turn("a", at(999)), None);
        assert_eq!(limit.turn("a", at(1000)), Some(LinePermit { left_out: Some(2) }));
        for _ in 1..MAX_LINES {
            assert_eq!(limit.turn("a", at(1001)), Some(LinePermit { left_out: None }));
        }
        assert_eq!(limit.turn("a", at(1002)), None);
        assert_eq!(limit.overdue(at(2000)), []);
        assert_eq!(limit.overdue(at(3000)), [("a", 1)]);
        assert_eq!(limit.overdue(at(9000)), []);
        assert_eq!(limit.turn("a", at(9000)), Some(LinePermit { left_out: None }));
    }
}
