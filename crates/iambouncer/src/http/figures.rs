//! The values of one scrape. Owns the conversion from the snapshots of the token engine and the counters; names and
//! units are in the table.

use crate::health_state::LastReload;
use crate::identities::{Identities, IdentityInfo};
use crate::process::Process;
use crate::stats::histogram::Buckets;
use crate::stats::snapshot::{OTHER, PoolCounts, PoolName};
use rds_iam::secrets::SecretCache;
use rds_iam::{CredentialStatus, TokenStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

/// Maximum number of tokens with series of their own; the rest is summed.
const MAX_TOKENS: usize = 200;

/// Endpoint, user and identity.
type TokenName = (String, String, String);

/// Values of a token.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct TokenFigures {
    /// Seconds since it was signed.
    pub(super) age: Option<f64>,
    /// Seconds until it expires.
    pub(super) left: Option<f64>,
    /// Refused logins with tokens of this name.
    pub(super) refusals: u64,
}

/// Values of the credentials of an identity.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CredentialFigures {
    pub(super) identity: String,
    /// ARN reported by AWS; empty until it is known.
    pub(super) arn: String,
    /// The source of its credentials.
    pub(super) provider: String,
    /// Seconds by which the local clock is ahead of AWS's.
    pub(super) clock_skew: Option<i64>,
    /// Seconds until they expire; `None` for those that do not, and for unused ones.
    pub(super) left: Option<f64>,
    pub(super) fetched: u64,
    pub(super) failed: u64,
}

/// Values of a secret.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SecretFigures {
    pub(super) arn: String,
    /// Seconds since it was read.
    pub(super) age: Option<f64>,
    pub(super) read: u64,
    pub(super) failed: u64,
    pub(super) rotations: u64,
}

/// Logins to servers.
#[derive(Debug, Default)]
pub(super) struct LoginFigures {
    pub(super) took: Buckets,
    pub(super) took_us: u64,
    pub(super) phases: Vec<(&'static str, Buckets, u64)>,
    pub(super) failures: Vec<(&'static str, u64)>,
    pub(super) tokens: Vec<(&'static str, u64)>,
    pub(super) token_took: Buckets,
    pub(super) token_took_us: u64,
    pub(super) proofs: Vec<(&'static str, u64)>,
    pub(super) per_second: f64,
}

/// One scrape.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) pools: Vec<(PoolName, PoolCounts)>,
    pub(super) logging_in: usize,
    pub(super) on_console: usize,
    pub(super) workers_answered: usize,
    pub(super) workers_silent: usize,
    pub(super) scrape_errors: u64,
    pub(super) logins: LoginFigures,
    pub(super) tokens: BTreeMap<TokenName, TokenFigures>,
    pub(super) credentials: Vec<CredentialFigures>,
    pub(super) secrets: Vec<SecretFigures>,
    /// CPU time of each worker.
    pub(super) worker_cpu: Vec<(usize, Duration)>,
    /// Databases, and whether they are paused.
    pub(super) paused: BTreeMap<String, bool>,
    /// Seconds until the certificate of the listeners expires.
    pub(super) listener_left: Option<f64>,
    pub(super) client_logins: Vec<(&'static str, u64)>,
    pub(super) client_errors: Vec<(&'static str, u64)>,
    pub(super) session_pins: Vec<(&'static str, u64)>,
    pub(super) refused_pins: Vec<(&'static str, u64)>,
    /// Comparisons of `state_verify`, and those that have found a difference.
    pub(super) sessions_verified: (u64, u64),
    pub(super) session_mismatches: u64,
    pub(super) traces_exported: u64,
    pub(super) traces_dropped: u64,
    pub(super) is_ready: bool,
    pub(super) is_draining: bool,
    pub(super) last_reload: LastReload,
    pub(super) began_at: SystemTime,
}

impl LoginFigures {
    pub(super) fn read(process: &Process, now: Instant) -> Self {
        let (took, took_us) = process.logins.took.read();
        let (token_took, token_took_us) = process.logins.token_took.read();
        Self {
            took,
            took_us,
            phases: process.logins.phases().map(|(phase, (took, us))| (phase.label(), took, us)).into(),
            failures: process.logins.failures.read(),
            tokens: process.logins.tokens.read(),
            token_took,
            token_took_us,
            proofs: process.logins.proofs.read(),
            per_second: process.logins.per_second(now),
        }
    }
}

/// Databases of all workers, and whether they are paused: at most `most` by name, the rest as one, which is paused if any
/// of them is.
pub(super) fn paused<'a>(
    parts: impl Iterator<Item = &'a BTreeMap<String, bool>>,
    most: usize,
) -> BTreeMap<String, bool> {
    let mut all = BTreeMap::new();
    for (name, is_paused) in parts.flatten() {
        *all.entry(name.clone()).or_insert(false) |= is_paused;
    }
    let mut rest = None;
    while all.len() > most {
        let last = all.pop_last().is_some_and(|(_, is_paused)| is_paused);
        rest = Some(rest.unwrap_or(false) | last);
    }
    if let Some(is_paused) = rest {
        *all.entry(OTHER.to_owned()).or_insert(false) |= is_paused;
    }
    all
}

/// A time in seconds since 1970.
pub(super) fn unix_seconds(at: SystemTime) -> i64 {
    seconds(SystemTime::UNIX_EPOCH, at) as i64
}

/// Tokens and credentials of the engine.
pub(super) fn iam(
    identities: &Identities,
    now: SystemTime,
) -> (BTreeMap<TokenName, TokenFigures>, Vec<CredentialFigures>) {
    let engine = identities.tokens();
    let mut tokens = engine.snapshot();
    // The others are not renewed, so their expiry is irrelevant.
    tokens.retain(|token| token.is_in_use(now));
    let in_use: BTreeSet<String> = tokens.iter().map(|token| token.key.identity.to_string()).collect();
    let credentials = engine.credentials_snapshot();
    let credentials =
        credentials.iter().map(|status| credential(status, &identities.get(&status.identity), &in_use, now));
    let mut by_identity: BTreeMap<String, CredentialFigures> = BTreeMap::new();
    for figures in credentials {
        by_identity
            .entry(figures.identity.clone())
            .and_modify(|known| known.merge(&figures))
            .or_insert(figures);
    }
    (name_tokens(&tokens, now, MAX_TOKENS), by_identity.into_values().collect())
}

/// Secrets in the cache. They come from the configuration, so they are few. A secret read by two identities is one
/// series.
pub(super) fn secrets(cache: &SecretCache, now: SystemTime) -> Vec<SecretFigures> {
    let mut by_arn: BTreeMap<String, SecretFigures> = BTreeMap::new();
    for status in cache.snapshot() {
        let figures = SecretFigures {
            arn: status.key.arn.to_string(),
            age: status.read_at.map(|at| seconds(at, now)),
            read: status.reads.saturating_sub(status.failed_reads),
            failed: status.failed_reads,
            rotations: status.rotations,
        };
        by_arn.entry(figures.arn.clone()).and_modify(|known| known.merge(&figures)).or_insert(figures);
    }
    by_arn.into_values().collect()
}

fn name_tokens(tokens: &[TokenStatus], now: SystemTime, most: usize) -> BTreeMap<TokenName, TokenFigures> {
    let mut named: BTreeMap<TokenName, TokenFigures> = BTreeMap::new();
    for token in tokens {
        let key = &token.key;
        let name = (format!("{}:{}", key.host, key.port), key.user.clone(), key.identity.to_string());
        let figures = TokenFigures {
            age: token.signed_at.map(|at| seconds(at, now)),
            left: token.expires_at.map(|at| seconds(now, at)),
            refusals: token.refusals,
        };
        named.entry(name).or_default().merge(figures);
    }
    let mut rest = TokenFigures::default();
    while named.len() > most {
        if let Some((_, figures)) = named.pop_last() {
            rest.merge(figures);
        }
    }
    if rest != TokenFigures::default() {
        let other = || OTHER.to_owned();
        named.insert((other(), other(), other()), rest);
    }
    named
}

impl TokenFigures {
    /// Keeps the worse of two values: the older, and the one that expires first.
    fn merge(&mut self, other: Self) {
        self.age = larger(self.age, other.age);
        self.left = smaller(self.left, other.left);
        self.refusals += other.refusals;
    }
}

impl SecretFigures {
    fn merge(&mut self, other: &Self) {
        self.age = larger(self.age, other.age);
        self.read += other.read;
        self.failed += other.failed;
        self.rotations = self.rotations.max(other.rotations);
    }
}

impl CredentialFigures {
    /// For identities that differ only in properties without a label.
    fn merge(&mut self, other: &Self) {
        self.left = smaller(self.left, other.left);
        self.fetched += other.fetched;
        self.failed += other.failed;
    }
}

fn credential(
    status: &CredentialStatus,
    known: &IdentityInfo,
    in_use: &BTreeSet<String>,
    now: SystemTime,
) -> CredentialFigures {
    let identity = status.identity.to_string();
    CredentialFigures {
        left: status.ends_at.filter(|_| in_use.contains(&identity)).map(|at| seconds(now, at)),
        arn: known.caller.as_ref().map(|caller| caller.arn.clone()).unwrap_or_default(),
        provider: status.provider.clone().unwrap_or_default(),
        clock_skew: known.clock_skew_seconds,
        fetched: status.fetches.saturating_sub(status.failed_fetches),
        failed: status.failed_fetches,
        identity,
    }
}

fn larger(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::max)
}

fn smaller(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    a.into_iter().chain(b).reduce(f64::min)
}

/// Seconds from one time to another; negative if that was earlier.
pub(super) fn seconds(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds_iam::{Identity, Region, TokenKey};

    fn token(user: &str, region: &str, signed_at: u64) -> TokenStatus {
        let region: Region = region.parse().unwrap();
        let key = TokenKey::new("db.example", 5432, user, Some(region), Identity::default()).unwrap();
        TokenStatus {
            key,
            access_key_id: None,
            signed_at: Some(at(signed_at)),
            expires_at: Some(at(signed_at + 900)),
            last_used_at: Some(at(signed_at)),
            refusals: 1,
            last_error: None,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn tokens_of_one_name_are_one_series_with_the_worse_values() {
        let tokens = [token("u", "eu-west-1", 1000), token("u", "eu-west-2", 1100)];
        let named = name_tokens(&tokens, at(1950), 10);
        let figures = TokenFigures { age: Some(950.0), left: Some(-50.0), refusals: 2 };
        let name = ("db.example:5432".to_owned(), "u".to_owned(), "default".to_owned());
        assert_eq!(named, BTreeMap::from([(name, figures)]));
    }

    #[test]
    fn a_paused_database_is_shown_even_if_it_has_no_series_of_its_own() {
        let part = |names: &[(&str, bool)]| -> BTreeMap<String, bool> {
            names.iter().map(|(name, is_paused)| ((*name).to_owned(), *is_paused)).collect()
        };
        let parts = [part(&[("a", false), ("b", false), ("c", true)]), part(&[("b", true), ("d", false)])];
        assert_eq!(paused(parts.iter(), 9), part(&[("a", false), ("b", true), ("c", true), ("d", false)]));
        assert_eq!(paused(parts.iter(), 2), part(&[("a", false), ("b", true), (OTHER, true)]));
    }

    #[test]
    fn tokens_beyond_the_limit_are_summed_in_one_series() {
        let users: Vec<String> = (0..10).map(|i| format!("u{i}")).collect();
        let tokens: Vec<_> = users.iter().map(|user| token(user, "eu-west-1", 1000)).collect();
        let named = name_tokens(&tokens, at(1000), 3);
        assert_eq!(named.len(), 4);
        assert_eq!(named.values().map(|figures| figures.refusals).sum::<u64>(), 10);
        let other = || OTHER.to_owned();
        assert_eq!(named[&(other(), other(), other())].refusals, 7);
    }
}
