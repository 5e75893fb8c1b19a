//! Startup parameters that servers do not report: each client runs with its own values.

use crate::support::raw::{self, Client, tags};
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
