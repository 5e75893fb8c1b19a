//! Process-wide counters of logins to servers: successes and their duration, failures and their causes, and the
//! recent rate. Owns atomics that all workers update; logins, unlike queries, are rare enough for that.

use super::histogram::{Buckets, SharedHistogram};
use super::last_failures::LastFailures;
use crate::login_failure::LoginFailure;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Result of a successful request for a token.
const TOKEN_OK: &str = "ok";
/// Other results of a request for a token: the labels of [`rds_iam::TokenError`].
const TOKEN_ERRORS: [&str; 8] = [
    "unknown_region",
    "no_credentials",
    "misconfigured",
    "refused",
    "expired_credentials",
    "clock_skew",
    "unavailable",
    "sign",
];
/// Result of a client's proof of an AWS identity, or of a password that a server verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofOutcome {
    /// AWS or the server accepted it.
    Accepted,
    /// Accepted before, from the cache.
    Remembered,
    /// Its form, validity period or purpose is wrong; rejected without verification.
    Malformed,
    /// AWS or the server refused it, now or recently.
    Refused,
    /// It is valid, but no line of the map allows the user.
    NotMapped,
    /// It could not be verified.
    Unavailable,
    /// Rejected since the connection is not encrypted.
    NoTls,
}

impl ProofOutcome {
    const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Remembered,
        Self::Malformed,
        Self::Refused,
        Self::NotMapped,
        Self::Unavailable,
        Self::NoTls,
    ];

    const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Remembered => "remembered",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::NotMapped => "not_mapped",
            Self::Unavailable => "unavailable",
            Self::NoTls => "no_tls",
        }
    }
}

/// A phase of a login to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginPhase {
    /// Looking up the host name.
    Dns,
    /// Connecting, over all addresses that were tried.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// Obtaining an IAM token.
    Token,
    /// From the startup packet to ReadyForQuery.
    Auth,
}

impl LoginPhase {
    /// All phases, in their order.
    pub const ALL: [Self; 5] = [Self::Dns, Self::Tcp, Self::Tls, Self::Token, Self::Auth];

    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Token => "token",
            Self::Auth => "auth",
        }
    }
}

/// Label for events with an unknown label.
const UNKNOWN: &str = "unknown";
/// Period of the average rate of logins, in seconds.
const RATE_SECONDS: u64 = 10;
/// Number of seconds stored: those of the average, the current one, and some for late readers.
const RING: usize = 16;

/// Counters by label. The labels are known in advance, so that each is reported from the start, with 0.
pub struct LabelledCounters(Box<[(&'static str, AtomicU64)]>);

impl LabelledCounters {
    pub(super) fn new(labels: impl IntoIterator<Item = &'static str>) -> Self {
        let mut counters: Vec<(&'static str, AtomicU64)> = Vec::new();
        for label in labels.into_iter().chain([UNKNOWN]) {
            if counters.iter().all(|(known, _)| *known != label) {
                counters.push((label, AtomicU64::new(0)));
            }
        }
        Self(counters.into())
    }

    pub(super) fn count(&self, label: &str) {
        let known = self.0.iter().find(|(known, _)| *known == label).or_else(|| self.0.last());
        if let Some((_, counter)) = known {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Labels and counts.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        self.0.iter().map(|(label, counter)| (*label, counter.load(Ordering::Relaxed))).collect()
    }
}

/// Counts per second, for the last few seconds.
#[derive(Default)]
struct RecentCounts([AtomicU64; RING]);

impl RecentCounts {
    /// Unpacks a second and its count.
    fn unpack(word: u64) -> (u64, u64) {
        (word >> 32, word & u64::from(u32::MAX))
    }

    fn count(&self, second: u64) {
        let slot = &self.0[second as usize % RING];
        // The count of an older second is overwritten.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| match Self::unpack(word) {
            (of, _) if of == second => Some(word + 1),
            _ => Some(second << 32 | 1),
        });
    }

    /// Average over the last complete seconds.
    fn per_second(&self, second: u64) -> f64 {
        let since = second.saturating_sub(RATE_SECONDS);
        let words = self.0.iter().map(|slot| Self::unpack(slot.load(Ordering::Relaxed)));
        let sum: u64 = words.filter(|(of, _)| (since..second).contains(of)).map(|(_, count)| count).sum();
        sum as f64 / RATE_SECONDS as f64
    }
}

/// All counters of logins to servers.
pub struct LoginCounters {
    began: Instant,
    /// Durations of successful logins.
    pub took: SharedHistogram,
    /// Durations of completed phases, in the order of [`LoginPhase::ALL`], also of failed logins.
    phases: [SharedHistogram; LoginPhase::ALL.len()],
    /// Failed logins, by the labels of `LoginFailure`.
    pub failures: LabelledCounters,
    /// Requests for IAM tokens by result.
    pub tokens: LabelledCounters,
    /// Durations of successful requests for tokens: signing, and fetching credentials if needed.
    pub token_took: SharedHistogram,
    /// Clients' proofs of AWS identities, and passwords that servers verify, by result.
    pub proofs: LabelledCounters,
    recent: RecentCounts,
    /// The last failure of each pool.
    pub last_failures: LastFailures,
}

impl LoginCounters {
    /// Counters at zero.
    pub fn new(began: Instant) -> Self {
        Self {
            began,
            took: SharedHistogram::default(),
            phases: Default::default(),
            failures: LabelledCounters::new(LoginFailure::ALL.iter().map(|cause| cause.info().label)),
            tokens: LabelledCounters::new([TOKEN_OK].into_iter().chain(TOKEN_ERRORS)),
            token_took: SharedHistogram::default(),
            proofs: LabelledCounters::new(ProofOutcome::ALL.map(ProofOutcome::label)),
            recent: RecentCounts::default(),
            last_failures: LastFailures::default(),
        }
    }

    /// Counts a successful login.
    pub fn count_success(&self, took: Duration, at: Instant) {
        self.took.observe(took);
        self.recent.count(self.second(at));
    }

    /// Counts a completed phase.
    pub fn count_phase(&self, phase: LoginPhase, took: Duration) {
        self.phases[phase as usize].observe(took);
    }

    /// Durations of completed phases, with the sums in microseconds.
    pub fn phases(&self) -> [(LoginPhase, (Buckets, u64)); LoginPhase::ALL.len()] {
        LoginPhase::ALL.map(|phase| (phase, self.phases[phase as usize].read()))
    }

    /// Counts a failed login with the label of its cause.
    pub fn count_failure(&self, label: &'static str, at: Instant) {
        self.failures.count(label);
        self.recent.count(self.second(at));
    }

    /// Counts a successful request for a token.
    pub fn count_token(&self, took: Duration) {
        self.tokens.count(TOKEN_OK);
        self.token_took.observe(took);
    }

    /// Counts a failed request for a token with the label of its error.
    pub fn count_missing_token(&self, label: &'static str) {
        self.tokens.count(label);
    }

    /// Counts a client's proof.
    pub fn count_proof(&self, outcome: ProofOutcome) {
        self.proofs.count(outcome.label());
    }

    /// Logins per second, successful or not, over the last ten seconds.
    pub fn per_second(&self, at: Instant) -> f64 {
        self.recent.per_second(self.second(at))
    }

    /// Seconds since the process started, from 1, so that an empty slot belongs to no second.
    fn second(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_secs() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_counter_and_unknown_labels_are_counted() {
        let began = Instant::now();
        let counters = LoginCounters::new(began);
        for cause in LoginFailure::ALL {
            counters.count_failure(cause.info().label, began);
        }
        counters.count_failure("no such label", began);
        let counts = counters.failures.read();
        assert!(counts.iter().all(|(_, count)| *count > 0), "{counts:?}");
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), LoginFailure::ALL.len() as u64 + 1);
        counters.count_token(Duration::ZERO);
        for outcome in ProofOutcome::ALL {
            counters.count_proof(outcome);
        }
        assert!(counters.proofs.read().iter().all(|(label, count)| (*count == 1) == (*label != UNKNOWN)));
        assert_eq!(counters.tokens.read()[0], (TOKEN_OK, 1));
    }

    #[test]
    fn labels_of_token_errors_are_those_of_the_library() {
        let unknown = rds_iam::TokenError::UnknownRegion { host: String::new() };
        assert_eq!(unknown.label(), TOKEN_ERRORS[0]);
        let identity = || String::new();
        let unavailable = rds_iam::TokenError::Unavailable { identity: identity(), reason: String::new() };
        let clock_skew = rds_iam::TokenError::ClockSkew { identity: identity(), reason: String::new() };
        assert!([unavailable, clock_skew].iter().all(|error| TOKEN_ERRORS.contains(&error.label())));
    }

    #[test]
    fn the_rate_covers_the_last_ten_complete_seconds() {
        let began = Instant::now();
        let counters = LoginCounters::new(began);
        let at = |seconds| began + Duration::from_secs(seconds);
        for _ in 0..30 {
            counters.count_success(Duration::ZERO, at(0));
        }
        counters.count_failure("other", at(5));
        assert_eq!(counters.per_second(at(0)), 0.0, "the current second is not complete");
        assert_eq!(counters.per_second(at(6)), 3.1);
        assert_eq!(counters.per_second(at(11)), 0.1);
        assert_eq!(counters.per_second(at(16)), 0.0);
        // A second that reuses the slot of an older one starts from zero.
        counters.count_success(Duration::ZERO, at(RING as u64));
        assert_eq!(counters.per_second(at(RING as u64 + 1)), 0.1);
    }
}
