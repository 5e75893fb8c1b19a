//! Many tenants in one database, separated by row-level security: no client ever reads a row of another tenant, however
//! it says which one is its own, while queries are cancelled and servers killed.
//!
//! Longer runs: `TENANT_SECONDS=3600 cargo test --test it -- session_state::tenants`; `TENANT_SEED` repeats the choices of a run.

use super::mismatches;
use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::random::Random;
use crate::support::raw::{self, Client, Message};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Seconds that the test takes by default.
const DEFAULT_SECONDS: u64 = 3;
const TENANTS: usize = 200;
/// More than servers, so that these are shared.
const CLIENTS: usize = 12;
const SERVERS: usize = 6;
const TIME_BETWEEN_KILLS: Duration = Duration::from_millis(40);
/// The client cancelled its query.
const CANCELED: &str = "57014";

/// A table with three rows of each tenant, of which a session sees those of its role, or else of `app.tenant`.
fn database() -> Postgres {
    let server = start(PostgresOptions { max_connections: 100, ..PostgresOptions::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    for tenant in 0..TENANTS {
        server.sql(&format!("CREATE ROLE tenant_{tenant}; GRANT tenant_{tenant} TO app")).unwrap();
    }
    let sql = format!(
        "CREATE TABLE documents AS SELECT 'tenant_' || n AS tenant, i FROM generate_series(0, {}) AS n, \
         generate_series(1, 3) AS i;
         GRANT SELECT ON documents TO public;
         ALTER TABLE documents ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON documents USING (tenant = CASE WHEN current_user LIKE 'tenant%' THEN current_user::text \
             ELSE current_setting('app.tenant', true) END);
         CREATE FUNCTION set_tenant(name text) RETURNS void LANGUAGE plpgsql AS \
             'BEGIN PERFORM set_config(''app.tenant'', name, false); END'",
        TENANTS - 1
    );
    server.sql_in("app", &sql).unwrap();
    server
}

/// A client, and the tenant whose rows it may read.
struct Session {
    client: Client,
    tenant: String,
    number: usize,
    /// It has said which one by its role, which has precedence.
    has_role: bool,
}

/// The messages up to ReadyForQuery; `None` if the connection has been lost.
fn answer(client: &mut Client) -> Option<Vec<Message>> {
    let mut messages = Vec::new();
    loop {
        let message = client.read()?;
        let is_last = message.tag == b'Z';
        messages.push(message);
        if is_last {
            return Some(messages);
        }
    }
}

fn ask(client: &mut Client, sql: &str) -> Option<Vec<Message>> {
    client.stream.write_all(&raw::query(sql)).ok()?;
    answer(client)
}

impl Session {
    /// Logs in as a tenant, which the startup packet or the first statement names; `None` if its server was killed.
    fn begin(port: u16, random: &mut Random, number: usize) -> Option<Self> {
        let tenant = format!("tenant_{}", random.below(TENANTS));
        let options = format!("-c app.tenant={tenant}");
        let base = [("user", "app"), ("database", "app")];
        let way = random.below(4);
        let extra = [("app.tenant", tenant.as_str()), ("options", options.as_str())];
        let parameters: Vec<_> = base.into_iter().chain(extra.get(way).copied()).collect();
        let mut client = Client::start(port, &parameters);
        client.greeting = answer(&mut client)?;
        let mut session = Self { client, tenant: tenant.clone(), number, has_role: false };
        if way >= extra.len() {
            session.choose(random)?;
        }
        Some(session)
    }

    /// Changes the tenant by a statement, some of which are rolled back.
    fn choose(&mut self, random: &mut Random) -> Option<()> {
        let tenant = format!("tenant_{}", random.below(TENANTS));
        let sql = match random.below(4) {
            0 => format!("SET app.tenant = '{tenant}'"),
            1 => format!("SELECT set_config('app.tenant', '{tenant}', false)"),
            2 => format!("SELECT set_tenant('{tenant}')"),
            _ => format!("SET ROLE {tenant}"),
        };
        let is_role = sql.starts_with("SET ROLE");
        if self.has_role && !is_role {
            self.expect_success("RESET ROLE")?;
            self.has_role = false;
        }
        self.expect_success(&sql)?;
        (self.tenant, self.has_role) = (tenant, is_role);
        Some(())
    }

    /// Changes it in a transaction that is rolled back.
    fn choose_in_vain(&mut self, random: &mut Random) -> Option<()> {
        let other = random.below(TENANTS);
        self.expect_success("BEGIN")?;
        let sql = match random.below(3) {
            0 => format!("SET LOCAL app.tenant = 'tenant_{other}'"),
            1 => format!("SELECT set_tenant('tenant_{other}')"),
            _ => format!("SET ROLE tenant_{other}"),
        };
        self.expect_success(&sql)?;
        self.expect_success("ROLLBACK")
    }

    fn expect_success(&mut self, sql: &str) -> Option<()> {
        let messages = ask(&mut self.client, sql)?;
        self.has_succeeded(&messages, sql)
    }

    /// `None` after an error of a killed server; there are no other errors.
    fn has_succeeded(&self, messages: &[Message], sql: &str) -> Option<()> {
        let Some(error) = messages.iter().find(|message| message.tag == b'E') else { return Some(()) };
        let (code, text) = error.error();
        assert!(code.starts_with("57P") || code.starts_with("08"), "{}: {sql}: {code} {text}", self.number);
        None
    }

    /// Reads all rows that it can see.
    fn read(&mut self, random: &mut Random) -> Option<()> {
        let sql = "SELECT tenant FROM documents";
        let messages = match random.below(3) {
            0 => ask(&mut self.client, sql)?,
            1 => {
                self.expect_success("BEGIN")?;
                let messages = ask(&mut self.client, sql)?;
                self.expect_success("COMMIT")?;
                messages
            }
            _ => {
                let request =
                    [raw::parse("", sql), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
                self.client.stream.write_all(&request).ok()?;
                answer(&mut self.client)?
            }
        };
        self.has_succeeded(&messages, sql)?;
        let rows: Vec<_> = messages.iter().filter(|message| message.tag == b'D').map(Message::row).collect();
        assert_eq!(rows.len(), 3, "client {} of {}", self.number, self.tenant);
        for row in rows {
            assert_eq!(row[0].as_ref(), Some(&self.tenant), "client {}", self.number);
        }
        Some(())
    }

    /// Cancels a query. No other query may end by this.
    fn cancel(&mut self, port: u16) -> Option<()> {
        self.client.stream.write_all(&raw::query("SELECT pg_sleep(20)")).ok()?;
        std::thread::sleep(Duration::from_millis(20));
        let (pid, key) = self.client.cancel_key();
        let mut request = Vec::new();
        wire::encode::cancel_request(&mut request, pid, &key);
        TcpStream::connect(("127.0.0.1", port)).ok()?.write_all(&request).ok()?;
        let messages = answer(&mut self.client)?;
        let code = super::code(&messages);
        if code == CANCELED { Some(()) } else { self.has_succeeded(&messages, "pg_sleep") }
    }

    /// Some requests; `None` if the connection has been lost or is no longer of use.
    fn run(&mut self, random: &mut Random, port: u16) -> Option<()> {
        for _ in 0..random.below(30) {
            match random.below(12) {
                0 => self.choose(random)?,
                1 => self.choose_in_vain(random)?,
                2 if random.one_in(4) => self.cancel(port)?,
                _ => self.read(random)?,
            }
        }
        Some(())
    }
}

#[test]
fn no_client_reads_a_row_of_another_tenant() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let until = Instant::now() + Duration::from_secs(number("TENANT_SECONDS").unwrap_or(DEFAULT_SECONDS));
    let seed = number("TENANT_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    println!("TENANT_SEED={seed}");
    let server = database();
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    let pool_size = format!("default_pool_size = {SERVERS}");
    let bouncer = Start::databases(&databases)
        .set("session_state = follow")
        .set("workers = 2")
        .set("server_login_retry = 0")
        .set(&pool_size)
        .env("TEST_ROTATE_SERVERS", "1")
        .start();
    let port = bouncer.port;
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let seed = seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            scope.spawn(move || {
                let random = &mut Random(seed);
                while Instant::now() < until {
                    if let Some(mut session) = Session::begin(port, random, number) {
                        session.run(random, port);
                    }
                }
            });
        }
        while Instant::now() < until {
            std::thread::sleep(TIME_BETWEEN_KILLS);
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app' \
                        ORDER BY random() LIMIT 1";
            server.sql(kill).unwrap();
        }
    });
    assert!(!mismatches(&bouncer), "{}", bouncer.log());
}
