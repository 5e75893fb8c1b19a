//! Everyday use of tokio-postgres, with its defaults and without TLS. Owns its clients.

use super::Everyday;
use crate::support::postgres;
use futures_util::TryStreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Barrier;
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

const OBSERVATION_INTERVAL: Duration = Duration::from_millis(10);

/// Runs all clients.
pub(super) fn run(everyday: Everyday) -> Value {
    super::concurrently(everyday, results)
}

async fn connect(everyday: &Everyday) -> Client {
    let mut config = tokio_postgres::Config::new();
    let variable = |name| everyday.variable(name).unwrap();
    config.host(variable("PGHOST")).port(variable("PGPORT").parse().unwrap()).user(variable("PGUSER"));
    config.dbname(variable("PGDATABASE")).password(variable("PGPASSWORD"));
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn prepared(connection: &Client, client: i32, servers: &mut BTreeSet<i32>) -> i32 {
    let statement =
        connection.prepare(&format!("SELECT pg_backend_pid(), $1::int + {client}")).await.unwrap();
    let mut total = 0;
    for number in 0..20 {
        let row = connection.query_one(&statement, &[&number]).await.unwrap();
        servers.insert(row.get(0));
        total += row.get::<_, i32>(1);
    }
    total
}

async fn types(connection: &Client) -> Value {
    let sql = "SELECT $1::int, $2::bool, $3::bigint, $4::text, $5::bytea, $6::int[], 1.50::numeric::text, \
               '2024-02-29 12:34:56+00'::timestamptz, 2.5::float8, '{\"a\": [1, null]}'::jsonb::text";
    let list = vec![Some(1), None, Some(3)];
    let (number, bytes) = (9_007_199_254_740_993_i64, vec![0_u8, 255]);
    let row = connection.query_one(sql, &[&None::<i32>, &true, &number, &"Grüße €", &bytes, &list]).await;
    let row = row.unwrap();
    let hex = row.get::<_, &[u8]>(4).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    let at = row.get::<_, SystemTime>(7).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let document: Value = serde_json::from_str(row.get(9)).unwrap();
    json!([
        row.get::<_, Option<i32>>(0),
        row.get::<_, bool>(1),
        row.get::<_, i64>(2).to_string(),
        row.get::<_, &str>(3),
        hex,
        row.get::<_, Vec<Option<i32>>>(5),
        row.get::<_, &str>(6),
        at,
        row.get::<_, f64>(8),
        document
    ])
}

/// Queries whose futures are polled together are sent in a pipeline.
async fn batch(connection: &Client, table: &str, client: i32) -> u64 {
    let insert = connection.prepare(&format!("INSERT INTO {table} VALUES ($1, $2)")).await.unwrap();
    let insert = &insert;
    let execute = |number: i32| async move { connection.execute(insert, &[&client, &number]).await.unwrap() };
    join_all((100..200).map(execute)).await.iter().sum()
}

async fn transactions(connection: &mut Client, table: &str, client: i32) -> Vec<i32> {
    let insert = format!("INSERT INTO {table} VALUES ($1, $2)");
    let transaction = connection.transaction().await.unwrap();
    transaction.execute(&insert, &[&client, &1]).await.unwrap();
    transaction.commit().await.unwrap();
    let transaction = connection.transaction().await.unwrap();
    transaction.execute(&insert, &[&client, &2]).await.unwrap();
    transaction.rollback().await.unwrap();
    let sql = format!("SELECT number FROM {table} WHERE client = $1 AND number < 10");
    connection.query(&sql, &[&client]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn state_of<T>(result: Result<T, Error>) -> Option<String> {
    result.err().and_then(|error| error.code().map(|code| code.code().to_owned()))
}

async fn failures(connection: &mut Client) -> Vec<Option<String>> {
    let transaction = connection.transaction().await.unwrap();
    let mut states = vec![state_of(transaction.query_one("SELECT 1 / 0", &[]).await)];
    states.push(state_of(transaction.query_one("SELECT 1", &[]).await));
    transaction.rollback().await.unwrap();
    let quotient = connection.prepare("SELECT 1 / $1::int").await.unwrap();
    assert_eq!(connection.query_one(&quotient, &[&1]).await.unwrap().get::<_, i32>(0), 1);
    states.push(state_of(connection.query_one(&quotient, &[&0]).await));
    states
}

async fn copies(connection: &Client, table: &str, client: i32) -> [i64; 2] {
    let sink = connection.copy_in(&format!("COPY {table} FROM STDIN BINARY")).await.unwrap();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::INT4]));
    for number in 1000..11_000 {
        writer.as_mut().write(&[&client, &number]).await.unwrap();
    }
    assert_eq!(writer.finish().await.unwrap(), 10_000);
    let query = format!("SELECT number FROM {table} WHERE client = {client} AND number >= 1000");
    let stream = connection.copy_out(&format!("COPY ({query}) TO STDOUT BINARY")).await.unwrap();
    let rows = BinaryCopyOutStream::new(stream, &[Type::INT4]);
    let numbers: Vec<i64> = rows.map_ok(|row| i64::from(row.get::<i32>(0))).try_collect().await.unwrap();
    [numbers.len() as i64, numbers.iter().sum()]
}

async fn large(connection: &Client) -> [usize; 2] {
    let sql = "SELECT n, repeat('x', 1000) FROM generate_series(1, 10000) AS n";
    let rows = connection.query(sql, &[]).await.unwrap();
    [rows.len(), rows.iter().map(|row| row.get::<_, &str>(1).len()).sum()]
}

/// The driver does not wait until a cancel request has been processed, so there is only one, when the query runs.
async fn cancelled(connection: &Client, table: &str, client: i32) -> bool {
    let sql = format!("SELECT pg_sleep(60) AS {table}_{client}");
    let cancel = async {
        let observer = observer().await;
        let running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = $1";
        while observer.query_one(running, &[&sql]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(OBSERVATION_INTERVAL).await;
        }
        connection.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (end, ()) = tokio::join!(connection.batch_execute(&sql), cancel);
    end.is_err_and(|error| error.code() == Some(&SqlState::QUERY_CANCELED))
}

/// A connection past the pooler, whose servers may all be in use.
async fn observer() -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(postgres().port()).user("app").dbname("app");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Dropped statements are closed in the background. If the client disconnects before the answers, the pooler
/// closes the server, so the answer to a later query is awaited.
async fn close(connection: Client) {
    connection.batch_execute("").await.unwrap();
}

async fn results(client: i32, everyday: Arc<Everyday>, barrier: Arc<Barrier>) -> Value {
    let (mut connection, table, mut servers) = (connect(&everyday).await, &everyday.table, BTreeSet::new());
    barrier.wait().await;
    let simple = connection.simple_query("SELECT 1, 'one'").await.unwrap();
    let row = simple.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.parse::<i32>().unwrap(), row.get(1)?.to_owned())),
        _ => None,
    });
    let mut steps = json!({
        "simple": row,
        "prepared": prepared(&connection, client, &mut servers).await,
        "types": types(&connection).await,
        "batch": batch(&connection, table, client).await,
        "transactions": transactions(&mut connection, table, client).await,
        "errors": failures(&mut connection).await,
        "copied": copies(&connection, table, client).await,
        "large": large(&connection).await,
        "cancelled": cancelled(&connection, table, client).await,
    });
    steps["after cancel"] = json!(connection.query_one("SELECT 4", &[]).await.unwrap().get::<_, i32>(0));
    close(connection).await;
    let connection = connect(&everyday).await;
    steps["reconnected"] = json!(prepared(&connection, client, &mut servers).await);
    close(connection).await;
    steps["servers"] = json!(servers);
    steps
}
