//! The health state reported by probes: started, draining, first login, and heartbeats of the workers. Owns atomics
//! that are rarely written and can be read by any thread without blocking.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A worker whose loop has not run for this long is stuck: its heartbeat is every second, and no iteration takes
/// nearly as long.
pub const MAX_SILENCE: Duration = Duration::from_secs(10);

/// Heartbeat value of a worker that has stopped, or sleeps.
const NOT_EXPECTED: u64 = u64::MAX;

/// Whether a login to a server has succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FirstLogin {
    /// Not yet, and readiness waits for it.
    Awaited = 0,
    /// Yes.
    Done = 1,
    /// Not possible before a client connects, or not required.
    NotNeeded = 2,
    /// Not yet, and readiness was not requested: as in PgBouncer, no server is opened without a client.
    NotRequested = 3,
}

/// Result of the last configuration load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastReload {
    /// Time of the last successful one, in seconds since 1970; the start counts.
    pub succeeded_at_s: u64,
    /// True if the last attempt succeeded.
    pub is_last_good: bool,
}

/// Health of the process.
pub struct HealthState {
    began: Instant,
    /// Start of the process as wall time.
    pub began_wall: SystemTime,
    is_started: AtomicBool,
    is_draining: AtomicBool,
    first_login: AtomicU8,
    /// Last heartbeat of each worker, in ms after `began`.
    heartbeats: Box<[AtomicU64]>,
    reloaded_at_s: AtomicU64,
    has_reload_failed: AtomicBool,
}

fn unix_seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl HealthState {
    /// State of a process starting now with this number of workers.
    pub fn new(workers: usize, began: Instant, first_login: FirstLogin) -> Self {
        let began_wall = SystemTime::now();
        Self {
            began,
            began_wall,
            is_started: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            first_login: AtomicU8::new(first_login as u8),
            heartbeats: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            reloaded_at_s: AtomicU64::new(unix_seconds(began_wall)),
            has_reload_failed: AtomicBool::new(false),
        }
    }

    /// Reports that clients are accepted.
    pub fn start(&self) {
        self.is_started.store(true, Ordering::Release);
    }

    /// True once clients are accepted.
    pub fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Acquire)
    }

    /// Reports that clients should be sent elsewhere; irreversible.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// True once clients should be sent elsewhere.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// True if clients should be sent here, as the readiness probe reports.
    pub fn is_ready(&self) -> bool {
        self.is_started() && !self.is_draining() && self.first_login() != FirstLogin::Awaited
    }

    /// Reports that the first login succeeded or is not needed. The first report is final: readiness is not lost
    /// again.
    pub fn settle_first_login(&self, as_what: FirstLogin) {
        for open in [FirstLogin::NotRequested, FirstLogin::Awaited] {
            self.change_first_login(open, as_what);
        }
    }

    /// Readiness was requested, which needs a login.
    pub fn request_first_login(&self) {
        self.change_first_login(FirstLogin::NotRequested, FirstLogin::Awaited);
    }

    fn change_first_login(&self, from: FirstLogin, to: FirstLogin) {
        let (from, to) = (from as u8, to as u8);
        let _ = self.first_login.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether there was a login.
    pub fn first_login(&self) -> FirstLogin {
        match self.first_login.load(Ordering::Acquire) {
            0 => FirstLogin::Awaited,
            1 => FirstLogin::Done,
            2 => FirstLogin::NotNeeded,
            _ => FirstLogin::NotRequested,
        }
    }

    /// Records that a worker's loop has run.
    pub fn heartbeat(&self, worker: usize, at: Instant) {
        if let Some(beat) = self.heartbeats.get(worker) {
            beat.store(self.ms(at), Ordering::Release);
        }
    }

    /// Reports that a worker sleeps until it has work, and sends no heartbeat until then.
    pub fn sleep(&self, worker: usize) {
        self.end(worker);
    }

    /// Reports that a worker has stopped and sends no more heartbeats.
    pub fn end(&self, worker: usize) {
        if let Some(beat) = self.heartbeats.get(worker) {
            beat.store(NOT_EXPECTED, Ordering::Release);
        }
    }

    /// Workers whose loop has not run for longer than `limit`, and for how long.
    pub fn silent(&self, now: Instant, limit: Duration) -> Vec<(usize, Duration)> {
        let silences = self.heartbeats.iter().enumerate().filter_map(|(worker, beat)| {
            let beat = beat.load(Ordering::Acquire);
            (beat != NOT_EXPECTED).then(|| (worker, Duration::from_millis(self.ms(now).saturating_sub(beat))))
        });
        silences.filter(|(_, silence)| *silence > limit).collect()
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.heartbeats.len()
    }

    /// Records the result of a configuration reload.
    pub fn reloaded(&self, is_good: bool, at: SystemTime) {
        if is_good {
            self.reloaded_at_s.store(unix_seconds(at), Ordering::Relaxed);
        }
        self.has_reload_failed.store(!is_good, Ordering::Relaxed);
    }

    /// Result of the last configuration load.
    pub fn last_reload(&self) -> LastReload {
        LastReload {
            succeeded_at_s: self.reloaded_at_s.load(Ordering::Relaxed),
            is_last_good: !self.has_reload_failed.load(Ordering::Relaxed),
        }
    }

    fn ms(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stuck_workers_are_reported_and_stopped_ones_are_not() {
        let began = Instant::now();
        let health = HealthState::new(3, began, FirstLogin::Awaited);
        let (limit, at) = (Duration::from_secs(10), |seconds| began + Duration::from_secs(seconds));
        health.heartbeat(0, at(20));
        health.heartbeat(1, at(5));
        health.end(2);
        assert_eq!(health.silent(at(15), limit), []);
        assert_eq!(health.silent(at(21), limit), [(1, Duration::from_secs(16))]);
        health.heartbeat(1, at(21));
        assert_eq!(health.silent(at(21), limit), []);
    }

    #[test]
    fn the_first_login_state_is_final() {
        let health = HealthState::new(1, Instant::now(), FirstLogin::NotRequested);
        health.request_first_login();
        assert_eq!(health.first_login(), FirstLogin::Awaited);
        health.settle_first_login(FirstLogin::NotNeeded);
        health.settle_first_login(FirstLogin::Done);
        health.request_first_login();
        assert_eq!(health.first_login(), FirstLogin::NotNeeded);
    }

    #[test]
    fn a_failed_reload_keeps_the_time_of_the_last_successful_one() {
        let health = HealthState::new(1, Instant::now(), FirstLogin::NotNeeded);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        health.reloaded(true, at(100));
        health.reloaded(false, at(200));
        assert_eq!(health.last_reload(), LastReload { succeeded_at_s: 100, is_last_good: false });
        health.reloaded(true, at(300));
        assert_eq!(health.last_reload(), LastReload { succeeded_at_s: 300, is_last_good: true });
    }
}
