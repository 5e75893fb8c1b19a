//! RESET, SET … TO DEFAULT and DISCARD ALL return to the values of the client's own startup packet, as on a direct
//! connection.

use super::{code, pins, run, with_one_server};
use crate::support::raw::{self, Client};
use crate::support::{Bouncer, postgres};

const STARTUP: [(&str, &str); 5] = [
    ("user", "app"),
    ("database", "app"),
    ("application_name", "mine"),
    ("options", "-c statement_timeout=5s -c app.tenant=a"),
    ("DateStyle", "German"),
];

/// A pooler for transaction pooling, and one for session pooling.
fn poolers() -> [Bouncer; 2] {
    let settings = ["session_state = follow", "pool_mode = session", "default_pool_size = 3"];
    [with_one_server(), Bouncer::in_front_of(postgres(), &settings)]
}

fn values(client: &mut Client) -> Vec<String> {
    ["application_name", "statement_timeout", "app.tenant", "datestyle", "work_mem"]
        .map(|name| client.value(&format!("SELECT current_setting('{name}', true)")))
        .into()
}

#[test]
fn a_reset_returns_to_the_startup_values_as_on_a_direct_connection() {
    for bouncer in poolers() {
        for reset in [
            &["RESET ALL"][..],
            &["RESET statement_timeout", "SET app.tenant TO DEFAULT"],
            &["RESET application_name; RESET datestyle"],
            &["DISCARD ALL"],
            &["BEGIN", "RESET ALL", "COMMIT"],
            &["BEGIN", "RESET ALL", "ROLLBACK"],
            &[
                "BEGIN",
                "SAVEPOINT s",
                "RESET statement_timeout",
                "ROLLBACK TO s",
                "RESET app.tenant",
                "COMMIT",
            ],
        ] {
            let mut direct = Client::log_in_with(crate::support::postgres().port(), &STARTUP);
            let mut pooled = Client::log_in_with(bouncer.port, &STARTUP);
            let mut other = bouncer.client();
            for client in [&mut direct, &mut pooled] {
                run(
                    client,
                    &[
                        "SET application_name = 'other'",
                        "SET statement_timeout = 1000",
                        "SET app.tenant = 'x'",
                        "SET datestyle = 'ISO'",
                        "SET work_mem = '1MB'",
                    ],
                );
                other.value("SELECT 1");
                run(client, reset);
                other.value("SELECT 1");
            }
            assert_eq!(values(&mut pooled), values(&mut direct), "{reset:?}");
            assert_eq!(pooled.value("SHOW application_name"), direct.value("SHOW application_name"));
        }
        assert!(pins(&bouncer).is_empty());
    }
}

#[test]
fn requests_sent_behind_a_reset_have_the_startup_values() {
    for bouncer in poolers() {
        let mut client = Client::log_in_with(bouncer.port, &STARTUP);
        run(&mut client, &["SET statement_timeout = 1000"]);
        client.send(&[raw::query("RESET ALL"), raw::query("SHOW statement_timeout")].concat());
        client.until_ready();
        let answer = client.until_ready();
        assert_eq!(answer.iter().find(|message| message.tag == b'D').unwrap().row(), [Some("5s".to_owned())]);
    }
}

#[test]
fn a_failed_reset_changes_nothing() {
    for bouncer in poolers() {
        let mut client = Client::log_in_with(bouncer.port, &STARTUP);
        run(&mut client, &["SET statement_timeout = 1000"]);
        assert_eq!(code(&client.query("RESET statement_timeout; SELECT 1/0")), "22012");
        assert_eq!(client.value("SHOW statement_timeout"), "1s");
        run(&mut client, &["BEGIN"]);
        assert_eq!(code(&client.query("DISCARD ALL")), "25001");
        run(&mut client, &["ROLLBACK"]);
        assert_eq!(client.value("SHOW statement_timeout"), "1s");
    }
}

#[test]
fn a_discard_in_a_batch_returns_to_the_startup_values() {
    for bouncer in poolers() {
        let mut client = Client::log_in_with(bouncer.port, &STARTUP);
        let one = |sql: &str| [raw::parse("", sql), raw::bind("", "", &[]), raw::execute()].concat();
        for before in ["SELECT 1", "PREPARE in_sql AS SELECT 1", "SET datestyle = 'ISO'"] {
            run(&mut client, &[before]);
            client.send(&[one("DISCARD ALL"), one("SET work_mem = '3MB'"), raw::sync()].concat());
            assert_eq!(code(&client.until_ready()), "");
            run(&mut client, &["BEGIN", "SET datestyle = 'SQL'", "ROLLBACK"]);
            assert_eq!(client.value("SHOW datestyle"), "German, DMY", "{before}");
            assert_eq!(client.value("SHOW work_mem"), "3MB");
            assert_eq!(client.value("SHOW statement_timeout"), "5s");
        }
    }
}

#[test]
fn a_value_in_another_spelling_is_reported_after_a_reset() {
    for bouncer in poolers() {
        let parameters =
            [("user", "app"), ("database", "app"), ("options", "-c default_transaction_read_only=false")];
        let mut client = Client::log_in_with(bouncer.port, &parameters);
        run(&mut client, &["SET default_transaction_read_only = on", "RESET ALL"]);
        bouncer.client().value("SELECT 1");
        assert_eq!(client.value("SHOW transaction_read_only"), "off");
    }
}
