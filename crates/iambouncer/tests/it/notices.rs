//! NOTICEs of the pooler: after the login, and to clients that wait for a server.

use crate::support::bouncer::Start;
use crate::support::raw::{Client, Message, bind, execute, parse, sync, tags};
use crate::support::scripted::{self, First, message, ready};
use crate::support::{Bouncer, postgres};

const WAITING: &str = "No server connection available in postgres backend, client being queued";

/// Severity, SQLSTATE and text of a NOTICE.
fn notice(message: &Message) -> (String, String, String) {
    assert_eq!(message.tag, b'N');
    let fields = wire::backend::error_fields(&message.bytes).unwrap();
    (fields.severity.into_owned(), fields.code.into_owned(), fields.message.into_owned())
}

fn waiting() -> (String, String, String) {
    ("NOTICE".to_owned(), "00000".to_owned(), WAITING.to_owned())
}

#[test]
fn a_waiting_client_receives_one_notice_per_wait() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "query_wait_notify = 0.3"]);
    let mut holder = bouncer.client();
    let mut client = bouncer.client();
    for round in 0..2 {
        holder.query("BEGIN");
        // The pooler answers the second Parse itself.
        client.send(&[parse("", "SELECT 1"), bind("", "", &[]), execute(), sync()].concat());
        assert_eq!(notice(&client.expect(b'N')), waiting(), "round {round}");
        // Longer than the janitor's interval, so that a second one would be seen.
        holder.query("SELECT pg_sleep(0.7)");
        holder.query("COMMIT");
        assert_eq!(tags(&client.until_ready()), "12DCZ");
    }
    bouncer.console().query("SET query_wait_notify = 0");
    holder.query("BEGIN");
    client.send_query("SELECT 1");
    holder.query("SELECT pg_sleep(0.7)");
    holder.query("COMMIT");
    assert_eq!(tags(&client.until_ready()), "TDCZ");
}

#[test]
fn a_client_that_waits_for_its_startup_response_is_notified_after_authentication_ok() {
    let (admit, may_admit) = std::sync::mpsc::channel::<()>();
    let may_admit = std::sync::Mutex::new(may_admit);
    let port = scripted::serve(move |mut connection| {
        let First::Startup = connection.first()? else { return Ok(()) };
        let _ = may_admit.lock().unwrap().recv();
        connection.admit(1)?;
        while connection.message().is_ok() {
            connection.send(&[message(b'C', b"SELECT 0\0"), ready(b'I')].concat())?;
        }
        Ok(())
    });
    let line = format!("app = host=127.0.0.1 port={port}");
    let bouncer =
        Start::databases(&line).set("query_wait_notify = 0.1").set("login_notify_message = welcome").start();
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    assert_eq!(client.expect(b'R').bytes[5..], [0; 4]);
    assert_eq!(notice(&client.expect(b'N')), waiting());
    admit.send(()).unwrap();
    let rest = client.until_ready();
    assert_eq!(tags(&rest).replace('S', ""), "NKZ");
    assert_eq!(notice(rest.iter().find(|message| message.tag == b'N').unwrap()).2, "welcome");
    assert_eq!(tags(&client.query("SELECT 1")), "CZ");
    // The next client need not wait.
    let next = bouncer.client();
    assert_eq!(tags(&next.greeting).replace('S', ""), "RNKZ");
}

#[test]
fn a_refusal_can_follow_the_notice() {
    let port = scripted::serve(|mut connection| {
        if let First::Startup = connection.first()? {
            while connection.message().is_ok() {}
        }
        Ok(())
    });
    let line = format!("app = host=127.0.0.1 port={port}");
    let bouncer =
        Start::databases(&line).set("query_wait_notify = 0.1").set("query_wait_timeout = 1").start();
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let received = client.until_end();
    assert_eq!(tags(&received), "RNE");
    assert_eq!(received[2].error().1, "query_wait_timeout");
}

#[test]
fn a_login_notice_precedes_ready_for_query_and_follows_reload() {
    let bouncer = Bouncer::in_front_of(postgres(), &["login_notify_message = You have reached the pooler"]);
    let greeting = bouncer.client().greeting;
    let found = greeting.iter().find(|message| message.tag == b'N').unwrap();
    assert_eq!(notice(found).2, "You have reached the pooler");
    bouncer.console().query("SET login_notify_message = ''");
    assert!(!tags(&bouncer.client().greeting).contains('N'));
}
