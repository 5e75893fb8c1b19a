//! Everyday use of the drivers that applications have, in session and transaction pooling. Owns the table of
//! drivers, the steps and their results; the correctness of single messages is tested elsewhere.
//!
//! A program runs [`CLIENTS`] clients at the same time, each with a number from 0 and its own connection, and
//! prints their results as one line of JSON: `{"clients": [{STEP: RESULT, ...}, ...]}`. Its arguments are a table
//! with the columns `client` and `number`, and `together` if all clients connect before the first begins, or
//! `apart`. The steps, with what the driver offers for each; what is not in the result is checked by the program:
//!
//! - `simple`: a query without parameters.
//! - `prepared`: the sum of 20 executions of `SELECT $1::int + CLIENT` for 0 to 19.
//! - `types`: NULL and values as parameters and results.
//! - `batch`: the numbers 100 to 199 inserted by a pipeline or batch; the number of rows.
//! - `transactions`: 1 committed, 2 rolled back; the numbers below 10.
//! - `errors`: the SQLSTATEs of an error in a transaction, of the next query, and of a prepared statement that
//!   succeeded before; queries succeed in between.
//! - `copied`: the numbers 1000 to 10999 by COPY FROM, and read by COPY TO; number of rows and sum.
//! - `large`: a result of 10 MB; number of rows and characters.
//! - `cancelled`: whether the driver's own cancel ended `pg_sleep`; `after cancel`: the next query.
//! - `reconnected`: `prepared` on a second connection.
//! - `servers`: the process IDs of the servers of `prepared` and `reconnected`.

mod with_sqlx;
mod with_tokio_postgres;

use crate::support::bouncer::Start;
use crate::support::drivers::{Language, Programs, libpq_environment, libpq_tls_environment};
use crate::support::sim::Sim;
use crate::support::tls_client::ClientSide;
use crate::support::{Client, postgres};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::Barrier;

use Language::{Go, Java, Node, Python, Ruby};
use Program::{Function, Source};

const CLIENTS: usize = 4;
/// Fewer servers than clients.
const POOL_SIZE: usize = 2;
/// What a driver may lack that is not a step: it disconnects after a cancel, so that the server is closed.
const CONNECTION_AFTER_CANCEL: &str = "the connection after a cancel";
/// JDBC, lib/pq and sqlx send `extra_float_digits` when they connect.
const IGNORE: &str = "ignore_startup_parameters = extra_float_digits";

type Environment = Vec<(String, String)>;

/// What uses the driver.
enum Program {
    Source(Language, &'static str),
    /// A driver in Rust needs no process of its own.
    Function(fn(Everyday) -> Value),
}

/// A driver with its program, and how it differs from most.
struct Driver {
    name: &'static str,
    program: Program,
    /// Steps without a result, since the driver has nothing for them.
    lacks: &'static [&'static str],
    /// Settings of the pooler that the driver requires, as with PgBouncer.
    settings: &'static [&'static str],
    /// Environment variables that it requires if the pooler has no TLS.
    plain: &'static [(&'static str, &'static str)],
}

/// What a program receives.
struct Everyday {
    environment: Environment,
    table: String,
    together: bool,
}

impl Everyday {
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Runs a driver in Rust for all clients on this thread.
fn concurrently<F>(everyday: Everyday, results: fn(i32, Arc<Everyday>, Arc<Barrier>) -> F) -> Value
where
    F: Future<Output = Value> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let barrier = Arc::new(Barrier::new(if everyday.together { CLIENTS } else { 1 }));
    let everyday = Arc::new(everyday);
    let run = |client| runtime.spawn(results(client as i32, everyday.clone(), barrier.clone()));
    let tasks: Vec<_> = (0..CLIENTS).map(run).collect();
    let clients: Vec<_> = tasks.into_iter().map(|task| runtime.block_on(task).unwrap()).collect();
    json!({ "clients": clients })
}

macro_rules! drivers {
    ($($name:ident: $driver:expr;)+) => {$(
        mod $name {
            use super::*;

            pub(super) const DRIVER: Driver = $driver.named(stringify!($name));

            #[test]
            fn in_session_pooling() {
                DRIVER.succeeds_with_tls_in_session_pooling();
            }

            #[test]
            fn in_transaction_pooling() {
                DRIVER.succeeds_in_transaction_pooling();
            }
        }
    )+};
}

drivers! {
    psycopg: Driver::of(Source(Python, "everyday_psycopg"));
    psycopg2: Driver::of(Source(Python, "everyday_psycopg2"));
    asyncpg: Driver::of(Source(Python, "everyday_asyncpg"));
    node_postgres: Driver::of(Source(Node, "everyday_node_postgres")).lacks(&["copied"]);
    jdbc: Driver::of(Source(Java, "EverydayJdbc")).set(&[IGNORE]);
    pgx: Driver::of(Source(Go, "everyday_pgx"));
    // Without TLS it has to be disabled.
    lib_pq: Driver::of(Source(Go, "everyday_lib_pq")).set(&[IGNORE]).plain(&[("PGSSLMODE", "disable")])
        .lacks(&["batch", "copied", CONNECTION_AFTER_CANCEL]);
    ruby_pg: Driver::of(Source(Ruby, "everyday_ruby_pg"));
    tokio_postgres: Driver::of(Function(with_tokio_postgres::run));
    sqlx: Driver::of(Function(with_sqlx::run)).set(&[IGNORE]).lacks(&["batch", "cancelled", "after cancel"]);
}

impl Driver {
    const fn of(program: Program) -> Self {
        Self { name: "", program, lacks: &[], settings: &[], plain: &[] }
    }

    const fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    const fn lacks(self, lacks: &'static [&'static str]) -> Self {
        Self { lacks, ..self }
    }

    const fn set(self, settings: &'static [&'static str]) -> Self {
        Self { settings, ..self }
    }

    const fn plain(self, plain: &'static [(&'static str, &'static str)]) -> Self {
        Self { plain, ..self }
    }

    fn results(&self, everyday: Everyday) -> Value {
        match self.program {
            Function(run) => run(everyday),
            Source(language, name) => {
                let arguments =
                    [everyday.table.as_str(), if everyday.together { "together" } else { "apart" }];
                let output = Programs::unpack().run(language, name, &arguments, &everyday.environment);
                assert_eq!(output.code, Some(0), "{output:?}");
                serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
            }
        }
    }

    fn expected(&self, client: usize) -> Value {
        let sum = 190 + 20 * client;
        let types = json!([
            null, true, "9007199254740993", "Grüße €", "00ff", [1, null, 3], "1.50", 1_709_210_096, 2.5,
            { "a": [1, null] }
        ]);
        let mut steps = json!({
            "simple": [1, "one"], "prepared": sum, "types": types, "batch": 100, "transactions": [1],
            "errors": ["22012", "25P02", "22012"], "copied": [10_000, 59_995_000], "large": [10_000, 10_000_000],
            "cancelled": true, "after cancel": 4, "reconnected": sum
        });
        for step in self.lacks {
            steps.as_object_mut().unwrap().remove(*step);
        }
        steps
    }

    /// Runs the program and compares the results of all clients.
    fn succeeds(&self, pool_mode: &str, environment: Environment) {
        let table = format!("everyday_{}_{pool_mode}", self.name);
        let mut owner = Client::log_in(postgres().port(), "app", "app");
        owner.query(&format!("CREATE TABLE {table} (client int, number int)"));
        let together = pool_mode != "session";
        let mut results = self.results(Everyday { environment, table: table.clone(), together });
        let clients = results["clients"].as_array_mut().unwrap();
        assert_eq!(clients.len(), CLIENTS);
        let mut servers = BTreeSet::new();
        for (client, results) in clients.iter_mut().enumerate() {
            let seen = results.as_object_mut().unwrap().remove("servers").unwrap();
            let seen = seen.as_array().unwrap().iter().map(|server| server.as_u64().unwrap());
            servers.extend(seen);
            assert_eq!(*results, self.expected(client), "client {client}");
        }
        // In session pooling, a server is closed if a cancel request is under way when its client disconnects.
        let may_be_replaced = !together || self.lacks.contains(&CONNECTION_AFTER_CANCEL);
        assert!(may_be_replaced || servers.len() <= POOL_SIZE, "{servers:?}");
        let committed =
            owner.value(&format!("SELECT string_agg(number::text, ' ') FROM {table} WHERE number < 10"));
        assert_eq!(committed, "1 1 1 1");
    }

    /// Clients prove their passwords by SCRAM.
    fn start<'a>(&self, start: Start<'a>, pool_mode: &str) -> Start<'a> {
        let start = start.set("auth_type = scram-sha-256").set(&format!("pool_mode = {pool_mode}"));
        let start = start.set(&format!("default_pool_size = {POOL_SIZE}"));
        self.settings.iter().fold(start, |start, line| start.set(line))
    }

    fn succeeds_in_transaction_pooling(&self) {
        let bouncer = self.start(Start::databases(&database()), "transaction").start();
        let plain = self.plain.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let environment = libpq_environment(&bouncer, "secret").into_iter().chain(plain);
        self.succeeds("transaction", environment.collect());
    }

    fn succeeds_with_tls_in_session_pooling(&self) {
        let side = ClientSide::new();
        // A driver in Rust may be used without a TLS library.
        let mode = if matches!(self.program, Function(_)) { "prefer" } else { "require" };
        let bouncer = side.set(self.start(Start::databases(&database()), "session"), mode).start();
        let environment = [libpq_environment(&bouncer, "secret"), libpq_tls_environment(&side)];
        self.succeeds("session", environment.concat());
    }

    /// Clients with passwords and servers with tokens: the most common setup.
    fn succeeds_with_iam(&self) {
        let sim = Sim::in_front_of(postgres());
        let side = ClientSide::new();
        let line = sim.database();
        let bouncer = side.set(self.start(sim.start(&line), "transaction"), "require").start();
        let environment = [libpq_environment(&bouncer, "secret"), libpq_tls_environment(&side)];
        self.succeeds("iam", environment.concat());
    }
}

fn database() -> String {
    format!("app = host=127.0.0.1 port={} dbname=app", postgres().port())
}

#[test]
fn the_everyday_program_of_node_postgres_succeeds() {
    node_postgres::DRIVER.succeeds_with_iam();
}

#[test]
fn the_everyday_program_of_psycopg_succeeds() {
    psycopg::DRIVER.succeeds_with_iam();
}
