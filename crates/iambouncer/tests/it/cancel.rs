//! Cancel requests cancel the query they are meant for and no other.

use crate::support::raw::{Client, tags};
use crate::support::{Bouncer, eventually, postgres};

/// Sends a cancel request and waits until it was forwarded.
pub(crate) fn cancel(port: u16, pid: u32, key: &[u8]) {
    let mut request = Vec::new();
    wire::encode::cancel_request(&mut request, pid, key);
    let mut connection = Client::connect(port);
    connection.send(&request);
    assert_eq!(connection.read(), None);
}

#[test]
fn a_running_query_is_canceled() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let (pid, key) = client.cancel_key();
    client.send_query("SELECT pg_sleep(60)");
    let mut console = bouncer.console();
    eventually("the query runs", || console.column("SHOW SERVERS", "state") == ["active"]);
    eventually("the server has begun", || {
        postgres()
            .sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'")
            .unwrap()
            .trim()
            == "1"
    });
    cancel(bouncer.port, pid, &key);
    let messages = client.until_ready();
    assert_eq!(messages.iter().find(|m| m.tag == b'E').unwrap().error().0, "57014");
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn a_waiting_query_is_canceled_without_a_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut holder = bouncer.client();
    holder.query("BEGIN");
    let mut client = bouncer.client();
    let (pid, key) = client.cancel_key();
    client.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    cancel(bouncer.port, pid, &key);
    let messages = client.until_ready();
    assert_eq!(tags(&messages), "EZ");
    assert_eq!(messages[0].error().0, "57014");
    holder.query("COMMIT");
    assert_eq!(client.value("SELECT 2"), "2");
}

#[test]
fn the_query_after_a_cancel_request_is_not_canceled() {
    for settings in [&["default_pool_size = 1"][..], &["pool_mode = session"], &["workers = 2"]] {
        let bouncer = Bouncer::in_front_of(postgres(), settings);
        let mut client = bouncer.client();
        let (pid, key) = client.cancel_key();
        for n in 0..60 {
            // The query ends at about the time the request arrives.
            client.send_query("SELECT pg_sleep(0.001)");
            cancel(bouncer.port, pid, &key);
            let first = tags(&client.until_ready());
            assert!(first == "TDCZ" || first.ends_with("EZ"), "{first}");
            let next = tags(&client.query("SELECT pg_sleep(0.002)"));
            assert_eq!(next, "TDCZ", "query {n} behind a cancel request");
        }
    }
}

#[test]
fn a_wrong_key_does_nothing() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let (pid, mut key) = client.cancel_key();
    key[0] ^= 1;
    client.send_query("SELECT pg_sleep(0.3)");
    cancel(bouncer.port, pid, &key);
    // Protocol 3.2 permits such keys, but no client of the pooler has one.
    cancel(bouncer.port, pid, &[key, vec![0; 28]].concat());
    cancel(bouncer.port, pid, &[0; 256]);
    assert_eq!(tags(&client.until_ready()), "TDCZ");
}

#[test]
fn a_late_cancel_never_hits_the_next_client() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut first = bouncer.client();
    let mut second = bouncer.client();
    let (pid, key) = first.cancel_key();
    for _ in 0..50 {
        first.send_query("SELECT 1");
        // The request races with the end of the query; the next client of the server must not be affected.
        let port = bouncer.port;
        let key = key.clone();
        let racing = std::thread::spawn(move || cancel(port, pid, &key));
        let answer = tags(&first.until_ready());
        assert!(answer == "TDCZ" || answer.ends_with("EZ"), "{answer}");
        assert_eq!(tags(&second.query("SELECT pg_sleep(0.01)")), "TDCZ");
        racing.join().unwrap();
    }
    assert_eq!(bouncer.show("SERVERS", "state"), ["idle"]);
}
