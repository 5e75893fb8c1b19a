//! Log lines that anybody can cause by connecting. Owns how often they are written: one of a kind per second, and how many
//! were left out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between two lines of a kind.
const PERIOD: Duration = Duration::from_secs(1);

/// The lines of one kind.
struct LineCount {
    last: Instant,
    left_out: u64,
}

/// For the whole process.
#[derive(Clone, Default)]
pub struct LogLimit(Arc<Mutex<BTreeMap<&'static str, LineCount>>>);

/// A line may be written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LinePermit {
    /// LineCount of its kind that were left out before it.
    pub left_out: Option<u64>,
}

impl LogLimit {
    fn kinds(&self) -> MutexGuard<'_, BTreeMap<&'static str, LineCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a line. There are as many kinds as places that ask.
    pub fn turn(&self, kind: &'static str, now: Instant) -> Option<LinePermit> {
        let mut kinds = self.kinds();
        let Some(lines) = kinds.get_mut(kind) else {
            kinds.insert(kind, LineCount { last: now, left_out: 0 });
            return Some(LinePermit { left_out: None });
        };
        if now.saturating_duration_since(lines.last) < PERIOD {
            lines.left_out += 1;
            return None;
        }
        lines.last = now;
        let left_out = std::mem::take(&mut lines.left_out);
        Some(LinePermit { left_out: (left_out > 0).then_some(left_out) })
    }

    /// Kinds of which lines were left out and none has come since, and how many. Called now and then.
    pub fn overdue(&self, now: Instant) -> Vec<(&'static str, u64)> {
        let mut kinds = self.kinds();
        let is_over = |lines: &LineCount| now.saturating_duration_since(lines.last) >= 2 * PERIOD;
        let over: Vec<_> = kinds
            .iter()
            .filter(|(_, lines)| is_over(lines))
            .map(|(kind, lines)| (*kind, lines.left_out))
            .collect();
        kinds.retain(|_, lines| !is_over(lines));
        over.into_iter().filter(|(_, left_out)| *left_out > 0).collect()
    }
}

/// A warning about a peer that has not logged in: one of its kind per second, with the number of those left out.
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
    fn a_flood_is_one_line_per_second_and_every_line_is_counted() {
        let limit = LogLimit::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(limit.turn("a", at(0)), Some(LinePermit { left_out: None }));
        assert_eq!(limit.turn("b", at(0)), Some(LinePermit { left_out: None }));
        assert_eq!(limit.turn("a", at(10)), None);
        assert_eq!(limit.turn("a", at(999)), None);
        assert_eq!(limit.turn("a", at(1000)), Some(LinePermit { left_out: Some(2) }));
        assert_eq!(limit.turn("a", at(1001)), None);
        assert_eq!(limit.overdue(at(2000)), []);
        assert_eq!(limit.overdue(at(3000)), [("a", 1)]);
        assert_eq!(limit.overdue(at(9000)), []);
        assert_eq!(limit.turn("a", at(9000)), Some(LinePermit { left_out: None }));
    }
}
