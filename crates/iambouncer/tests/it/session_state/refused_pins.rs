//! `pin = error`: a statement for which its client would keep its server fails, and nothing of it has happened.

use super::{code, pins, run};
use crate::support::bouncer::Start;
use crate::support::http::scrape;
use crate::support::raw::{self, Client, Message, tags};
use crate::support::{Bouncer, postgres};

fn refusing(settings: &[&str]) -> Bouncer {
    let all = [&["session_state = follow", "default_pool_size = 1", "pin = error"], settings].concat();
    Bouncer::in_front_of(postgres(), &all)
}

/// The error among these messages.
fn error(messages: &[Message]) -> &Message {
    messages.iter().find(|message| message.tag == b'E').expect("an error")
}

/// The transaction status of the last ReadyForQuery.
fn status(messages: &[Message]) -> char {
    char::from(messages.last().expect("a ReadyForQuery").bytes[5])
}

#[test]
fn a_statement_that_would_keep_its_server_is_refused_and_says_what_to_use() {
    let bouncer = refusing(&["http_port = auto"]);
    let mut a = bouncer.client();
    for (sql, reason, hint) in [
        ("CREATE TEMP TABLE refused (a int)", "temporary_object", "ON COMMIT DROP"),
        ("SELECT pg_advisory_lock(1)", "advisory_lock", "pg_advisory_xact_lock"),
        ("PREPARE p AS SELECT 1", "sql_prepare", "driver"),
        ("SELECT 1; SELECT setseed(0.5)", "random_seed", ""),
        ("SELECT set_config($$app.$$ || $$a$$, $$b$$, false)", "computed_setting", "name of the setting"),
    ] {
        let messages = a.query(sql);
        let (code, text) = error(&messages).error();
        assert_eq!(
            (code.as_str(), tags(&messages).as_str(), status(&messages)),
            ("0A000", "EZ", 'I'),
            "{sql}"
        );
        assert!(text.contains(reason), "{text}");
        assert!(error(&messages).hint().contains(hint), "{sql}: {}", error(&messages).hint());
        assert!(pins(&bouncer).is_empty());
    }
    // What needs no server of its own is not refused.
    run(&mut a, &["SET app.tenant = 'a'", "BEGIN", "CREATE TEMP TABLE t (a int) ON COMMIT DROP", "COMMIT"]);
    run(&mut a, &["SELECT pg_advisory_xact_lock(1)", "DISCARD ALL"]);
    bouncer.wait_for_line("a statement was refused for which its client would keep its server");
    let metrics = scrape(bouncer.http_port()).text;
    assert!(metrics.contains("iambouncer_refused_pins_total{reason=\"advisory_lock\"} 1"), "{metrics}");
    assert!(metrics.contains("iambouncer_session_pins_total{reason=\"advisory_lock\"} 0"));
}

#[test]
fn a_refused_statement_fails_its_transaction_on_the_server_itself() {
    let bouncer = refusing(&[]);
    let mut a = bouncer.client();
    run(&mut a, &["CREATE TABLE IF NOT EXISTS refused_rows (a int)", "TRUNCATE refused_rows"]);
    run(&mut a, &["BEGIN", "INSERT INTO refused_rows VALUES (1)", "SAVEPOINT s"]);
    let messages = a.query("SELECT pg_advisory_lock(1)");
    assert_eq!((code(&messages).as_str(), status(&messages)), ("0A000", 'E'));
    // The server's own error, since it does not even analyze the statement.
    assert_eq!(code(&a.query("SELECT pg_advisory_lock(1)")), "25P02");
    run(&mut a, &["ROLLBACK TO s", "INSERT INTO refused_rows VALUES (2)", "COMMIT"]);
    assert_eq!(a.value("SELECT sum(a) FROM refused_rows"), "3");
    run(&mut a, &["BEGIN", "INSERT INTO refused_rows VALUES (4)"]);
    assert_eq!(code(&a.query("LISTEN a; CREATE TEMP TABLE t (a int)")), "0A000");
    let ended = a.query("COMMIT");
    assert_eq!(ended[0].command_tag(), "ROLLBACK");
    assert_eq!(a.value("SELECT sum(a) FROM refused_rows"), "3");
}

/// A statement in a batch of its own, under this name.
fn batch(name: &str, sql: &str) -> Vec<u8> {
    [raw::parse(name, sql), raw::bind("", name, &[]), raw::describe_portal(), raw::execute(), raw::sync()]
        .concat()
}

#[test]
fn a_refused_statement_of_a_pipeline_fails_only_its_batch() {
    let bouncer = refusing(&[]);
    let mut a = bouncer.client();
    for name in ["", "named"] {
        let suffix = if name.is_empty() { "" } else { "2" };
        a.send(
            &[
                batch("", "SELECT 1"),
                batch(name, "SELECT pg_advisory_lock(1)"),
                batch(&format!("other{suffix}"), "SELECT 2"),
            ]
            .concat(),
        );
        assert_eq!(tags(&a.until_ready()), "12TDCZ");
        let refused = a.until_ready();
        assert_eq!((tags(&refused).as_str(), code(&refused).as_str()), ("1EZ", "0A000"));
        assert_eq!(tags(&a.until_ready()), "12TDCZ");
        assert!(pins(&bouncer).is_empty());
    }
    // The statement still exists, and is refused each time.
    a.send(&[raw::bind("", "named", &[]), raw::execute(), raw::sync()].concat());
    assert_eq!(code(&a.until_ready()), "0A000");
    // An error before it in its batch is reported instead.
    a.send(
        &[
            raw::parse("", "SELECT 1/0"),
            raw::bind("", "", &[]),
            raw::execute(),
            raw::bind("", "named", &[]),
            raw::execute(),
            raw::sync(),
        ]
        .concat(),
    );
    assert_eq!(code(&a.until_ready()), "22012");
    // Without a Sync the error is sent, too.
    a.send(&[raw::bind("", "named", &[]), raw::flush()].concat());
    assert_eq!(a.expect(b'E').error().0, "0A000");
    a.send(&raw::sync());
    a.expect(b'Z');
    assert_eq!(a.value("SELECT 3"), "3");
}

#[test]
fn functions_that_would_keep_the_server_are_refused() {
    let bouncer = refusing(&[]);
    let mut a = bouncer.client();
    run(
        &mut a,
        &[
            "CREATE OR REPLACE FUNCTION refused_lock() RETURNS void LANGUAGE sql AS $$ SELECT pg_advisory_lock(1) $$",
            "CREATE OR REPLACE PROCEDURE refused_call() LANGUAGE sql AS $$ SELECT refused_lock() $$",
        ],
    );
    for sql in ["SELECT refused_lock()", "CALL refused_call()"] {
        assert_eq!(code(&a.query(sql)), "0A000", "{sql}");
        a.send(&batch("", sql));
        assert_eq!(code(&a.until_ready()), "0A000", "{sql}");
    }
    // By its number: what it does is not known. 1299 is now().
    a.send(&raw::call_function(1299));
    let messages = a.until_ready();
    assert_eq!((code(&messages).as_str(), tags(&messages).as_str()), ("0A000", "EZ"));
    assert!(pins(&bouncer).is_empty());
}

#[test]
fn without_tracked_statements_named_ones_are_refused() {
    let bouncer = refusing(&["max_prepared_statements = 0"]);
    let mut a = bouncer.client();
    a.send(&batch("named", "SELECT 1"));
    let messages = a.until_ready();
    assert_eq!((code(&messages).as_str(), tags(&messages).as_str()), ("0A000", "EZ"));
    assert!(error(&messages).hint().contains("max_prepared_statements"));
    a.send(&batch("", "SELECT 1"));
    assert_eq!(tags(&a.until_ready()), "12TDCZ");
    assert!(pins(&bouncer).is_empty());
}

#[test]
fn pin_of_a_database_line_replaces_the_setting() {
    let to = format!("host=127.0.0.1 port={} dbname=app", postgres().port());
    let lines = format!("plain = {to}\nkeyed = {to} pin=error");
    let bouncer =
        Start::databases(&lines).set("session_state = follow").set("pool_mode = transaction").start();
    let of =
        |database| code(&Client::log_in(bouncer.port, "app", database).query("SELECT pg_advisory_lock(9)"));
    assert_eq!((of("plain").as_str(), of("keyed").as_str()), ("", "0A000"));
}

#[test]
fn texts_that_are_too_long_to_be_read_are_refused() {
    let bouncer = refusing(&[]);
    let mut a = bouncer.client();
    let long = format!("SELECT length('{}')", "x".repeat(2 * 1024 * 1024));
    let messages = a.query(&long);
    assert_eq!((code(&messages).as_str(), tags(&messages).as_str()), ("0A000", "EZ"));
    a.send(&batch("", &long));
    assert_eq!(code(&a.until_ready()), "0A000");
    assert_eq!(a.value("SELECT 1"), "1");
    assert!(pins(&bouncer).is_empty());
}
