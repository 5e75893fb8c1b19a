//! Combinations of prepared statements, COPY and the pool modes.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, eventually, postgres};

fn pool_of_one(settings: &[&str]) -> (Bouncer, Client) {
    let bouncer = Bouncer::in_front_of(postgres(), &[&["default_pool_size = 1"], settings].concat());
    let client = bouncer.client();
    (bouncer, client)
}

fn prepare(client: &mut Client, name: &str, sql: &str) {
    client.send(&[raw::parse(name, sql), raw::sync()].concat());
    assert_eq!(tags(&client.until_ready()), "1Z");
}

/// A complete batch with an unnamed statement, without its Sync.
fn batch(sql: &str) -> Vec<u8> {
    [raw::parse("", sql), raw::bind("", "", &[]), raw::execute()].concat()
}

fn bound(name: &str) -> Vec<u8> {
    [raw::bind("", name, &[]), raw::execute(), raw::sync()].concat()
}

fn table(name: &str) {
    let sql =
        format!("DROP TABLE IF EXISTS {name}; CREATE TABLE {name} (n int); ALTER TABLE {name} OWNER TO app");
    postgres().sql_in("app", &sql).unwrap();
}

#[test]
fn a_partly_executed_batch_is_not_sent_again() {
    table("combine_retry");
    let (_bouncer, mut a) = pool_of_one(&[]);
    prepare(&mut a, "one", "SELECT 'combine retry'");
    a.query("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
    a.send(&[batch("INSERT INTO combine_retry VALUES (1)"), raw::flush()].concat());
    for tag in [b'1', b'2', b'C'] {
        a.expect(tag);
    }
    a.send(&[raw::parse("two", "SELECT 'combine retry'"), bound("two")].concat());
    let answers = tags(&a.until_ready());
    let rows = postgres().sql_in("app", "SELECT count(*) FROM combine_retry").unwrap();
    // The missing statement's error rolled the insert back, and the client receives the error.
    assert_eq!((answers.as_str(), rows.trim()), ("1EZ", "0"));
}

#[test]
fn a_skipped_parse_leaves_no_statement_that_cannot_be_prepared() {
    let (_bouncer, mut a) = pool_of_one(&[]);
    prepare(&mut a, "s1", "SELECT 'combine skipped'");
    a.query("CREATE TEMP TABLE combine_skipped (n int)");
    a.send(&[raw::parse("", "bad sql"), raw::parse("s2", "SELECT 'combine skipped'"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "EZ");
    prepare(&mut a, "s3", "SELECT 'combine skipped'");
    a.send(&bound("s1"));
    assert_eq!(tags(&a.until_ready()), "2DCZ");
}

#[test]
fn a_batch_that_waits_twice_for_a_deallocate_continues() {
    let (_bouncer, mut a) = pool_of_one(&[]);
    let named =
        |name: &str| [raw::parse(name, "SELECT 'twice'"), raw::bind("", name, &[]), raw::execute()].concat();
    let all =
        [batch("DEALLOCATE ALL"), named("a"), batch("DEALLOCATE ALL"), named("b"), raw::sync()].concat();
    a.send(&all);
    assert_eq!(tags(&a.until_ready()), "12C12DC12C12DCZ");
}

#[test]
fn after_a_change_to_session_pooling_no_client_gets_the_unnamed_statement_of_another() {
    let (bouncer, mut a) = pool_of_one(&[]);
    let mut other = bouncer.client();
    a.query("SELECT 1");
    prepare(&mut other, "", "SELECT 'of another client'");
    let mut console = bouncer.console();
    assert_eq!(tags(&console.query("SET pool_mode = 'session'")), "CZ");
    a.send(&bound(""));
    assert_eq!(a.until_ready()[0].error().0, "26000");
    prepare(&mut a, "", "SELECT 'mine'");
    a.send(&bound(""));
    assert_eq!(tags(&a.until_ready()), "2DCZ");
}

#[test]
fn a_copy_is_recognized_when_its_parse_arrives_in_parts() {
    table("combine_pieces");
    for (name, setting) in [("", "max_prepared_statements = 200"), ("cp", "max_prepared_statements = 0")] {
        let (bouncer, mut a) = pool_of_one(&["pool_mode = session", setting]);
        a.query("SELECT 1");
        let parse = raw::parse(name, "COPY combine_pieces FROM STDIN");
        let cut = 5 + name.len() + 1 + 2;
        a.send(&parse[..cut]);
        // The thread that answers SHOW also reads from the client, so it has received the first part by now.
        bouncer.show("CLIENTS", "state");
        a.send(&[&parse[cut..], &bound(name)].concat());
        for tag in [b'1', b'2', b'G'] {
            a.expect(tag);
        }
        a.send(&[raw::copy_data(b"1\n"), raw::copy_done(), raw::sync()].concat());
        assert_eq!(tags(&a.until_ready()), "CZ");
    }
}

#[test]
fn a_known_statement_waits_for_a_pipelined_rollback() {
    let (_bouncer, mut a) = pool_of_one(&[]);
    prepare(&mut a, "s1", "SELECT 'pipelined rollback'");
    a.query("BEGIN");
    a.query("SELECT 1/0");
    let next = [raw::parse("s2", "SELECT 'pipelined rollback'"), bound("s2")].concat();
    a.send(&[batch("ROLLBACK"), raw::sync(), next].concat());
    assert_eq!((tags(&a.until_ready()), tags(&a.until_ready())), ("12CZ".to_owned(), "12DCZ".to_owned()));
}

#[test]
fn statement_pooling_refuses_begin_of_a_client_that_keeps_its_server() {
    let (_bouncer, mut a) = pool_of_one(&["pool_mode = statement"]);
    a.send(&[batch(&format!("SELECT 1 /* {} */", "x".repeat(300_000))), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "12DCZ");
    assert_eq!(tags(&a.query("BEGIN")), "EZ");
    assert_eq!(a.value("SELECT 2"), "2");
}

#[test]
fn alternating_statements_in_a_small_cache_use_bounded_memory() {
    let (bouncer, mut a) = pool_of_one(&["max_prepared_statements = 1"]);
    for name in ["a", "b"] {
        prepare(&mut a, name, &format!("SELECT '{name}' /* {} */", "x".repeat(2_000_000)));
    }
    let binds = [raw::bind("", "a", &[]), raw::bind("", "b", &[])].concat().repeat(150);
    a.send(&[binds, raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), format!("{}Z", "2".repeat(300)));
    let status = std::fs::read_to_string(format!("/proc/{}/status", bouncer.pid().as_raw_nonzero())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kb < 300 * 1024, "{peak_kb} kB");
}

#[test]
fn a_statement_too_long_to_be_shared_is_not_evicted_for_others() {
    let (_bouncer, mut a) = pool_of_one(&["max_prepared_statements = 1"]);
    prepare(&mut a, "long", &format!("SELECT 'long' /* {} */", "x".repeat(17 * 1024 * 1024)));
    prepare(&mut a, "short", "SELECT 'short'");
    for name in ["long", "short", "long"] {
        a.send(&bound(name));
        assert_eq!(tags(&a.until_ready()), "2DCZ", "{name}");
    }
}

#[test]
fn skipped_parses_leave_the_earlier_unnamed_statement() {
    let (_bouncer, mut a) = pool_of_one(&[]);
    prepare(&mut a, "", "SELECT 'before'");
    let skipped = [raw::parse("", "SELECT 'x'"), raw::parse("", "SELECT 'y'")].concat();
    a.send(&[raw::bind("", "nowhere", &[]), skipped, raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "EZ");
    a.send(&bound(""));
    let messages = a.until_ready();
    assert_eq!(messages[1].row()[0].as_deref(), Some("before"));
}

#[test]
fn a_long_query_that_waits_is_canceled_and_the_connection_stays_usable() {
    let (bouncer, mut a) = pool_of_one(&[]);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let (pid, key) = a.cancel_key();
    a.send_query(&format!("SELECT 1 /* {} */", "x".repeat(100_000)));
    let mut console = bouncer.console();
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    crate::cancel::cancel(bouncer.port, pid, &key);
    let messages = a.until_ready();
    assert_eq!((tags(&messages).as_str(), messages[0].error().0.as_str()), ("EZ", "57014"));
    holder.query("COMMIT");
    assert_eq!(a.value("SELECT 2"), "2");
}

#[test]
fn text_that_resembles_a_statement_name_of_the_pooler_is_not_rewritten() {
    let (_bouncer, mut a) = pool_of_one(&[]);
    let messages = a.query("DO $$ BEGIN RAISE EXCEPTION 'order iamb_7 not found'; END $$");
    assert_eq!(messages[0].error().1, "order iamb_7 not found");
}

#[test]
fn a_client_that_keeps_its_server_receives_an_error_when_the_server_closes() {
    let (_bouncer, mut a) = pool_of_one(&[]);
    let long = [batch(&format!("SELECT 1 /* {} */", "x".repeat(300_000))), raw::sync()].concat();
    let pid = a.value("SELECT pg_backend_pid()");
    a.send(&long);
    assert_eq!(tags(&a.until_ready()), "12DCZ");
    postgres().sql_in("app", &format!("SELECT pg_terminate_backend({pid})")).unwrap();
    assert_eq!(a.until_end().last().expect("an error").error().0, "57P01");
}

#[test]
fn notifications_for_a_client_that_does_not_read_delay_no_other_client() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session"]);
    let mut a = bouncer.client();
    let mut notifier = Client::log_in(postgres().port(), "app", "app");
    assert_eq!(tags(&a.query("LISTEN combine")), "CZ");
    let query = raw::query("SELECT repeat('x', 7000)");
    a.stream.set_nonblocking(true).unwrap();
    // Send until the pooler stops reading because its answers have filled the client's socket.
    for _ in 0..600 {
        if std::io::Write::write_all(&mut a.stream, &query).is_err() {
            break;
        }
        notifier.query("NOTIFY combine");
        assert_eq!(bouncer.client().value("SELECT 'served'"), "served");
    }
}
