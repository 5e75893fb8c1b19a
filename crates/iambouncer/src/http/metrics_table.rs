//! THE table of metrics: name, kind, unit, labels, help, and where the values come from. Owns all of that; the text of a
//! scrape, the reference page and the tests are made from it, and no metric is anywhere else.

use super::figures::{CredentialFigures, Figures, SecretFigures, TokenFigures, seconds};
use crate::admin::gathered::PoolCounts;
use crate::stats::histogram::Buckets;
use std::time::SystemTime;

/// What all names begin with.
pub(super) const PREFIX: &str = "iambouncer";

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises, until the process ends.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts by size.
    Histogram,
    /// Only labels.
    Info,
}

/// What values are measured in. Counts of things have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The end of the name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// One row.
pub struct Metric {
    /// Name without prefix, unit and ending.
    name: &'static str,
    /// MetricKind.
    pub kind: MetricKind,
    /// Unit.
    pub unit: Option<Unit>,
    /// Names of labels.
    pub labels: &'static [&'static str],
    /// One sentence for people.
    pub help: &'static str,
    samples: fn(&Figures) -> Vec<Sample>,
}

/// One series at one moment.
pub(super) struct Sample {
    /// In the order of the row's names.
    pub(super) labels: Vec<String>,
    pub(super) value: MetricValue,
}

/// What a series is at.
pub(super) enum MetricValue {
    Count(u64),
    Gauge(f64),
    Histogram { buckets: Buckets, sum_us: u64 },
    Info,
}

impl Metric {
    /// The name as it is looked up, without what histograms add to it.
    pub fn full_name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{}", unit.as_str())).unwrap_or_default();
        let ending = match self.kind {
            MetricKind::Counter => "_total",
            MetricKind::Info => "_info",
            MetricKind::Gauge | MetricKind::Histogram => "",
        };
        format!("{PREFIX}_{}{unit}{ending}", self.name)
    }

    /// The name without what prefix, unit and kind add to it.
    pub(super) fn stem(&self) -> &'static str {
        self.name
    }

    pub(super) fn samples(&self, figures: &Figures) -> Vec<Sample> {
        (self.samples)(figures)
    }
}

/// Every metric, in the order of a scrape.
pub fn table() -> &'static [Metric] {
    TABLE
}

const POOL: &[&str] = &["database", "user"];
const TOKEN: &[&str] = &["endpoint", "user", "identity"];

const fn row(
    name: &'static str,
    kind: MetricKind,
    unit: Option<Unit>,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Figures) -> Vec<Sample>,
) -> Metric {
    Metric { name, kind, unit, labels, help, samples }
}

use MetricKind::{Counter, Gauge, Histogram, Info};
const SECONDS: Option<Unit> = Some(Unit::Seconds);
const BYTES: Option<Unit> = Some(Unit::Bytes);

#[rustfmt::skip]
static TABLE: &[Metric] = &[
    row("build", Info, None, &["version"], "Version of this program.", |_| {
        vec![sample([env!("CARGO_PKG_VERSION")], MetricValue::Info)]
    }),
    row("start_time", Gauge, SECONDS, &[], "When the process began, in seconds since 1970.", |f| {
        one(MetricValue::Gauge(seconds(SystemTime::UNIX_EPOCH, f.began_at)))
    }),
    row("ready", Gauge, None, &[], "1 while /readiness says yes.", |f| one(flag(f.is_ready))),
    row("draining", Gauge, None, &[], "1 once no new clients are let in.", |f| one(flag(f.is_draining))),
    row("config_reload_success_timestamp", Gauge, SECONDS, &[], "When a configuration was last put in force, in seconds since 1970.", |f| {
        one(whole(f.last_reload.succeeded_at_s))
    }),
    row("config_last_reload_successful", Gauge, None, &[], "0 if the last RELOAD found mistakes and changed nothing.", |f| {
        one(flag(f.last_reload.is_last_good))
    }),
    row("workers", Gauge, None, &["state"], "Workers that answered this scrape, and those that did not; for these, figures are the last known.", |f| {
        vec![
            sample(["answered"], whole(f.workers_answered as u64)),
            sample(["silent"], whole(f.workers_silent as u64)),
        ]
    }),
    row("scrape_errors", Counter, None, &[], "Answers of workers that scrapes did not get in time.", |f| one(MetricValue::Count(f.scrape_errors))),

    row("client_connections", Gauge, None, &["database", "user", "state"], "Clients by state: idle, active (with a server), waiting (for a server); login and console have no pool.", client_connections),
    row("server_connections", Gauge, None, &["database", "user", "state"], "Servers by state: active, idle, tested (reset query), being_canceled, login.", server_connections),
    row("pool_size", Gauge, None, POOL, "Servers that the pool may have.", |f| pools(f, |p| whole(p.size.into()))),
    row("pool_waiting", Gauge, None, POOL, "Clients that wait for a server.", |f| pools(f, |p| whole(p.waiting as u64))),
    row("pool_maxwait", Gauge, SECONDS, POOL, "How long the first of them has waited.", |f| {
        pools(f, |p| MetricValue::Gauge(p.longest_wait.as_secs_f64()))
    }),

    row("queries", Counter, None, POOL, "Queries answered.", |f| pools(f, |p| MetricValue::Count(p.totals.queries))),
    row("transactions", Counter, None, POOL, "Transactions ended; a query outside of one counts as one.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.transactions))
    }),
    row("server_assignments", Counter, None, POOL, "Times a client was given a server.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.server_assignments))
    }),
    row("client", Counter, BYTES, &["database", "user", "direction"], "Bytes from clients (received) and to them (sent).", |f| {
        split(f, [("received", |p| p.totals.received_bytes), ("sent", |p| p.totals.sent_bytes)])
    }),
    row("parses", Counter, None, &["database", "user", "side"], "Named Parse messages from clients, and those sent on to servers.", |f| {
        split(f, [("client", |p| p.totals.client_parses), ("server", |p| p.totals.server_parses)])
    }),
    row("binds", Counter, None, POOL, "Bind messages from clients.", |f| pools(f, |p| MetricValue::Count(p.totals.binds))),

    row("query_duration", Histogram, SECONDS, POOL, "From a query's way to the server to the end of its answer.", |f| {
        pools(f, |p| MetricValue::Histogram { buckets: p.queries, sum_us: p.totals.query_us })
    }),
    row("transaction_duration", Histogram, SECONDS, POOL, "From a transaction's first query to the end of its last answer.", |f| {
        pools(f, |p| MetricValue::Histogram { buckets: p.transactions, sum_us: p.totals.transaction_us })
    }),
    row("pool_wait", Histogram, SECONDS, POOL, "How long clients waited for a server; those that got one at once count as well.", |f| {
        pools(f, |p| MetricValue::Histogram { buckets: p.waits, sum_us: p.totals.wait_us })
    }),

    row("server_login", Histogram, SECONDS, &[], "How long logins to servers took that succeeded, with everything: DNS, TCP, TLS, token, password.", |f| {
        one(MetricValue::Histogram { buckets: f.logins.took, sum_us: f.logins.took_us })
    }),
    row("server_logins", Counter, None, &[], "Logins to servers that succeeded.", |f| one(MetricValue::Count(f.logins.took.count()))),
    row("server_login_failures", Counter, None, &["reason"], "Logins to servers that failed, by cause.", |f| {
        f.logins.failures.iter().map(|(reason, count)| sample([reason], MetricValue::Count(*count))).collect()
    }),
    row("protocol_mismatches", Counter, None, &[], "Servers that sent what no request was waiting for; each was closed. Anything but 0 is a bug of the server, of what stands between, or of the pooler.", |_| {
        one(MetricValue::Count(crate::server::out_of_step::mismatches()))
    }),
    row("server_logins_per_second", Gauge, None, &[], "Logins to servers, well ended or not, over the last ten seconds; RDS takes 200 IAM logins a second.", |f| {
        one(MetricValue::Gauge(f.logins.per_second))
    }),

    row("iam_token_requests", Counter, None, &["result"], "Requests for IAM tokens: ok, or why there was none.", |f| {
        f.logins.tokens.iter().map(|(result, count)| sample([result], MetricValue::Count(*count))).collect()
    }),
    row("iam_token_generate", Histogram, SECONDS, &[], "How long requests for IAM tokens took that were granted: signing, and fetching credentials where that was due.", |f| {
        one(MetricValue::Histogram { buckets: f.logins.token_took, sum_us: f.logins.token_took_us })
    }),
    row("client_proofs", Counter, None, &["result"], "Proofs of AWS identities that clients have shown (auth_type iam and iam-sts), by what came of them.", |f| {
        f.logins.proofs.iter().map(|(result, count)| sample([result], MetricValue::Count(*count))).collect()
    }),
    row("iam_token_age", Gauge, SECONDS, TOKEN, "How long ago the token at hand was signed.", |f| {
        tokens(f, |t| t.age.map(MetricValue::Gauge))
    }),
    row("iam_token_expires", Gauge, SECONDS, TOKEN, "Seconds until the token at hand ends; negative afterwards. Tokens unused for an hour are not renewed, nor shown.", |f| {
        tokens(f, |t| t.left.map(MetricValue::Gauge))
    }),
    row("iam_token_refusals", Counter, None, TOKEN, "Logins with a token that the server refused.", |f| {
        tokens(f, |t| Some(MetricValue::Count(t.refusals)))
    }),
    row("aws_credentials_expires", Gauge, SECONDS, &["identity"], "Seconds until the AWS credentials behind tokens in use end; those without an end are not shown.", |f| {
        f.credentials.iter().filter_map(|c| Some(sample([&c.identity], MetricValue::Gauge(c.left?)))).collect()
    }),
    row("aws_credentials_refresh", Counter, None, &["identity", "result"], "Fetches of AWS credentials: ok or failed.", |f| {
        let both = |c: &CredentialFigures| {
            [("ok", c.fetched), ("failed", c.failed)].map(|(result, count)| sample([&c.identity, result], MetricValue::Count(count)))
        };
        f.credentials.iter().flat_map(both).collect()
    }),
    row("secret_age", Gauge, SECONDS, &["secret"], "How long ago the secret at hand was read from Secrets Manager.", |f| {
        f.secrets.iter().filter_map(|s| Some(sample([&s.arn], MetricValue::Gauge(s.age?)))).collect()
    }),
    row("secret_reads", Counter, None, &["secret", "result"], "Reads of secrets: ok or failed.", |f| {
        let both = |s: &SecretFigures| {
            [("ok", s.read), ("failed", s.failed)].map(|(result, count)| sample([&s.arn, result], MetricValue::Count(count)))
        };
        f.secrets.iter().flat_map(both).collect()
    }),
    row("secret_rotations", Counter, None, &["secret"], "How many times a read brought another user name or password than before.", |f| {
        f.secrets.iter().map(|s| sample([&s.arn], MetricValue::Count(s.rotations))).collect()
    }),
    row("aws_clock_skew", Gauge, SECONDS, &["identity"], "Seconds that this machine's clock is ahead of AWS's, when it was last compared.", |f| {
        f.credentials.iter().filter_map(|c| Some(sample([&c.identity], MetricValue::Gauge(c.clock_skew? as f64)))).collect()
    }),
    row("aws_identity", Info, None, &["identity", "arn", "provider"], "AWS identities that sign: as configured, as AWS names them, and where their credentials come from.", |f| {
        f.credentials.iter().map(|c| sample([&c.identity, &c.arn, &c.provider], MetricValue::Info)).collect()
    }),
];

fn sample<const N: usize>(labels: [&str; N], value: MetricValue) -> Sample {
    Sample { labels: labels.map(str::to_owned).into(), value }
}

fn one(value: MetricValue) -> Vec<Sample> {
    vec![sample([], value)]
}

fn whole(value: u64) -> MetricValue {
    MetricValue::Gauge(value as f64)
}

fn flag(is_set: bool) -> MetricValue {
    whole(is_set.into())
}

/// One series for each pool.
fn pools(figures: &Figures, value: fn(&PoolCounts) -> MetricValue) -> Vec<Sample> {
    let rows = figures.pools.iter();
    rows.map(|((database, user), counts)| sample([database, user], value(counts))).collect()
}

/// A part of a counter: its label, and where its value is.
type Part = (&'static str, fn(&PoolCounts) -> u64);

/// A counter of each pool in parts.
fn split<const N: usize>(figures: &Figures, parts: [Part; N]) -> Vec<Sample> {
    let rows = figures.pools.iter().flat_map(|((database, user), counts)| {
        parts.map(|(part, value)| sample([database, user, part], MetricValue::Count(value(counts))))
    });
    rows.collect()
}

fn client_connections(figures: &Figures) -> Vec<Sample> {
    let mut samples: Vec<Sample> = [("login", figures.logging_in), ("console", figures.on_console)]
        .map(|(state, count)| sample(["", "", state], whole(count as u64)))
        .into();
    for ((database, user), pool) in &figures.pools {
        let idle = pool.clients.saturating_sub(pool.busy_clients);
        for (state, count) in [("idle", idle), ("active", pool.busy_clients), ("waiting", pool.waiting)] {
            samples.push(sample([database, user, state], whole(count as u64)));
        }
    }
    samples
}

fn server_connections(figures: &Figures) -> Vec<Sample> {
    let rows = figures.pools.iter().flat_map(|((database, user), pool)| {
        [
            ("active", pool.active),
            ("idle", pool.idle),
            ("tested", pool.tested),
            ("being_canceled", pool.being_canceled),
            ("login", pool.logins),
        ]
        .map(|(state, count)| sample([database, user, state], whole(count as u64)))
    });
    rows.collect()
}

/// One series for each token that has the value.
fn tokens(figures: &Figures, value: fn(&TokenFigures) -> Option<MetricValue>) -> Vec<Sample> {
    let rows = figures.tokens.iter().filter_map(|((endpoint, user, identity), figures)| {
        Some(sample([endpoint, user, identity], value(figures)?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_as_their_kind_does() {
        let mut names: Vec<String> = table().iter().map(Metric::full_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), table().len());
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        for metric in table() {
            assert!(
                is_word(metric.name) && metric.labels.iter().all(|label| is_word(label)),
                "{}",
                metric.name
            );
            assert!(!metric.name.ends_with("_total") && !metric.name.ends_with("_info"), "{}", metric.name);
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}", metric.name);
            assert!(metric.kind != MetricKind::Histogram || metric.unit == SECONDS, "{}", metric.name);
        }
    }
}
