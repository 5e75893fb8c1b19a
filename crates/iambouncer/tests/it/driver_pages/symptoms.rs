//! The errors in the page about troubleshooting: each is one of the pooler's messages, or printed by a program of a page
//! that a test runs, or provoked here. Owns how the last are provoked.

use super::PAGES;
use super::blocks::{Block, blocks, line_matches};
use super::page_run::{PageRun, page};
use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::sim::Sim;
use crate::support::updated_client::UpdatedClient;
use crate::support::{Bouncer, eventually, postgres};
use iambouncer::client_error::WAIT_NOTICE;
use iambouncer::client_error::messages::MESSAGES;
use rds_sim::postgres::PostgresOptions;
use rustix::process::Signal;

/// The headings of the page that name errors begin with this.
const HEADING: &str = "### `";
/// A port at which nothing listens.
const CLOSED_PORT: u16 = 1;

/// Shows what a client or the log shows.
type Provoke = fn() -> String;

/// Texts that neither the table of messages nor the output of a page has.
const PROVOKED: [(&str, Provoke); 7] = [
    ("Connection refused", connection_refused),
    ("remaining connection slots are reserved for", server_is_full),
    ("server closed the connection unexpectedly", pooler_is_killed),
    ("terminating connection due to administrator command", server_is_terminated),
    ("PAM authentication failed for user \"app\"", token_is_refused),
    ("cannot connect to …: Connection refused", server_is_down),
    ("cannot resolve …", name_is_unknown),
];

fn connection_refused() -> String {
    let run = PageRun::start("symptom_refused");
    run.output(&format!("PGPORT={CLOSED_PORT} psql -c 'SELECT 1'"))
}

fn refusal(bouncer: &Bouncer) -> String {
    bouncer.refused_login("app", "app").1
}

fn server_is_down() -> String {
    let line = format!("app = host=127.0.0.1 port={CLOSED_PORT}");
    refusal(&Start::databases(&line).set("query_wait_timeout = 2").start())
}

fn name_is_unknown() -> String {
    let sim = Sim::in_front_of(postgres());
    let dns = sim.dns();
    let start = Start::databases("app = host=unknown.example.com");
    refusal(&start.set("query_wait_timeout = 2").set(&format!("dns_server = {}", dns.address())).start())
}

fn token_is_refused() -> String {
    let sim = Sim::in_front_of(postgres());
    let line = sim.database();
    let start = sim.keyless(&line).env("AWS_ACCESS_KEY_ID", "AKIDOTHER");
    refusal(&start.env("AWS_SECRET_ACCESS_KEY", "other").start())
}

/// Reserved places are not for the pooler's user.
fn server_is_full() -> String {
    let server = start(PostgresOptions {
        max_connections: 4,
        config_lines: vec!["superuser_reserved_connections = 3".to_owned()],
        ..PostgresOptions::default()
    });
    server.sql("CREATE ROLE app LOGIN").unwrap();
    let mut only = None;
    eventually("the only place is free", || {
        only = UpdatedClient::log_in_to(server.port(), "postgres").ok();
        only.is_some()
    });
    let line = format!("app = host=127.0.0.1 port={} dbname=postgres", server.port());
    let bouncer = Start::databases(&line).set("query_wait_timeout = 1").start();
    let _refused = bouncer.refused_login("app", "app");
    bouncer.wait_for_line("remaining connection slots")
}

fn server_is_terminated() -> String {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    let server = client.value("SELECT pg_backend_pid()");
    postgres().sql(&format!("SELECT pg_terminate_backend({server})")).unwrap();
    client.send_query("SELECT 1");
    client.until_end().into_iter().find(|message| message.tag == b'E').unwrap().error().1
}

/// What the program of a page reports. `unchecked` is a part of its file, and what replaces it so that it does not check
/// its connection.
fn failure_of_killed(page: &str, program: &str, unchecked: [&str; 3]) -> String {
    let run = PageRun::start(&format!("symptom_{}", program.split(' ').next().unwrap()));
    run.unpack(page);
    let [file, from, to] = unchecked;
    run.change(file, from, to);
    let mut program = run.program(program);
    program.answer("apple");
    run.bouncer.signal(Signal::KILL);
    program.failure("apple")
}

fn pooler_is_killed() -> String {
    let unchecked = ["serve.py", "check=ConnectionPool.check_connection,", ""];
    failure_of_killed("drivers/psycopg-asyncpg.md", "python serve.py", unchecked)
}

/// It depends on the moment whether the kernel of a killed process closes or resets a connection.
#[test]
fn node_reports_a_killed_pooler_in_one_of_two_ways() {
    let unchecked = ["serve.mjs", "pool.on(\"error\"", "pool.on(\"unused\""];
    let shown = failure_of_killed("drivers/node-postgres.md", "node serve.mjs", unchecked);
    let texts = ["Connection terminated unexpectedly", "read ECONNRESET"];
    assert!(texts.iter().any(|text| shown.contains(text)), "{shown}");
}

/// The errors of the headings.
fn named_errors() -> Vec<String> {
    let text = page("troubleshooting.md");
    let headings = text.lines().filter(|line| line.starts_with(HEADING));
    headings.flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The output that pages show, which their tests have compared.
fn outputs() -> Vec<String> {
    let blocks = PAGES.iter().flat_map(|name| blocks(&page(name)));
    let commands = blocks.flat_map(|block| match block {
        Block::Commands(commands) => commands,
        Block::File { .. } => Vec::new(),
    });
    commands.flat_map(|command| command.output.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn every_error_of_the_page_exists() {
    let outputs = outputs();
    let provoked = |error: &str| PROVOKED.iter().any(|(text, _)| *text == error);
    let is_message = |error: &str| {
        error == WAIT_NOTICE
            || MESSAGES.iter().any(|message| line_matches(&message.text.replace("%s", "…"), error))
    };
    let is_printed = |error: &str| {
        outputs.iter().any(|line| line.contains(error) || line_matches(&format!("…{error}…"), line))
    };
    for error in named_errors() {
        assert!(is_message(&error) || is_printed(&error) || provoked(&error), "{error}");
    }
}

#[test]
fn errors_that_no_table_has_can_be_provoked() {
    let named = named_errors();
    for (text, provoke) in PROVOKED {
        assert!(named.iter().any(|error| error == text), "{text}");
        let shown = provoke();
        assert!(shown.lines().any(|line| line_matches(&format!("…{text}…"), line)), "{text}: {shown}");
    }
}
