//! Random programs, on a direct connection and through the pooler: every answer is the same, and so is the state of the
//! session at the end. Each request of a client runs on another server, which other clients have changed meanwhile.
//!
//! Longer runs: `STATE_SECONDS=3600 cargo test --test it -- session_state::differential`; `STATE_SEED` repeats a run.

use super::{Message, mismatches};
use crate::support::Bouncer;
use crate::support::postgres::start;
use crate::support::random::Random;
use crate::support::raw::{self, Client};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Seconds that a test takes by default.
const DEFAULT_SECONDS: u64 = 4;
/// Clients of a program. Each has a server at most, so that none has to wait.
const CLIENTS: usize = 4;
/// Requests of a program, over all its clients.
const REQUESTS: usize = 60;
/// Settings whose values are compared at the end.
const SETTINGS: [&str; 12] = [
    "work_mem",
    "statement_timeout",
    "app.tenant",
    "app.user",
    "search_path",
    "datestyle",
    "timezone",
    "application_name",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "role",
];

/// The statement that reads a setting. One of an application that some client has set on a server is empty for others,
/// as it is after a RESET, not NULL: PostgreSQL does not forget its name.
fn read(name: &str) -> String {
    format!("SELECT coalesce(current_setting('{name}', true), '')")
}

/// A client of the pooler, and its twin on a direct connection.
struct Pair {
    pooled: Client,
    direct: Client,
    /// What was sent, for the report of a difference.
    log: Vec<String>,
    number: usize,
    /// Values that were reported to each.
    reported: [BTreeMap<String, String>; 2],
    /// Notifications that each has received.
    notified: [Vec<Vec<u8>>; 2],
}

/// A statement.
fn statement(random: &mut Random, number: usize) -> String {
    let setting = |random: &mut Random| {
        let (name, values): (&str, &[&str]) = match random.below(10) {
            0 => ("work_mem", &["'1MB'", "2048", "'64kB'"]),
            1 => ("statement_timeout", &["'30s'", "0", "45000"]),
            2 => ("app.tenant", &["'a'", "'b''c'", "'\\x'", "''", "'ü'"]),
            3 => ("app.user", &["one", "'two words'"]),
            4 => ("search_path", &["public", "'$user', \"A b\"", "pg_catalog, public", "''"]),
            5 => ("datestyle", &["ISO", "'German'", "SQL, DMY"]),
            6 => ("timezone", &["'UTC'", "'Europe/Berlin'", "3"]),
            7 => ("application_name", &["'x'", "'other name'"]),
            8 => ("default_transaction_isolation", &["'serializable'", "'read committed'"]),
            _ => ("extra_float_digits", &["0", "3", "'not a number'"]),
        };
        (name.to_owned(), random.choose(values).to_owned())
    };
    match random.below(33) {
        0..=3 => {
            let (name, value) = setting(random);
            format!("SET {name} = {value}")
        }
        4 => {
            let (name, value) = setting(random);
            format!("SET LOCAL {name} TO {value}")
        }
        5 | 6 => {
            let (name, value) = setting(random);
            let value = if value.starts_with('\'') && !value.contains(',') {
                value
            } else {
                format!("'{}'", value.replace('\'', "''"))
            };
            format!("SELECT set_config('{name}', {value}, {})", random.choose(&["false", "true", "1 = 2"]))
        }
        7 => format!("RESET {}", setting(random).0),
        8 => format!("SET {} TO DEFAULT", setting(random).0),
        9 => random.choose(&["RESET ALL", "DISCARD ALL"]).to_owned(),
        10..=12 => read(random.choose(&SETTINGS)),
        13 | 14 => "BEGIN".to_owned(),
        15 | 16 => random.choose(&["COMMIT", "ROLLBACK"]).to_owned(),
        17 => format!("SAVEPOINT {}", random.choose(&["s", "t"])),
        18 => format!("ROLLBACK TO {}", random.choose(&["s", "t"])),
        19 => format!("RELEASE {}", random.choose(&["s", "t"])),
        20 => random.choose(&["SELECT 1/0", "SELECT no_such_column", "SELEC"]).to_owned(),
        21 => format!(
            "CREATE TEMP TABLE {} (a int){}",
            random.choose(&["kept", "other"]),
            random.choose(&["", " ON COMMIT DROP"])
        ),
        22 => format!("INSERT INTO {} VALUES (1), (2)", random.choose(&["kept", "other"])),
        23 => format!("SELECT count(*) FROM {}", random.choose(&["kept", "other"])),
        24 => format!("DROP TABLE {}", random.choose(&["kept", "other"])),
        25 => format!("SELECT pg_advisory_lock({number}), pg_try_advisory_lock({number})"),
        26 => format!("SELECT pg_advisory_unlock({number})"),
        27 => random
            .choose(&[
                "PREPARE in_sql AS SELECT 'prepared'",
                "EXECUTE in_sql",
                "DEALLOCATE in_sql",
                "DEALLOCATE ALL",
            ])
            .to_owned(),
        28 => random
            .choose(&[
                "DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 5)",
                "FETCH 2 FROM c",
                "CLOSE c",
            ])
            .to_owned(),
        29 => random
            .choose(&[
                "SET ROLE state_role",
                "RESET ROLE",
                "SET ROLE none",
                "SELECT current_user, session_user",
            ])
            .to_owned(),
        30 => format!("{} channel_{number}", random.choose(&["LISTEN", "UNLISTEN"])),
        31 => format!("NOTIFY channel_{number}, 'x'"),
        _ => random
            .choose(&[
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                "SET TIME ZONE 'Asia/Tokyo'",
                "SET TIME ZONE LOCAL",
                "DISCARD TEMP",
            ])
            .to_owned(),
    }
}

/// The bytes of a request, its description, and how many ReadyForQuery answer it.
fn request(random: &mut Random, number: usize) -> (Vec<u8>, String, usize) {
    let sql = statement(random, number);
    // What follows a RESET in the same message sees the values of the server's login.
    let is_alone = ["RESET", "DEFAULT", "LOCAL", "DISCARD ALL"].iter().any(|word| sql.contains(word));
    match random.below(if is_alone { 4 } else { 8 }) {
        0..=3 => (raw::query(&sql), sql, 1),
        4 => {
            let several = format!("{sql}; {}", statement(random, number));
            (raw::query(&several), several, 1)
        }
        5 => {
            let next = statement(random, number);
            ([raw::query(&sql), raw::query(&next)].concat(), format!("{sql} | {next}"), 2)
        }
        6 => {
            let batch = [raw::parse("", &sql), raw::bind("", "", &[]), raw::execute(), raw::sync()];
            (batch.concat(), format!("extended: {sql}"), 1)
        }
        _ => {
            let next = statement(random, number);
            let one = |sql: &str| [raw::parse("", sql), raw::bind("", "", &[]), raw::execute()].concat();
            ([one(&sql), one(&next), raw::sync()].concat(), format!("batch: {sql} | {next}"), 1)
        }
    }
}

/// What these messages report, except what only the pooler has.
fn reports(messages: &[Message]) -> BTreeMap<String, String> {
    let reported = messages.iter().filter(|message| message.tag == b'S');
    let pairs = reported.map(|message| wire::backend::parameter_status(&message.bytes).unwrap());
    let own = |(name, _): &(&str, &str)| !name.starts_with("pgbouncer.");
    pairs.filter(own).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

impl Pair {
    /// Sends a request to both, and compares the answers.
    fn run(&mut self, bytes: &[u8], what: &str, answers: usize) {
        self.log.push(what.to_owned());
        let mut seen = Vec::new();
        for (at, client) in [&mut self.pooled, &mut self.direct].into_iter().enumerate() {
            client.send(bytes);
            let messages: Vec<Message> = (0..answers).flat_map(|_| client.until_ready()).collect();
            let (reported, notified) = (&mut self.reported[at], &mut self.notified[at]);
            let compared = messages.into_iter().filter_map(|message| match message.tag {
                b'S' => {
                    let (name, value) = wire::backend::parameter_status(&message.bytes).unwrap();
                    reported.insert(name.to_owned(), value.to_owned());
                    None
                }
                b'A' => {
                    // Without the process ID.
                    notified.push(message.bytes[9..].to_vec());
                    None
                }
                b'E' | b'N' => {
                    let fields = wire::backend::error_fields(&message.bytes).unwrap();
                    Some(format!("{} {}", fields.code, fields.message))
                }
                _ => Some(message.bytes.escape_ascii().to_string()),
            });
            seen.push(compared.collect::<Vec<_>>());
        }
        assert_eq!(seen[0], seen[1], "client {} after:\n{}", self.number, self.log.join("\n"));
    }

    /// Compares everything that the sessions have.
    fn compare(&mut self) {
        self.run(&raw::query("ROLLBACK"), "ROLLBACK", 1);
        for name in SETTINGS {
            let sql = read(name);
            self.run(&raw::query(&sql), &sql, 1);
        }
        for sql in [
            "SELECT current_user, session_user",
            "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() ORDER BY 1",
            "SELECT name FROM pg_prepared_statements WHERE from_sql ORDER BY 1",
            "SELECT pg_listening_channels() ORDER BY 1",
            "SELECT name FROM pg_cursors ORDER BY 1",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        ] {
            self.run(&raw::query(sql), sql, 1);
        }
        assert_eq!(
            self.reported[0],
            self.reported[1],
            "client {} after:\n{}",
            self.number,
            self.log.join("\n")
        );
        assert_eq!(
            self.notified[0],
            self.notified[1],
            "client {} after:\n{}",
            self.number,
            self.log.join("\n")
        );
    }
}

/// A server with two equal databases: what is visible to all sessions of one is not visible in the other.
fn own_server() -> Postgres {
    let server = start(PostgresOptions::default());
    server.sql("CREATE ROLE app LOGIN; CREATE ROLE state_role; GRANT state_role TO app").unwrap();
    for database in ["app", "direct"] {
        server.sql(&format!("CREATE DATABASE {database} OWNER app")).unwrap();
    }
    server
}

fn startup(random: &mut Random) -> Vec<(&'static str, &'static str)> {
    let mut parameters = vec![("user", "app")];
    if random.one_in(2) {
        parameters.push(("application_name", "mine"));
    }
    if random.one_in(3) {
        parameters.push(("options", "-c statement_timeout=50s -c app.tenant=startup"));
    }
    if random.one_in(3) {
        parameters.extend([("DateStyle", "German"), ("extra_float_digits", "2"), ("TimeZone", "Asia/Tokyo")]);
    }
    parameters
}

/// One program of several clients.
fn run_program(random: &mut Random, pooler: u16, direct: u16) {
    let mut pairs: Vec<Pair> = (0..CLIENTS)
        .map(|number| {
            let parameters = startup(random);
            let log_in = |port, database| {
                Client::log_in_with(port, &[&parameters[..], &[("database", database)]].concat())
            };
            let log = vec![format!("{parameters:?}")];
            let (pooled, direct) = (log_in(pooler, "app"), log_in(direct, "direct"));
            let reported = [&pooled, &direct].map(|client| reports(&client.greeting));
            Pair { pooled, direct, log, number, reported, notified: Default::default() }
        })
        .collect();
    for _ in 0..REQUESTS {
        let number = random.below(CLIENTS);
        let (bytes, what, answers) = request(random, number);
        pairs[number].run(&bytes, &what, answers);
    }
    pairs.iter_mut().for_each(Pair::compare);
}

fn run_programs(settings: &[&str]) {
    let server = own_server();
    // One is the shared listener.
    let size = format!("default_pool_size = {}", CLIENTS + 1);
    let always = ["session_state = follow", "server_round_robin = 1", "max_client_conn = 1000", &size];
    let bouncer = Bouncer::in_front_of(&server, &[&always, settings].concat());
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let until = Instant::now() + Duration::from_secs(number("STATE_SECONDS").unwrap_or(DEFAULT_SECONDS));
    let mut seed = number("STATE_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20);
    let mut programs = 0;
    while Instant::now() < until {
        seed += 1;
        println!("STATE_SEED={}", seed - 1);
        run_program(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1), bouncer.port, server.port());
        programs += 1;
    }
    println!(
        "{settings:?}: {programs} programs of {REQUESTS} requests, the last with STATE_SEED={}",
        seed - 1
    );
    assert!(!mismatches(&bouncer), "{}", bouncer.log());
    assert!(!bouncer.log().contains("differs from what is recorded of it"), "{}", bouncer.log());
}

#[test]
fn random_programs_have_the_answers_of_a_direct_connection() {
    run_programs(&[]);
}

#[test]
fn random_programs_have_the_answers_of_a_direct_connection_with_two_workers() {
    run_programs(&["workers = 2"]);
}

#[test]
fn random_programs_leave_servers_with_what_is_recorded_of_them() {
    run_programs(&["state_verify = 1"]);
}

#[test]
fn random_programs_have_the_answers_of_a_direct_connection_in_session_pooling() {
    run_programs(&["pool_mode = session"]);
}
