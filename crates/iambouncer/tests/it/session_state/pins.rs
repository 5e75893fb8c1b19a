//! What exists on one server only makes its client keep that server, until it is gone.

use super::{code, mismatches, pins, run, with_one_server, with_several_servers};
use crate::support::raw::{self, Client};
use crate::support::{Bouncer, eventually, postgres};

/// Clients keep their server after `begin` for this reason, and release it after `end`.
fn keeps_its_server(bouncer: &Bouncer, begin: &[&str], reason: &str, end: &[&str]) {
    let mut a = bouncer.client();
    run(&mut a, begin);
    let pid = a.value("SELECT pg_backend_pid()");
    assert_eq!(pins(bouncer), [reason], "{begin:?}");
    assert_eq!(a.value("SELECT pg_backend_pid()"), pid);
    let mut waiting = bouncer.client();
    waiting.send_query("SELECT 1");
    run(&mut a, end);
    // The only server is free again.
    assert_eq!(
        waiting.until_ready().iter().find(|message| message.tag == b'D').unwrap().row()[0],
        Some("1".into())
    );
    assert!(pins(bouncer).is_empty(), "{end:?}");
}

#[test]
fn a_client_keeps_its_server_while_that_has_state_of_it() {
    let bouncer = with_one_server();
    for (begin, reason, end) in [
        (&["CREATE TEMP TABLE t (a int)"][..], "temporary_object", &["DROP TABLE t"][..]),
        (&["CREATE TABLE pg_temp.t (a int)"], "temporary_object", &["DISCARD TEMP"]),
        (&["SELECT 1 AS a INTO TEMP t"], "temporary_object", &["DISCARD ALL"]),
        (
            &["CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'"],
            "temporary_object",
            &["DROP FUNCTION pg_temp.f()"],
        ),
        (&["BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"], "holdable_cursor", &["CLOSE c"]),
        (
            &["SELECT pg_advisory_lock(1), pg_advisory_lock(2)"],
            "advisory_lock",
            &["SELECT pg_advisory_unlock(1)", "SELECT pg_advisory_unlock_all()"],
        ),
        (&["PREPARE p AS SELECT 1"], "sql_prepare", &["EXECUTE p", "DEALLOCATE p"]),
        (&["LISTEN a"], "listen", &["UNLISTEN *"]),
        (
            &["CREATE TEMP TABLE t (a int)", "LISTEN a"],
            "temporary_object, listen",
            &["DROP TABLE t", "UNLISTEN a"],
        ),
        (&["CREATE TEMP TABLE t (a int); SET app.tenant = 'x'"], "temporary_object", &["DROP TABLE t"]),
    ] {
        keeps_its_server(&bouncer, begin, reason, end);
    }
    assert!(!mismatches(&bouncer));
}

#[test]
fn what_ends_with_its_transaction_pins_no_client() {
    let bouncer = with_one_server();
    let mut a = bouncer.client();
    for statements in [
        &["BEGIN", "CREATE TEMP TABLE t (a int) ON COMMIT DROP", "COMMIT"][..],
        &["BEGIN", "CREATE TEMP TABLE t (a int)", "ROLLBACK"],
        &["SELECT pg_advisory_lock(1); SELECT pg_advisory_unlock(1)"],
        &["BEGIN", "LISTEN a", "ROLLBACK"],
        &["BEGIN", "SELECT pg_advisory_xact_lock(1)", "COMMIT"],
    ] {
        run(&mut a, statements);
        bouncer.client().value("SELECT 1");
        assert!(pins(&bouncer).is_empty(), "{statements:?}");
    }
    assert_eq!(code(&a.query("CREATE TEMP TABLE t (a nothing)")), "42704");
    bouncer.client().value("SELECT 1");
    assert!(pins(&bouncer).is_empty());
}

#[test]
fn settings_of_a_client_that_kept_its_server_follow_it_afterwards() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    run(
        &mut a,
        &["CREATE TEMP TABLE t (a int)", "SET app.tenant = 'a'", "SET work_mem = '5MB'", "DROP TABLE t"],
    );
    assert_eq!(
        (b.value("SHOW work_mem"), b.value("SELECT current_setting('app.tenant', true)")),
        ("4MB".into(), String::new())
    );
    assert_eq!(
        (a.value("SHOW work_mem"), a.value("SELECT current_setting('app.tenant', true)")),
        ("5MB".into(), "a".into())
    );
}

#[test]
fn nothing_is_left_behind_by_a_client_that_disconnects() {
    for reset_query in ["server_reset_query = DISCARD ALL", "server_reset_query ="] {
        let settings = ["session_state = follow", "default_pool_size = 1", reset_query];
        let bouncer = Bouncer::in_front_of(postgres(), &settings);
        for statement in [
            "CREATE TEMP TABLE t (a int)",
            "SELECT pg_advisory_lock(77)",
            "DO $$ DECLARE text text := 'SET app.tenant = 1'; BEGIN EXECUTE text; END $$",
            "SELECT set_config('app.' || 'tenant', 'x', false)",
            "SET search_path = pg_temp",
            "LISTEN left_behind",
            "PREPARE left_behind AS SELECT 1",
            "SELECT setseed(0.5)",
        ] {
            for ends_politely in [true, false] {
                let mut a = bouncer.client();
                run(&mut a, &[statement]);
                assert_eq!(pins(&bouncer).len(), 1, "{statement}");
                if ends_politely {
                    a.send(&raw::terminate());
                }
                drop(a);
                let mut b = bouncer.client();
                let left = "SELECT (SELECT count(*) FROM pg_listening_channels()) + (SELECT count(*) FROM pg_prepared_statements WHERE from_sql)
                    + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
                    + (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
                    + (CASE WHEN coalesce(current_setting('app.tenant', true), '') = '' AND current_setting('search_path') <> 'pg_temp' THEN 0 ELSE 1 END)";
                assert_eq!(b.value(left), "0", "{statement}");
                eventually("no pin is left", || pins(&bouncer).is_empty());
            }
        }
    }
}

#[test]
fn notifications_reach_the_client_that_listens() {
    let bouncer = with_several_servers();
    let (mut listener, mut other) = (bouncer.client(), bouncer.client());
    run(&mut listener, &["LISTEN follow_channel"]);
    for payload in ["one", "two"] {
        run(&mut other, &[&format!("NOTIFY follow_channel, '{payload}'")]);
        let notification = listener.expect(b'A');
        assert!(notification.bytes.windows(payload.len()).any(|part| part == payload.as_bytes()));
    }
    // One that arrives while the pooler asks the server for its state.
    for _ in 0..20 {
        run(&mut other, &["NOTIFY follow_channel, 'x'"]);
        listener.send_query("LISTEN another; NOTIFY follow_channel, 'own'");
        let mut seen = 0;
        let mut is_answered = false;
        while seen < 2 || !is_answered {
            match listener.read().unwrap().tag {
                b'A' => seen += 1,
                b'Z' => is_answered = true,
                _ => {}
            }
        }
    }
}

#[test]
fn a_client_with_an_encoding_that_cannot_be_read_keeps_its_server() {
    let bouncer = with_one_server();
    let parameters = [("user", "app"), ("database", "app"), ("client_encoding", "SJIS")];
    let mut a = Client::log_in_with(bouncer.port, &parameters);
    assert_eq!(a.value("SELECT 1"), "1");
    assert_eq!(pins(&bouncer), ["unreadable_text"]);
    let mut b = bouncer.client();
    b.send_query("SELECT 2");
    run(&mut a, &["SET app.tenant = 'x'"]);
    a.send(&raw::terminate());
    a.until_end();
    b.until_ready();
    assert_eq!(b.value("SELECT current_setting('app.tenant', true)"), "");
}

#[test]
fn show_pins_names_the_statement_without_its_values() {
    let bouncer = with_one_server();
    let mut a = bouncer.client();
    run(&mut a, &["SELECT pg_advisory_lock(4711) /* private */"]);
    assert_eq!(bouncer.show("PINS", "statement"), ["SELECT pg_advisory_lock(?)"]);
    bouncer.wait_for_line("a client keeps its server");
    run(&mut a, &["SELECT pg_advisory_unlock(4711)"]);
    bouncer.client().value("SELECT 1");
    assert!(bouncer.show("PINS", "statement").is_empty());
}

#[test]
fn the_last_value_of_a_sequence_is_never_that_of_another_client() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    run(&mut a, &["CREATE SEQUENCE IF NOT EXISTS follow_numbers"]);
    a.value("SELECT nextval('follow_numbers')");
    // The client itself was the last one on its server.
    assert_ne!(a.value("SELECT currval('follow_numbers')"), "");
    run(&mut a, &["DISCARD ALL"]);
    a.value("SELECT nextval('follow_numbers')");
    assert_eq!(code(&b.query("SELECT lastval()")), "55000");
    run(&mut b, &["DISCARD ALL"]);
    a.value("SELECT nextval('follow_numbers')");
    let extended = [raw::parse("", "SELECT lastval()"), raw::bind("", "", &[]), raw::execute(), raw::sync()];
    b.send(&extended.concat());
    assert_eq!(code(&b.until_ready()), "55000");
    run(&mut b, &["DISCARD ALL"]);
    a.value("SELECT nextval('follow_numbers')");
    let named = [raw::parse("p", "SELECT lastval()"), raw::bind("", "p", &[]), raw::execute(), raw::sync()];
    b.send(&named.concat());
    assert_eq!(code(&b.until_ready()), "55000");
    assert_eq!(pins(&bouncer), ["sequence_value"]);
}

#[test]
fn a_prepared_statement_that_changes_its_session_keeps_the_server() {
    let bouncer = with_one_server();
    for untracked in [false, true] {
        let limit = if untracked { "max_prepared_statements = 0" } else { "max_prepared_statements = 10" };
        let settings = ["session_state = follow", "default_pool_size = 1", limit];
        let other = Bouncer::in_front_of(postgres(), &settings);
        let mut a = other.client();
        let named = [
            raw::parse("s", "SELECT set_config('app.tenant', 'x', false)"),
            raw::bind("", "s", &[]),
            raw::execute(),
            raw::sync(),
        ];
        a.send(&named.concat());
        assert_eq!(code(&a.until_ready()), "");
        assert_eq!(pins(&other).is_empty(), !untracked);
        drop(a);
        assert_eq!(other.client().value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
    }
    let mut a = bouncer.client();
    run(&mut a, &["PREPARE p AS SELECT set_config('app.tenant', 'x', false)", "EXECUTE p", "DEALLOCATE p"]);
    assert_eq!(pins(&bouncer), ["sql_prepare, unknown_code"]);
    a.send(&raw::terminate());
    a.until_end();
    assert_eq!(bouncer.client().value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
}

#[test]
fn texts_that_cannot_be_read_are_not_forgotten_by_discard_all() {
    let bouncer = with_one_server();
    let parameters = [("user", "app"), ("database", "app"), ("standard_conforming_strings", "off")];
    let mut a = Client::log_in_with(bouncer.port, &parameters);
    run(&mut a, &["SELECT 1", "DISCARD ALL"]);
    assert_eq!(pins(&bouncer), ["unreadable_text"]);
    assert_eq!(a.value("SHOW standard_conforming_strings"), "off");
    drop(a);
    let mut b = bouncer.client();
    run(&mut b, &["SET standard_conforming_strings = off"]);
    assert_eq!(pins(&bouncer), ["unreadable_text"]);
    // A function may set it, too.
    drop(b);
    let mut c = bouncer.client();
    run(
        &mut c,
        &[
            "CREATE OR REPLACE FUNCTION follows_off() RETURNS text LANGUAGE sql AS $$ SELECT set_config('standard_conforming_strings', 'off', false) $$",
        ],
    );
    c.query("SELECT follows_off()");
    assert_eq!(pins(&bouncer), ["unreadable_text"]);
}

#[test]
fn a_client_that_keeps_its_server_in_silence_is_disconnected_unless_it_listens() {
    let settings = ["session_state = follow", "default_pool_size = 3", "pin_idle_timeout = 1"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let (mut silent, mut listener, mut free) = (bouncer.client(), bouncer.client(), bouncer.client());
    run(&mut listener, &["LISTEN silence", "SELECT pg_advisory_lock(5)"]);
    run(&mut free, &["SELECT 1"]);
    run(&mut silent, &["CREATE TEMP TABLE t (a int)"]);
    let messages = silent.until_end();
    assert_eq!(code(&messages), "57P05");
    let error = messages.iter().find(|message| message.tag == b'E').unwrap();
    assert!(error.detail().contains("temporary_object"), "{}", error.detail());
    assert_eq!((free.value("SELECT 1"), listener.value("SELECT 1")), ("1".into(), "1".into()));
    assert_eq!(pins(&bouncer), ["advisory_lock, listen"]);
}
