//! Faults that can be switched on.
//!
//! Owns: the switches, and the login throttle. Never: decides when a fault is used.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The current switches; all off by default.
#[derive(Clone, Debug, Default)]
pub struct FaultSettings {
    /// New IAM logins accepted per second; the others are refused. AWS documents 200.
    pub max_logins_per_second: Option<u32>,
    /// Delay of the answer to a password.
    pub login_delay: Duration,
    /// Number of further IAM logins to refuse although their token is valid.
    pub refuse_next: u32,
    /// Number of further IAM logins to fail with an authentication timeout, as with a server that is short of
    /// memory for the check.
    pub time_out_next: u32,
    /// Number of further connections to close before any answer.
    pub drop_next: u32,
    /// Connections are cut after this number of bytes, counted in both directions.
    pub cut_after_bytes: Option<u64>,
    /// Established connections forward nothing.
    pub stall: bool,
    /// Tokens signed at or before this second (since 1970) are treated as expired.
    pub expire_signed_until: Option<i64>,
}

/// The switches, shared by all doors of a simulator.
#[derive(Clone, Debug)]
pub struct Faults {
    inner: Arc<Mutex<State>>,
    /// Notifies established connections of changes.
    changed: Arc<watch::Sender<Change>>,
}

/// Switches that affect established connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) stall: bool,
    pub(crate) cut_generation: u64,
}

#[derive(Debug, Default)]
struct State {
    settings: FaultSettings,
    window: Option<(Instant, u32)>,
}

impl Default for Faults {
    fn default() -> Self {
        let (changed, _) = watch::channel(Change::default());
        Self { inner: Arc::default(), changed: Arc::new(changed) }
    }
}

impl Faults {
    /// Changes switches.
    pub fn set(&self, change: impl FnOnce(&mut FaultSettings)) {
        let stall = {
            let mut state = self.lock();
            change(&mut state.settings);
            state.settings.stall
        };
        self.changed.send_modify(|current| current.stall = stall);
    }

    /// Switches all faults off.
    pub fn clear(&self) {
        self.set(|settings| *settings = FaultSettings::default());
    }

    /// The current switches.
    pub fn settings(&self) -> FaultSettings {
        self.lock().settings.clone()
    }

    /// Cuts all established connections now, as a failover does.
    pub fn cut_now(&self) {
        self.changed.send_modify(|current| current.cut_generation += 1);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Change> {
        self.changed.subscribe()
    }

    pub(crate) fn take_drop(&self) -> bool {
        take_one(&mut self.lock().settings.drop_next)
    }

    pub(crate) fn take_time_out(&self) -> bool {
        take_one(&mut self.lock().settings.time_out_next)
    }

    pub(crate) fn take_refusal(&self) -> bool {
        take_one(&mut self.lock().settings.refuse_next)
    }

    /// Counts a login. True if it exceeds the limit for its second.
    pub(crate) fn is_throttled(&self) -> bool {
        let mut state = self.lock();
        let Some(limit) = state.settings.max_logins_per_second else {
            return false;
        };
        let now = Instant::now();
        let (start, count) = match state.window {
            Some((start, count)) if now.duration_since(start) < Duration::from_secs(1) => (start, count + 1),
            _ => (now, 1),
        };
        state.window = Some((start, count));
        count > limit
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_one(counter: &mut u32) -> bool {
    let is_left = *counter > 0;
    *counter = counter.saturating_sub(1);
    is_left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_counters_run_out_and_the_throttle_counts_per_second() {
        let faults = Faults::default();
        assert!(!faults.take_refusal() && !faults.is_throttled());
        faults.set(|settings| {
            settings.refuse_next = 2;
            settings.max_logins_per_second = Some(1);
        });
        assert!(faults.take_refusal() && faults.take_refusal() && !faults.take_refusal());
        assert!(!faults.is_throttled() && faults.is_throttled());
        faults.clear();
        assert!(!faults.is_throttled());
    }
}
