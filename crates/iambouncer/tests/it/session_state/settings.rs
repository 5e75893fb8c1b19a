//! Settings follow the client: with savepoints, errors, several statements in one message, and the extended protocol.

use super::{code, mismatches, pins, run, wait_for_pins, with_one_server, with_several_servers};
use crate::support::eventually;
use crate::support::raw::{self, Client};

#[test]
fn a_setting_follows_its_client_and_reaches_no_other() {
    for bouncer in [with_one_server(), with_several_servers()] {
        let (mut a, mut b) = (bouncer.client(), bouncer.client());
        run(
            &mut a,
            &["SET work_mem = '5MB'", "SET app.tenant = 'a''b\\'", "SET search_path = pg_catalog, \"A b\""],
        );
        run(&mut b, &["SET statement_timeout TO 7000", "SET app.tenant TO b"]);
        for _ in 0..5 {
            assert_eq!(a.value("SHOW work_mem"), "5MB");
            assert_eq!(b.value("SHOW work_mem"), "4MB");
            assert_eq!(b.value("SHOW statement_timeout"), "7s");
            assert_eq!(a.value("SHOW statement_timeout"), "0");
            assert_eq!(a.value("SHOW search_path"), "pg_catalog, \"A b\"");
            assert_eq!(b.value("SHOW search_path"), "\"$user\", public");
            assert_eq!(b.value("SELECT current_setting('app.tenant')"), "b");
            assert_eq!(a.value("SELECT current_setting('app.tenant')"), "a'b\\");
        }
        assert_eq!(bouncer.client().value("SELECT current_setting('app.tenant', true) IS NULL OR current_setting('app.tenant', true) = ''"), "t");
        assert!(pins(&bouncer).is_empty() && !mismatches(&bouncer));
    }
}

#[test]
fn a_setting_that_was_rolled_back_is_not_kept() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    run(&mut a, &["SET work_mem = '1MB'"]);
    run(&mut a, &["BEGIN", "SET work_mem = '2MB'", "ROLLBACK"]);
    assert_eq!((b.value("SHOW work_mem"), a.value("SHOW work_mem")), ("4MB".into(), "1MB".into()));
    run(
        &mut a,
        &["BEGIN", "SET work_mem = '2MB'", "SAVEPOINT s", "SET work_mem = '3MB'", "ROLLBACK TO s", "COMMIT"],
    );
    assert_eq!((b.value("SHOW work_mem"), a.value("SHOW work_mem")), ("4MB".into(), "2MB".into()));
    run(&mut a, &["BEGIN", "SET work_mem = '5MB'", "SET LOCAL work_mem = '6MB'", "COMMIT"]);
    assert_eq!((b.value("SHOW work_mem"), a.value("SHOW work_mem")), ("4MB".into(), "5MB".into()));
    // A COMMIT that becomes a ROLLBACK, and a message whose statements fail together.
    run(&mut a, &["BEGIN", "SET work_mem = '7MB'"]);
    assert_eq!(code(&a.query("SELECT 1/0")), "22012");
    run(&mut a, &["COMMIT"]);
    assert_eq!(code(&a.query("SET work_mem = '8MB'; SELECT 1/0")), "22012");
    assert_eq!((b.value("SHOW work_mem"), a.value("SHOW work_mem")), ("4MB".into(), "5MB".into()));
    assert!(pins(&bouncer).is_empty() && !mismatches(&bouncer));
}

#[test]
fn set_config_is_a_setting() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    assert_eq!(a.value("SELECT set_config('app.user', 'x' || 'y', false)"), "xy");
    assert_eq!(b.value("SELECT current_setting('app.user', true)"), "");
    assert_eq!(b.value("SELECT set_config('app.user', 'b', true)"), "b");
    assert_eq!(a.value("SELECT current_setting('app.user')"), "xy");
    // As pg_dump does.
    assert_eq!(a.value("SELECT pg_catalog.set_config('search_path', '', false)"), "");
    assert_eq!(b.value("SHOW search_path"), "\"$user\", public");
    assert_eq!(a.value("SHOW search_path"), "");
    assert!(pins(&bouncer).is_empty());
}

fn extended(client: &mut Client, messages: &[Vec<u8>]) -> Vec<raw::Message> {
    client.send(&messages.concat());
    client.until_ready()
}

#[test]
fn settings_of_the_extended_protocol_follow() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    let config = "SELECT set_config('app.tenant', $1, false)";
    extended(&mut a, &[raw::parse("p", config), raw::bind("", "p", &[b"one"]), raw::execute(), raw::sync()]);
    extended(&mut b, &[raw::parse("p", config), raw::bind("", "p", &[b"two"]), raw::execute(), raw::sync()]);
    assert_eq!(a.value("SELECT current_setting('app.tenant')"), "one");
    assert_eq!(b.value("SELECT current_setting('app.tenant')"), "two");
    extended(&mut a, &[raw::bind("", "p", &[b"three"]), raw::execute(), raw::sync()]);
    extended(
        &mut b,
        &[raw::parse("", "SET work_mem = '9MB'"), raw::bind("", "", &[]), raw::execute(), raw::sync()],
    );
    assert_eq!(a.value("SELECT current_setting('app.tenant')"), "three");
    assert_eq!((a.value("SHOW work_mem"), b.value("SHOW work_mem")), ("4MB".into(), "9MB".into()));
    assert!(pins(&bouncer).is_empty() && !mismatches(&bouncer));
}

#[test]
fn the_role_follows_and_values_are_set_before_it() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    crate::support::postgres()
        .sql_in("app", "DO $$ BEGIN CREATE ROLE follows_role; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT follows_role TO app")
        .unwrap();
    run(&mut a, &["SET ROLE follows_role", "SET work_mem = '5MB'"]);
    assert_eq!(b.value("SELECT current_user"), "app");
    assert_eq!(a.value("SELECT current_user"), "follows_role");
    run(&mut b, &["SET work_mem = '6MB'"]);
    assert_eq!(
        (a.value("SELECT current_user"), a.value("SHOW work_mem")),
        ("follows_role".into(), "5MB".into())
    );
    run(&mut a, &["RESET ROLE"]);
    assert_eq!(
        (b.value("SELECT current_user"), a.value("SELECT current_user")),
        ("app".into(), "app".into())
    );
    assert!(pins(&bouncer).is_empty());
}

#[test]
fn a_client_that_leaves_after_a_setting_leaves_its_server_open() {
    let bouncer = with_one_server();
    let pid = bouncer.client().value("SELECT pg_backend_pid()");
    for _ in 0..20 {
        let mut a = bouncer.client();
        a.send(&[raw::query("SET app.tenant = 'a'")].concat());
        a.until_ready();
        a.send(&raw::terminate());
        a.until_end();
    }
    let mut b = bouncer.client();
    assert_eq!(b.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(b.value("SELECT current_setting('app.tenant', true)"), "");
}

#[test]
fn an_unnamed_statement_survives_queries_of_the_pooler() {
    let bouncer = with_one_server();
    let mut a = bouncer.client();
    extended(&mut a, &[raw::parse("", "SELECT set_config('app.tenant', $1, false)"), raw::sync()]);
    for value in [b"one", b"two"] {
        let answer = extended(&mut a, &[raw::bind("", "", &[value]), raw::execute(), raw::sync()]);
        assert_eq!(code(&answer), "");
        // The values of another client are set on the server in between.
        let mut b = bouncer.client();
        run(&mut b, &["SET app.tenant = 'b'"]);
    }
    assert_eq!(a.value("SELECT current_setting('app.tenant')"), "two");
}

#[test]
fn a_setting_follows_a_client_that_changes_its_worker() {
    let bouncer = with_several_servers();
    let mut clients: Vec<Client> = (0..8).map(|_| bouncer.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        run(
            client,
            &[&format!("SET app.tenant = 't{number}'"), &format!("SET work_mem = '{}MB'", number + 1)],
        );
    }
    for _ in 0..10 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.value("SELECT current_setting('app.tenant')"), format!("t{number}"));
            assert_eq!(client.value("SHOW work_mem"), format!("{}MB", number + 1));
        }
    }
    assert!(pins(&bouncer).is_empty() && !mismatches(&bouncer));
}

#[test]
fn a_setting_of_a_client_with_more_rights_affects_no_other() {
    let bouncer = with_one_server();
    crate::support::postgres()
        .sql_in("app", "DO $$ BEGIN CREATE ROLE follows_admin SUPERUSER; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT follows_admin TO app")
        .unwrap();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    b.value("SELECT 1");
    run(&mut a, &["SET app.tenant = 'a'"]);
    run(
        &mut a,
        &["BEGIN; SET ROLE follows_admin; SET session_replication_role = replica; RESET ROLE; COMMIT"],
    );
    // The login user may not set it on another server.
    wait_for_pins(&bouncer, &["superuser_setting"]);
    assert_eq!(a.value("SHOW session_replication_role"), "replica");
    drop(a);
    assert_eq!(b.value("SELECT coalesce(current_setting('app.tenant', true), '')"), "");
    assert_eq!(b.value("SHOW session_replication_role"), "origin");
}

#[test]
fn settings_of_the_transaction_are_not_those_of_the_session() {
    let bouncer = with_one_server();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    run(
        &mut a,
        &[
            "BEGIN; SET transaction_read_only = on; COMMIT",
            "SELECT set_config('transaction_read_only', 'on', false)",
        ],
    );
    assert_eq!(
        (b.value("SHOW transaction_read_only"), a.value("SHOW transaction_read_only")),
        ("off".into(), "off".into())
    );
    run(&mut b, &["CREATE TABLE IF NOT EXISTS follows_writes (a int)"]);
}

#[test]
fn set_role_none_is_not_the_default_role() {
    let server = crate::support::postgres();
    server
        .sql_in(
            "app",
            "DO $$ BEGIN CREATE ROLE follows_limited; CREATE ROLE follows_default LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             GRANT follows_limited TO follows_default; ALTER ROLE follows_default SET role = follows_limited",
        )
        .unwrap();
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    let start = crate::support::bouncer::Start::databases(&databases)
        .users("\"follows_default\" \"\"\n\"postgres\" \"\"\n");
    let bouncer = start.set("session_state = follow").set("default_pool_size = 1").start();
    let log_in = || Client::log_in(bouncer.port, "follows_default", "app");
    let (mut a, mut b) = (log_in(), log_in());
    assert_eq!(b.value("SELECT current_user"), "follows_limited");
    run(&mut a, &["SET ROLE none"]);
    for _ in 0..2 {
        assert_eq!(b.value("SELECT current_user"), "follows_limited");
        assert_eq!(a.value("SELECT current_user"), "follows_default");
    }
}

#[test]
fn show_clients_shows_pins_and_which_clients_have_the_same_settings() {
    let bouncer = with_several_servers();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    let settings = || bouncer.show("CLIENTS", "settings")[..2].to_vec();
    assert_eq!(settings()[0], settings()[1]);
    let first = settings()[0].clone();
    run(&mut a, &["SET app.tenant = 'a'", "SELECT pg_advisory_lock(12)"]);
    eventually("the settings differ", || settings().contains(&first) && settings()[0] != settings()[1]);
    assert!(bouncer.show("CLIENTS", "pins").contains(&"advisory_lock".to_owned()));
    run(&mut b, &["SET app.tenant = 'a'"]);
    run(&mut a, &["SELECT pg_advisory_unlock(12)"]);
    eventually("the settings are the same", || settings()[0] == settings()[1] && settings()[0] != first);
    run(&mut a, &["SET timezone = 'UTC'"]);
    eventually("a reported value counts, too", || settings()[0] != settings()[1]);
}

#[test]
fn a_setting_of_a_superuser_follows_beside_another_session_authorization() {
    let bouncer = with_one_server();
    let log_in = || Client::log_in(bouncer.port, "postgres", "app");
    let (mut a, mut b) = (log_in(), log_in());
    run(&mut b, &["SET SESSION AUTHORIZATION app", "SELECT 1"]);
    run(&mut a, &["SET lo_compat_privileges = on", "SET SESSION AUTHORIZATION app"]);
    for _ in 0..3 {
        // The server has the authorization already, but `app` may not change the setting.
        assert_eq!(
            (b.value("SHOW lo_compat_privileges"), b.value("SELECT current_user")),
            ("off".into(), "app".into())
        );
        assert_eq!(
            (a.value("SHOW lo_compat_privileges"), a.value("SELECT current_user")),
            ("on".into(), "app".into())
        );
    }
    assert!(pins(&bouncer).is_empty());
}

#[test]
fn a_value_that_another_client_has_set_with_more_rights_is_reset() {
    let bouncer = with_several_servers();
    crate::support::postgres()
        .sql_in(
            "app",
            "CREATE OR REPLACE FUNCTION follows_rights() RETURNS text LANGUAGE sql SECURITY DEFINER
             AS $$ SELECT set_config('log_min_messages', 'error', false) $$",
        )
        .unwrap();
    let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
    // Each server has the value.
    clients.iter_mut().for_each(|client| run(client, &["BEGIN"]));
    clients.iter_mut().for_each(|client| run(client, &["SELECT follows_rights()", "COMMIT"]));
    wait_for_pins(&bouncer, &["superuser_setting"; 3]);
    drop(clients);
    let mut other = bouncer.client();
    run(&mut other, &["SET app.tenant = 'other'"]);
    for _ in 0..4 {
        assert_eq!(other.value("SHOW log_min_messages"), "warning");
        assert_eq!(other.value("SELECT current_setting('app.tenant')"), "other");
    }
}
