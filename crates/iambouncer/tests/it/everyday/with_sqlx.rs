//! Everyday use of sqlx, with its defaults. Owns its clients. The driver has neither batches nor a cancel.

use super::Everyday;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{Connection, Error, Row};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use tokio::sync::Barrier;

/// Runs all clients.
pub(super) fn run(everyday: Everyday) -> Value {
    super::concurrently(everyday, results)
}

async fn connect(everyday: &Everyday) -> PgConnection {
    let variable = |name| everyday.variable(name).unwrap();
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(variable("PGHOST"))
        .port(variable("PGPORT").parse().unwrap())
        .username(variable("PGUSER"))
        .database(variable("PGDATABASE"))
        .password(variable("PGPASSWORD"));
    if let Some(authority) = everyday.variable("PGSSLROOTCERT") {
        options = options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(authority);
    }
    PgConnection::connect_with(&options).await.unwrap()
}

/// Each query is prepared and kept in the driver's cache.
async fn prepared(connection: &mut PgConnection, client: i32, servers: &mut BTreeSet<i32>) -> i32 {
    let sql = format!("SELECT pg_backend_pid(), $1::int + {client}");
    let mut total = 0;
    for number in 0..20 {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql.clone())).bind(number);
        let row = query.fetch_one(&mut *connection).await.unwrap();
        servers.insert(row.get(0));
        total += row.get::<i32, _>(1);
    }
    total
}

async fn simple(connection: &mut PgConnection) -> Value {
    let row = sqlx::raw_sql("SELECT 1, 'one'").fetch_one(connection).await.unwrap();
    json!([row.get::<i32, _>(0), row.get::<&str, _>(1)])
}

async fn types(connection: &mut PgConnection) -> Value {
    // Without features of the driver for these types, the last columns are cast.
    let sql = "SELECT $1::int, $2::bool, $3::bigint, $4::text, $5::bytea, $6::int[], 1.50::numeric::text, \
               extract(epoch FROM '2024-02-29 12:34:56+00'::timestamptz)::bigint, 2.5::float8, \
               '{\"a\": [1, null]}'::jsonb::text";
    let query = sqlx::query(sql).bind(None::<i32>).bind(true).bind(9_007_199_254_740_993_i64);
    let query = query.bind("Grüße €").bind(vec![0_u8, 255]).bind(vec![Some(1), None, Some(3)]);
    let row = query.fetch_one(connection).await.unwrap();
    let hex = row.get::<&[u8], _>(4).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    let document: Value = serde_json::from_str(row.get(9)).unwrap();
    json!([
        row.get::<Option<i32>, _>(0),
        row.get::<bool, _>(1),
        row.get::<i64, _>(2).to_string(),
        row.get::<&str, _>(3),
        hex,
        row.get::<Vec<Option<i32>>, _>(5),
        row.get::<&str, _>(6),
        row.get::<i64, _>(7),
        row.get::<f64, _>(8),
        document
    ])
}

async fn transactions(connection: &mut PgConnection, table: &str, client: i32) -> Vec<i32> {
    let insert = |number: i32| {
        let sql = sqlx::AssertSqlSafe(format!("INSERT INTO {table} VALUES ($1, $2)"));
        sqlx::query(sql).bind(client).bind(number)
    };
    let mut transaction = connection.begin().await.unwrap();
    insert(1).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    insert(2).execute(&mut *transaction).await.unwrap();
    // Without an end the driver rolls back before the next query.
    drop(transaction);
    let sql = sqlx::AssertSqlSafe(format!("SELECT number FROM {table} WHERE client = $1 AND number < 10"));
    sqlx::query_scalar(sql).bind(client).fetch_all(connection).await.unwrap()
}

fn state_of(result: Result<i32, Error>) -> Option<String> {
    let error = result.err()?;
    error.as_database_error()?.code().map(|code| code.into_owned())
}

async fn failures(connection: &mut PgConnection) -> Vec<Option<String>> {
    let mut transaction = connection.begin().await.unwrap();
    let mut states = Vec::new();
    for sql in ["SELECT 1 / 0", "SELECT 1"] {
        states.push(state_of(sqlx::query_scalar(sql).fetch_one(&mut *transaction).await));
    }
    transaction.rollback().await.unwrap();
    let quotient = |divisor: i32| sqlx::query_scalar::<_, i32>("SELECT 1 / $1::int").bind(divisor);
    assert_eq!(quotient(1).fetch_one(&mut *connection).await.unwrap(), 1);
    states.push(state_of(quotient(0).fetch_one(&mut *connection).await));
    states
}

async fn copies(connection: &mut PgConnection, table: &str, client: i32) -> [i64; 2] {
    let lines = (1000..11_000).fold(String::new(), |mut lines, number| {
        writeln!(lines, "{client}\t{number}").unwrap();
        lines
    });
    let mut copy = connection.copy_in_raw(&format!("COPY {table} FROM STDIN")).await.unwrap();
    copy.send(lines.into_bytes()).await.unwrap();
    assert_eq!(copy.finish().await.unwrap(), 10_000);
    let query = format!("SELECT number FROM {table} WHERE client = {client} AND number >= 1000");
    let stream = connection.copy_out_raw(&format!("COPY ({query}) TO STDOUT")).await.unwrap();
    let text: Vec<u8> = stream
        .try_fold(Vec::new(), |mut text, part| async move {
            text.extend_from_slice(&part);
            Ok(text)
        })
        .await
        .unwrap();
    let text = String::from_utf8(text).unwrap();
    let numbers: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
    [numbers.len() as i64, numbers.iter().sum()]
}

async fn large(connection: &mut PgConnection) -> [usize; 2] {
    let sql = "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n";
    let rows = sqlx::query(sql).fetch_all(connection).await.unwrap();
    [rows.len(), rows.iter().map(|row| row.get::<&str, _>(1).len()).sum()]
}

async fn results(client: i32, everyday: Arc<Everyday>, barrier: Arc<Barrier>) -> Value {
    let (mut connection, table, mut servers) = (connect(&everyday).await, &everyday.table, BTreeSet::new());
    barrier.wait().await;
    let mut steps = json!({
        "simple": simple(&mut connection).await,
        "prepared": prepared(&mut connection, client, &mut servers).await,
        "types": types(&mut connection).await,
        "transactions": transactions(&mut connection, table, client).await,
        "errors": failures(&mut connection).await,
        "copied": copies(&mut connection, table, client).await,
        "large": large(&mut connection).await,
    });
    connection.close().await.unwrap();
    let mut connection = connect(&everyday).await;
    steps["reconnected"] = json!(prepared(&mut connection, client, &mut servers).await);
    connection.close().await.unwrap();
    steps["servers"] = json!(servers);
    steps
}
