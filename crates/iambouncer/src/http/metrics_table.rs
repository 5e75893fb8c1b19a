//! The table of metrics: name, kind, unit, labels, help, and the source of the values. Owns all metrics; the text of
//! a scrape, the reference page and the tests are derived from it.

use super::figures::{CredentialFigures, Figures, SecretFigures, TokenFigures, seconds};
use super::metric::{
    BYTES, Metric, MetricDescription, MetricKind, MetricSource, MetricValue, SECONDS, Sample, descriptions,
    flag, one, row, sample, whole,
};
use crate::stats::snapshot::{ClientCounts, PoolCounts};
use std::time::SystemTime;

impl MetricSource for Figures {
    const PREFIX: &'static str = "iambouncer";
}

/// The descriptions of all metrics, in the order of a scrape.
pub fn table() -> impl Iterator<Item = &'static MetricDescription> {
    descriptions(TABLE)
}

const POOL: &[&str] = &["database", "user"];
const TOKEN: &[&str] = &["endpoint", "user", "identity"];

use MetricKind::{Counter, Gauge, Histogram, Info};

#[rustfmt::skip]
pub(super) static TABLE: &[Metric<Figures>] = &[
    row("build", Info, None, &["version"], "Version of this program.", |_| {
        vec![sample([env!("CARGO_PKG_VERSION")], MetricValue::Info)]
    }),
    row("start_time", Gauge, SECONDS, &[], "Start time of the process, in seconds since 1970.", |f| {
        one(MetricValue::Gauge(seconds(SystemTime::UNIX_EPOCH, f.began_at)))
    }),
    row("ready", Gauge, None, &[], "1 while /readiness passes. A first login that no probe has requested is not waited for.", |f| one(flag(f.is_ready))),
    row("draining", Gauge, None, &[], "1 once clients should be sent elsewhere, because the process stops.", |f| one(flag(f.is_draining))),
    row("config_reload_success_timestamp", Gauge, SECONDS, &[], "Time of the last successful load of the configuration, in seconds since 1970.", |f| {
        one(whole(f.last_reload.succeeded_at_s))
    }),
    row("config_last_reload_successful", Gauge, None, &[], "0 if the last RELOAD found errors and changed nothing.", |f| {
        one(flag(f.last_reload.is_last_good))
    }),
    row("workers", Gauge, None, &["state"], "Workers that answered this scrape, and those that did not; the latter are included with their last known values.", |f| {
        vec![
            sample(["answered"], whole(f.workers_answered as u64)),
            sample(["silent"], whole(f.workers_silent as u64)),
        ]
    }),
    row("scrape_errors", Counter, None, &[], "Answers of workers that a scrape did not receive in time.", |f| one(MetricValue::Count(f.scrape_errors))),

    row("worker_cpu", Counter, SECONDS, &["worker"], "CPU time of each worker's thread. A worker with nearly one second per second is busy.", |f| {
        f.worker_cpu.iter().map(|(worker, cpu)| sample([&worker.to_string()], MetricValue::CountUs(cpu.as_micros() as u64))).collect()
    }),
    row("tls_certificate_expires", Gauge, SECONDS, &["kind"], "Seconds until a certificate of the chain that clients receive (client_listener) expires; negative afterwards.", |f| {
        f.listener_left.iter().map(|left| sample(["client_listener"], MetricValue::Gauge(*left))).collect()
    }),

    row("client_connections", Gauge, None, &["database", "user", "state"], "Clients by state: idle, active (with a server), waiting (for a server); login and console have no pool.", client_connections),
    row("server_connections", Gauge, None, &["database", "user", "state"], "Servers by state: active, idle, tested (reset query), listen (shared listener), being_canceled, login.", server_connections),
    row("pool_size", Gauge, None, POOL, "Servers that the pool may have.", |f| pools(f, |p| whole(p.size.into()))),
    row("pool_kept_servers", Gauge, None, POOL, "Servers that their clients keep outside of transactions (session_state = follow); see SHOW PINS.", |f| pools(f, |p| whole(p.kept as u64))),
    row("pool_waiting", Gauge, None, POOL, "Clients waiting for a server.", |f| pools(f, |p| whole(p.clients.waiting as u64))),
    row("pool_maxwait", Gauge, SECONDS, POOL, "Longest current wait of a client for a server.", |f| {
        pools(f, |p| MetricValue::Gauge(p.longest_wait.as_secs_f64()))
    }),
    row("database_paused", Gauge, None, &["database"], "1 while PAUSE or KILL of this database, or of all, is in force.", |f| {
        f.paused.iter().map(|(database, is_paused)| sample([database], flag(*is_paused))).collect()
    }),
    row("client_abandoned", Counter, None, POOL, "Clients that disconnected while they waited for a server.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.abandoned_waits))
    }),
    row("query_wait_timeouts", Counter, None, POOL, "Clients closed because they had waited for query_wait_timeout.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.wait_timeouts))
    }),
    row("client_logins", Counter, None, &["result"], "Logins of clients: ok, refused, abandoned (the client disconnected), timeout (client_login_timeout), evicted (closed to make room). Connections without any data and cancel requests are none.", |f| {
        labelled(&f.client_logins)
    }),
    row("client_errors", Counter, None, &["class"], "Errors that clients have received from the pooler, by class: the first two characters of SQLSTATE.", |f| {
        labelled(&f.client_errors)
    }),
    row("session_pins", Counter, None, &["reason"], "Clients that began to keep their server outside of transactions, by reason (session_state = follow). SHOW PINS shows those that do now.", |f| {
        labelled(&f.session_pins)
    }),
    row("refused_pins", Counter, None, &["reason"], "Statements that were refused since their client would have kept its server, by reason (pin = error).", |f| {
        labelled(&f.refused_pins)
    }),
    row("session_verifications", Counter, None, &["result"], "Comparisons of a server's session with what is recorded of it: agrees, differs (state_verify).", |f| {
        let (all, differ) = f.sessions_verified;
        labelled(&[("agrees", all.saturating_sub(differ)), ("differs", differ)])
    }),
    row("session_mismatches", Counter, None, &[], "Statements that changed their session without being recognized. Each is an error of this program; please report it.", |f| {
        one(MetricValue::Count(f.session_mismatches))
    }),

    row("queries", Counter, None, POOL, "Queries answered.", |f| pools(f, |p| MetricValue::Count(p.totals.queries))),
    row("transactions", Counter, None, POOL, "Transactions completed; a query outside a transaction counts as one.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.transactions))
    }),
    row("kept_transactions", Counter, None, POOL, "Those of clients that keep their server outside of transactions (session_state = follow); a part of transactions_total.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.kept_transactions))
    }),
    row("server_assignments", Counter, None, POOL, "Times a server was assigned to a client.", |f| {
        pools(f, |p| MetricValue::Count(p.totals.server_assignments))
    }),
    row("client", Counter, BYTES, &["database", "user", "direction"], "Bytes from clients (received) and to them (sent).", |f| {
        split(f, [("received", |p| p.totals.received_bytes), ("sent", |p| p.totals.sent_bytes)])
    }),
    row("parses", Counter, None, &["database", "user", "side"], "Named Parse messages from clients, and those sent to servers.", |f| {
        split(f, [("client", |p| p.totals.client_parses), ("server", |p| p.totals.server_parses)])
    }),
    row("binds", Counter, None, POOL, "Bind messages from clients, for named statements.", |f| pools(f, |p| MetricValue::Count(p.totals.binds))),

    row("query_duration", Histogram, SECONDS, POOL, "Time from sending a query to the server to the end of its answer.", |f| {
        pools(f, |p| MetricValue::Histogram { buckets: p.durations.queries, sum_us: p.totals.query_us })
    }),
    row("transaction_duration", Histogram, SECONDS, POOL, "Time from a transaction's first query to the end of its last answer.", |f| {
        pools(f, |p| MetricValue::Histogram { buckets: p.durations.transactions, sum_us: p.totals.transaction_us })
    }),
    row("pool_wait", Histogram, SECONDS, POOL, "Time clients waited for a server, including those that got one at once.", |f| {
        pools(f, |p| MetricValue::Histogram { buckets: p.durations.waits, sum_us: p.totals.wait_us })
    }),

    row("server_login", Histogram, SECONDS, &[], "Duration of successful logins to servers, including DNS, TCP, TLS, token and authentication.", |f| {
        one(MetricValue::Histogram { buckets: f.logins.took, sum_us: f.logins.took_us })
    }),
    row("server_login_phase", Histogram, SECONDS, &["phase"], "Duration of completed phases of logins to servers, also of failed ones: dns, tcp, tls, token, and auth, from the startup packet until the server is ready.", |f| {
        f.logins.phases.iter().map(|(phase, buckets, us)| sample([phase], MetricValue::Histogram { buckets: *buckets, sum_us: *us })).collect()
    }),
    row("server_logins", Counter, None, &[], "Successful logins to servers.", |f| one(MetricValue::Count(f.logins.took.count()))),
    row("server_login_failures", Counter, None, &["reason"], "Failed logins to servers, by cause.", |f| {
        labelled(&f.logins.failures)
    }),
    row("protocol_mismatches", Counter, None, &[], "Servers closed because they sent a message that no request was waiting for. Anything but 0 is a bug in the server, in a proxy in between, or in the pooler.", |_| {
        one(MetricValue::Count(crate::server::out_of_step::mismatches()))
    }),
    row("server_logins_per_second", Gauge, None, &[], "Logins to servers, successful or not, averaged over the last ten seconds; RDS accepts 200 IAM logins per second.", |f| {
        one(MetricValue::Gauge(f.logins.per_second))
    }),

    row("traces_exported", Counter, None, &[], "Traces that the OpenTelemetry collector has accepted (otlp_endpoint).", |f| {
        one(MetricValue::Count(f.traces_exported))
    }),
    row("traces_dropped", Counter, None, &[], "Traces that were dropped, because the queue was full or the collector did not accept them.", |f| {
        one(MetricValue::Count(f.traces_dropped))
    }),

    row("iam_token_requests", Counter, None, &["result"], "Requests for IAM tokens: ok, or the reason of the failure.", |f| {
        labelled(&f.logins.tokens)
    }),
    row("iam_token_generate", Histogram, SECONDS, &[], "Duration of successful requests for IAM tokens: signing, and fetching credentials if needed.", |f| {
        one(MetricValue::Histogram { buckets: f.logins.token_took, sum_us: f.logins.token_took_us })
    }),
    row("client_proofs", Counter, None, &["result"], "Proofs of AWS identities presented by clients (auth_type iam and iam-sts), and passwords that servers verify (server), by result.", |f| {
        labelled(&f.logins.proofs)
    }),
    row("iam_token_age", Gauge, SECONDS, TOKEN, "Time since the current token was signed.", |f| {
        tokens(f, |t| t.age.map(MetricValue::Gauge))
    }),
    row("iam_token_expires", Gauge, SECONDS, TOKEN, "Seconds until the current token expires; negative afterwards. Tokens unused for an hour are neither renewed nor shown.", |f| {
        tokens(f, |t| t.left.map(MetricValue::Gauge))
    }),
    row("iam_token_refusals", Counter, None, TOKEN, "Logins with a token refused by the server.", |f| {
        tokens(f, |t| Some(MetricValue::Count(t.refusals)))
    }),
    row("aws_credentials_expires", Gauge, SECONDS, &["identity"], "Seconds until the AWS credentials of tokens in use expire; those without expiry are not shown.", |f| {
        f.credentials.iter().filter_map(|c| Some(sample([&c.identity], MetricValue::Gauge(c.left?)))).collect()
    }),
    row("aws_credentials_refresh", Counter, None, &["identity", "result"], "Fetches of AWS credentials: ok or failed.", |f| {
        let both = |c: &CredentialFigures| {
            [("ok", c.fetched), ("failed", c.failed)].map(|(result, count)| sample([&c.identity, result], MetricValue::Count(count)))
        };
        f.credentials.iter().flat_map(both).collect()
    }),
    row("secret_age", Gauge, SECONDS, &["secret"], "Time since the secret was last read from Secrets Manager.", |f| {
        f.secrets.iter().filter_map(|s| Some(sample([&s.arn], MetricValue::Gauge(s.age?)))).collect()
    }),
    row("secret_reads", Counter, None, &["secret", "result"], "Reads of secrets: ok or failed.", |f| {
        let both = |s: &SecretFigures| {
            [("ok", s.read), ("failed", s.failed)].map(|(result, count)| sample([&s.arn, result], MetricValue::Count(count)))
        };
        f.secrets.iter().flat_map(both).collect()
    }),
    row("secret_rotations", Counter, None, &["secret"], "Reads that returned a changed user name or password.", |f| {
        f.secrets.iter().map(|s| sample([&s.arn], MetricValue::Count(s.rotations))).collect()
    }),
    row("aws_clock_skew", Gauge, SECONDS, &["identity"], "Seconds by which the local clock was ahead of AWS's when last compared.", |f| {
        f.credentials.iter().filter_map(|c| Some(sample([&c.identity], MetricValue::Gauge(c.clock_skew? as f64)))).collect()
    }),
    row("aws_identity", Info, None, &["identity", "arn", "provider"], "AWS identities that sign: as configured, their ARN, and the source of their credentials.", |f| {
        f.credentials.iter().map(|c| sample([&c.identity, &c.arn, &c.provider], MetricValue::Info)).collect()
    }),
];

/// One series for each label.
fn labelled(counts: &[(&'static str, u64)]) -> Vec<Sample> {
    counts.iter().map(|(label, count)| sample([label], MetricValue::Count(*count))).collect()
}

/// One series for each pool.
fn pools(figures: &Figures, value: fn(&PoolCounts) -> MetricValue) -> Vec<Sample> {
    let rows = figures.pools.iter();
    rows.map(|((database, user), counts)| sample([database, user], value(counts))).collect()
}

/// A part of a counter: its label and its value.
type Part = (&'static str, fn(&PoolCounts) -> u64);

/// A counter of each pool, split into parts.
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
        let ClientCounts { idle, active, waiting } = pool.clients;
        for (state, count) in [("idle", idle), ("active", active), ("waiting", waiting)] {
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
            ("listen", pool.listening),
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
    fn names_are_unique_and_well_formed() {
        super::super::metric::tests::check_names(TABLE);
    }
}
