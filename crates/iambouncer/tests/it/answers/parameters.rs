//! Startup parameters that servers do not report: each client runs with its own values.

use crate::support::bouncer::Start;
use crate::support::raw::{self, Client, Message, tags};
use crate::support::{Bouncer, postgres};

fn client(bouncer: &Bouncer, more: &[(&str, &str)]) -> Client {
    let parameters = [&[("user", "app"), ("database", "app")], more].concat();
    Client::log_in_with(bouncer.port, &parameters)
}

#[test]
fn each_client_has_its_own_search_path() {
    for schema in ["tenant_a", "tenant_b"] {
        postgres()
            .sql_in(
                "app",
                &format!(
                    "DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema} AUTHORIZATION app;
                     CREATE TABLE {schema}.who AS SELECT '{schema}' AS name; GRANT ALL ON {schema}.who TO app"
                ),
            )
            .unwrap();
    }
    for workers in ["workers = 1", "workers = 2"] {
        let bouncer = Bouncer::in_front_of(
            postgres(),
            &["default_pool_size = 1", "track_extra_parameters = search_path, statement_timeout", workers],
        );
        let mut a = client(&bouncer, &[("search_path", "tenant_a")]);
        let mut b = client(&bouncer, &[("search_path", "tenant_b"), ("statement_timeout", "12345")]);
        let mut none = client(&bouncer, &[]);
        let default = postgres().sql_in("app", "SHOW search_path").unwrap().trim().to_owned();
        for _ in 0..5 {
            assert_eq!(a.value("SELECT name FROM who"), "tenant_a");
            assert_eq!(b.value("SELECT name FROM who"), "tenant_b");
            assert_eq!(b.value("SHOW statement_timeout"), "12345ms");
            assert_eq!(none.value("SHOW search_path"), default);
            assert_eq!(none.value("SHOW statement_timeout"), "0");
            assert_eq!(a.value("SHOW statement_timeout"), "0");
        }
        // A reset by one client does not affect the values of the next.
        a.query("DISCARD ALL");
        assert_eq!(b.value("SELECT name FROM who"), "tenant_b");
        assert_eq!(a.value("SELECT name FROM who"), "tenant_a");
    }
}

/// The values reported for these parameters, in order.
fn reports(messages: &[Message], names: &[&str]) -> Vec<(String, String)> {
    let reported = messages.iter().filter(|message| message.tag == b'S');
    let pairs = reported.map(|message| wire::backend::parameter_status(&message.bytes).unwrap());
    let mut found: Vec<_> = pairs
        .filter(|(name, _)| names.contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    found.sort();
    found
}

#[test]
fn after_discard_all_a_client_has_the_values_of_its_startup_packet() {
    let names = ["TimeZone", "application_name", "search_path"];
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let values = [("TimeZone", "Asia/Tokyo"), ("application_name", "first"), ("search_path", "tenant")];
    let parameters = [&[("user", "app"), ("database", "app")], &values[..]].concat();
    let mut direct = Client::log_in_with(postgres().port(), &parameters);
    let mut pooled = client(&bouncer, &values);
    let mut other = bouncer.client();
    let shown = |client: &mut Client| names.map(|name| client.value(&format!("SHOW {name}")));
    let default = shown(&mut other);
    for change in ["SET TimeZone = 'America/Lima'", "SET application_name = 'second'", "SET search_path = x"]
    {
        direct.query(change);
        pooled.query(change);
    }
    for _ in 0..2 {
        let [expected, answer] = [&mut direct, &mut pooled].map(|client| client.query("DISCARD ALL"));
        assert_eq!(reports(&answer, &names), reports(&expected, &names));
        assert_eq!(shown(&mut pooled), values.map(|(_, value)| value));
        assert_eq!(shown(&mut other), default);
        assert_eq!(
            bouncer.show("CLIENTS", "application_name").iter().filter(|name| *name == "first").count(),
            1
        );
    }
    // A value that is set behind it in the same batch is kept.
    let run = |sql: &str| [raw::parse("", sql), raw::bind("", "", &[]), raw::execute()].concat();
    pooled.send(&[run("DISCARD ALL"), run("SET TimeZone = 'America/Lima'"), raw::sync()].concat());
    assert_eq!(tags(&pooled.until_ready()).replace('S', ""), "12C12CZ");
    assert_eq!(other.value("SHOW TimeZone"), default[0]);
    assert_eq!(pooled.value("SHOW TimeZone"), "America/Lima");
}

#[test]
fn values_cannot_escape_their_quotes_in_encodings_with_backslash_as_a_trail_byte() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let names = ["表'; SELECT 1; --", "\u{8868}\\", "ソ'\\'", "plain"];
    let mut clients: Vec<Client> = ["SJIS", "BIG5", "GBK", "UHC", "JOHAB", "UTF8"]
        .iter()
        .zip(names.iter().cycle())
        .map(|(encoding, name)| {
            client(&bouncer, &[("client_encoding", encoding), ("application_name", name)])
        })
        .collect();
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.value("SELECT 1"), "1");
        }
    }
    let seen = postgres()
        .sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND application_name LIKE '%SELECT 1%'")
        .unwrap();
    assert!(seen.trim() == "0" || seen.trim() == "1", "{seen}");
    assert!(!bouncer.log().contains("out of step"));
}

#[test]
fn changed_settings_apply_to_existing_sessions() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session", "default_pool_size = 2"]);
    let (mut a, mut console) = (bouncer.client(), bouncer.console());
    a.send(&[raw::parse("s", "SELECT 'named'"), raw::sync()].concat());
    assert_eq!(tags(&a.until_ready()), "1Z");
    assert_eq!(console.column("SHOW SERVERS", "state"), ["active"]);
    assert_eq!(tags(&console.query("SET pool_mode = 'transaction'")), "CZ");
    assert_eq!(a.value("SELECT 1"), "1");
    crate::support::eventually("the server is released", || {
        console.column("SHOW SERVERS", "state") == ["idle"]
    });
    // The statement belonged to the earlier server session; no other client finds it.
    let mut b = bouncer.client();
    b.send(&[raw::bind("", "s", &[]), raw::execute(), raw::sync()].concat());
    assert_eq!(b.until_ready()[0].error().0, "26000");
    assert_eq!(tags(&console.query("SET max_packet_size = 100000")), "CZ");
    assert_eq!(a.value("SELECT 2"), "2");
    a.send_query(&format!("SELECT '{}'", "x".repeat(200_000)));
    let last = a.until_end();
    assert_eq!(last.last().expect("an error").error().0, "08P01");
}

#[test]
fn a_changed_session_authorization_does_not_reach_other_clients() {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=postgres", postgres().port());
    let bouncer = Start::databases(&databases).set("default_pool_size = 1").set("verbose = 2").start();
    let (mut a, mut b) = (bouncer.client(), bouncer.client());
    let show = "SHOW session_authorization";
    assert_eq!((a.value(show), b.value(show)), ("postgres".to_owned(), "postgres".to_owned()));
    a.query("SET SESSION AUTHORIZATION other");
    for _ in 0..2 {
        assert_eq!((a.value(show), b.value(show)), ("other".to_owned(), "postgres".to_owned()));
    }
    bouncer.wait_for_line("varcache_apply: SET session_authorization='postgres'");
    bouncer.wait_for_line("varcache_apply: SET session_authorization='other'");
    // A parameter that only a superuser may set, besides.
    a.query("RESET SESSION AUTHORIZATION");
    assert_eq!((a.value(show), b.value(show)), ("postgres".to_owned(), "postgres".to_owned()));
    a.query("SET default_transaction_read_only = on");
    assert_eq!(b.value("SHOW transaction_read_only"), "off");
    assert_eq!(a.value("SHOW transaction_read_only"), "on");
    // Without the right to it.
    let plain = Bouncer::in_front_of(postgres(), &[]);
    let options = [("user", "app"), ("database", "app"), ("options", "-c session_authorization=postgres")];
    let mut refused = Client::log_in_with(plain.port, &options);
    refused.send_query("SELECT 1");
    assert_eq!(refused.until_end()[0].error().0, "42501");
}

#[test]
fn an_unreported_parameter_of_the_startup_packet_is_applied_once_and_reset() {
    let settings = ["default_pool_size = 1", "track_extra_parameters = enable_seqscan", "verbose = 2"];
    let bouncer = Bouncer::in_front_of(postgres(), &settings);
    let with = |options: &str| {
        Client::log_in_with(bouncer.port, &[("user", "app"), ("database", "app"), ("options", options)])
    };
    let count = |sql: &str| bouncer.log().matches(&format!("varcache_apply: {sql}")).count();
    let show = "SHOW enable_seqscan";
    let (mut off, mut plain, mut on) =
        (with("-c enable_seqscan=off"), bouncer.client(), with("-c enable_seqscan=on"));
    assert_eq!((off.value(show), off.value(show)), ("off".to_owned(), "off".to_owned()));
    assert_eq!((plain.value(show), plain.value(show)), ("on".to_owned(), "on".to_owned()));
    bouncer.wait_for_line("varcache_apply: RESET enable_seqscan;");
    assert_eq!((count("SET enable_seqscan='off'"), count("RESET enable_seqscan")), (1, 1));
    assert_eq!((on.value(show), off.value(show), on.value(show)), ("on".into(), "off".into(), "on".into()));
}

#[test]
fn the_search_path_of_a_startup_packet_is_that_of_a_direct_connection() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let path = "\"$user\", Public,\"Odd, one\"";
    let mut client =
        Client::log_in_with(bouncer.port, &[("user", "app"), ("database", "app"), ("search_path", path)]);
    assert_eq!(client.value("SHOW search_path"), path);
    assert_eq!(client.value("SELECT current_schemas(false)"), "{public}");
    assert_eq!(bouncer.client().value("SHOW search_path"), "\"$user\", public");
}
