//! The metrics of prometheus-community's pgbouncer_exporter 0.12, so that its dashboards and alerts work. Owns their names,
//! labels and helps; the reference page has a section that is derived from this table.

use super::metric::{
    BYTES, Metric, MetricDescription, MetricKind, MetricSource, MetricValue, SECONDS, Sample, descriptions,
    one, row, sample, whole,
};
use super::pgbouncer_figures::PgbouncerFigures;
use super::pgbouncer_part::DatabaseFigures;
use crate::stats::Totals;
use crate::stats::snapshot::PoolCounts;
use crate::version;

impl MetricSource for PgbouncerFigures {
    const PREFIX: &'static str = "pgbouncer";
}

const DATABASE: &[&str] = &["name", "host", "port", "database", "force_user", "pool_mode"];
const POOL: &[&str] = &["database", "user"];
const TOTALS: &[&str] = &["database"];

/// The descriptions of all metrics, in the order of a scrape.
pub fn pgbouncer_table() -> impl Iterator<Item = &'static MetricDescription> {
    descriptions(TABLE)
}

use MetricKind::{Counter, Gauge, Info};

#[rustfmt::skip]
pub(super) static TABLE: &[Metric<PgbouncerFigures>] = &[
    row("up", Gauge, None, &[], "1: the values come from the pooler itself.", |_| one(whole(1))),
    row("version", Info, None, &["version"], "Answer to SHOW VERSION.", |_| {
        vec![sample([version::TEXT], MetricValue::Info)]
    }),

    row("databases", Gauge, None, &[], "Databases, in SHOW LISTS.", |f| count(f.database_count)),
    row("users", Gauge, None, &[], "Users, in SHOW LISTS.", |f| count(f.config.users)),
    row("pools", Gauge, None, &[], "Pools, in SHOW LISTS.", |f| count(f.pool_count)),
    row("free_clients", Gauge, None, &[], "Always 0: memory for clients is not kept.", |_| count(0)),
    row("used_clients", Gauge, None, &[], "Clients that have logged in.", |f| count(f.used_clients)),
    row("login_clients", Gauge, None, &[], "Clients that are logging in.", |f| count(f.login_clients)),
    row("free_servers", Gauge, None, &[], "Always 0: memory for servers is not kept.", |_| count(0)),
    row("used_servers", Gauge, None, &[], "Open servers in any state.", |f| count(f.used_servers)),
    row("cached_dns_names", Gauge, None, &[], "Host names in the cache.", |f| count(f.dns_names)),
    row("cached_dns_zones", Gauge, None, &[], "Always 0: zones are not read.", |_| count(0)),
    row("in_flight_dns_queries", Gauge, None, &[], "Look-ups of host names under way.", |f| count(f.dns_queries)),
    row("config_max_client_connections", Gauge, None, &[], "The setting max_client_conn.", |f| {
        one(whole(f.config.max_client_conn.into()))
    }),
    row("config_max_user_connections", Gauge, None, &[], "The setting max_user_connections.", |f| {
        one(whole(f.config.max_user_connections.into()))
    }),

    row("client_connections", Gauge, None, &["database", "user", "application_name", "state"], "Clients that have logged in, by application name and state.", |f| {
        let rows = f.clients.iter().map(|(group, count)| {
            sample([&group.database, &group.user, &group.application_name, group.state], whole(*count))
        });
        rows.collect()
    }),

    row("databases_pool_size", Gauge, None, DATABASE, "Servers that a pool may have.", |f| databases(f, |d| d.pool_size)),
    row("databases_reserve_pool", Gauge, None, DATABASE, "Additional servers that a pool may have.", |f| databases(f, |d| d.reserve_pool)),
    row("databases_max_connections", Gauge, None, DATABASE, "Servers that the database may have (0: no limit).", |f| databases(f, |d| d.max_connections)),
    row("databases_current_connections", Gauge, None, DATABASE, "Servers that the database has.", |f| databases(f, |d| d.current_connections)),
    row("databases_paused", Gauge, None, DATABASE, "1 while PAUSE of this database is in force.", |f| databases(f, |d| d.paused)),
    row("databases_disabled", Gauge, None, DATABASE, "1 while DISABLE is in force.", |f| databases(f, |d| d.disabled)),

    row("pools_client_active_connections", Gauge, None, POOL, "Clients that do not wait: linked to a server, or idle.", |f| pools(f, |p| p.clients.idle + p.clients.active)),
    row("pools_client_active_cancel_connections", Gauge, None, POOL, "Cancel requests under way.", |f| pools(f, |p| p.cancels as usize)),
    row("pools_client_waiting_connections", Gauge, None, POOL, "Clients waiting for a server.", |f| pools(f, |p| p.clients.waiting)),
    row("pools_client_waiting_cancel_connections", Gauge, None, POOL, "Always 0: cancel requests do not wait.", |f| pools(f, |_| 0)),
    row("pools_server_active_connections", Gauge, None, POOL, "Servers linked to a client.", |f| pools(f, |p| p.active)),
    row("pools_server_active_cancel_connections", Gauge, None, POOL, "Servers linked to a client, with a cancel request under way.", |f| pools(f, |p| p.active_cancel)),
    row("pools_server_being_canceled_connections", Gauge, None, POOL, "Servers that wait for the end of a cancel request.", |f| pools(f, |p| p.being_canceled)),
    row("pools_server_idle_connections", Gauge, None, POOL, "Idle servers.", |f| pools(f, |p| p.idle)),
    row("pools_server_used_connections", Gauge, None, POOL, "Always 0: servers are checked when they are needed.", |f| pools(f, |_| 0)),
    row("pools_server_testing_connections", Gauge, None, POOL, "Servers running the reset query.", |f| pools(f, |p| p.tested)),
    row("pools_server_login_connections", Gauge, None, POOL, "Logins to servers under way.", |f| pools(f, |p| p.logins)),
    row("pools_client_maxwait", Gauge, SECONDS, POOL, "Longest current wait of a client, in whole seconds.", |f| pools(f, |p| p.longest_wait.as_secs() as usize)),

    row("stats_totals_queries_pooled", Counter, None, TOTALS, "Queries.", |f| totals(f, |t| t.queries)),
    row("stats_totals_queries_duration", Counter, SECONDS, TOTALS, "Time in queries.", |f| times(f, |t| t.query_us)),
    row("stats_totals_received", Counter, BYTES, TOTALS, "Bytes from clients.", |f| totals(f, |t| t.received_bytes)),
    row("stats_totals_sent", Counter, BYTES, TOTALS, "Bytes to clients.", |f| totals(f, |t| t.sent_bytes)),
    row("stats_totals_client_wait", Counter, SECONDS, TOTALS, "Time that clients waited for a server.", |f| times(f, |t| t.wait_us)),
    row("stats_totals_sql_transactions_pooled", Counter, None, TOTALS, "Transactions.", |f| totals(f, |t| t.transactions)),
    row("stats_totals_server_in_transaction", Counter, SECONDS, TOTALS, "Time in transactions.", |f| times(f, |t| t.transaction_us)),
    row("stats_totals_client_parses", Counter, None, TOTALS, "Named Parse messages from clients.", |f| totals(f, |t| t.client_parses)),
    row("stats_totals_server_parses", Counter, None, TOTALS, "Named Parse messages to servers.", |f| totals(f, |t| t.server_parses)),
    row("stats_totals_binds", Counter, None, TOTALS, "Bind messages from clients.", |f| totals(f, |t| t.binds)),
    row("stats_totals_server_assignments", Counter, None, TOTALS, "Times a server was assigned to a client.", |f| totals(f, |t| t.server_assignments)),
];

fn count(count: usize) -> Vec<Sample> {
    one(whole(count as u64))
}

/// One series for each database.
fn databases(figures: &PgbouncerFigures, value: fn(&DatabaseFigures) -> u64) -> Vec<Sample> {
    let rows = figures.databases.iter().map(|line| {
        let mode = line.pool_mode.map(|mode| mode.to_string()).unwrap_or_default();
        let labels = [&line.name, &line.host, &line.port, &line.database, &line.force_user, &mode];
        sample(labels.map(String::as_str), whole(value(line)))
    });
    rows.collect()
}

/// One series for each pool.
fn pools(figures: &PgbouncerFigures, value: fn(&PoolCounts) -> usize) -> Vec<Sample> {
    let rows = figures.pools.iter();
    rows.map(|((database, user), counts)| sample([database, user], whole(value(counts) as u64))).collect()
}

/// A counter of each database.
fn totals(figures: &PgbouncerFigures, value: fn(&Totals) -> u64) -> Vec<Sample> {
    let rows = figures.totals.iter();
    rows.map(|(database, totals)| sample([database], MetricValue::Count(value(totals)))).collect()
}

/// A time of each database, in microseconds.
fn times(figures: &PgbouncerFigures, value: fn(&Totals) -> u64) -> Vec<Sample> {
    let rows = figures.totals.iter();
    rows.map(|(database, totals)| sample([database], MetricValue::CountUs(value(totals)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        super::super::metric::tests::check_names(TABLE);
    }
}
