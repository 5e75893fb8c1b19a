//! PostgreSQL 18.4 answers a Sync after a batch without Sync and a simple query as if it were idle, but has not ended the
//! transaction, and fails the next command once. That command must not be another client's. Other versions end the
//! transaction; there the tests prove that nothing is closed in vain.

use crate::support::raw::{self, Client, Message, tags};
use crate::support::{Bouncer, postgres};

const WARNING: &str = "nothing has ended its transaction";

/// A batch without a Sync, then a simple query.
fn batch_and_query() -> Vec<u8> {
    let batch = [raw::parse("", "SELECT 'batch'"), raw::bind("", "", &[]), raw::execute()].concat();
    [batch, raw::query("SELECT 'simple'")].concat()
}

fn statuses(messages: &[Message]) -> String {
    messages
        .iter()
        .filter(|message| message.tag == b'Z')
        .map(|message| char::from(message.bytes[5]))
        .collect()
}

/// True if the server leaves the transaction open, as seen by this client.
fn leaves_transaction_open(client: &mut Client, messages: &[u8]) -> bool {
    client.send(messages);
    let mut answers = client.until_ready();
    answers.extend(client.until_ready());
    match statuses(&answers).as_str() {
        "TI" => true,
        "II" => false,
        other => panic!("{other}"),
    }
}

fn the_next_client_is_not_affected(settings: &[&str], messages: &[u8]) {
    let bouncer = Bouncer::in_front_of(postgres(), &[settings, &["default_pool_size = 1"]].concat());
    let (mut client, mut next) = (bouncer.client(), bouncer.client());
    let is_left_open = leaves_transaction_open(&mut client, messages);
    if settings.contains(&"pool_mode = session") {
        client.send(&raw::terminate());
    }
    assert_eq!(next.value("SELECT 'next'"), "next");
    if is_left_open {
        bouncer.wait_for_line(WARNING);
        bouncer.wait_for_line("closing because: unclean server");
    } else {
        assert!(!bouncer.log().contains("unclean server"), "{}", bouncer.log());
    }
}

#[test]
fn the_error_of_a_transaction_left_open_does_not_reach_the_next_client() {
    the_next_client_is_not_affected(&["pool_mode = transaction"], &[batch_and_query(), raw::sync()].concat());
}

#[test]
fn the_error_of_a_transaction_left_open_does_not_reach_the_next_client_after_a_close() {
    let messages = [batch_and_query(), raw::close_statement("none"), raw::sync()].concat();
    the_next_client_is_not_affected(&["pool_mode = transaction"], &messages);
}

#[test]
fn the_error_of_a_transaction_left_open_does_not_reach_the_reset_query_of_a_session() {
    the_next_client_is_not_affected(&["pool_mode = session"], &[batch_and_query(), raw::sync()].concat());
}

#[test]
fn a_server_is_used_again_after_the_error_of_a_transaction_left_open() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session", "default_pool_size = 1"]);
    let mut client = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    let is_left_open = leaves_transaction_open(&mut client, &[batch_and_query(), raw::sync()].concat());
    // As on a direct connection, the client itself receives the error, once.
    let answer = client.query("SELECT 'own'");
    assert_eq!(tags(&answer), if is_left_open { "EZ" } else { "TDCZ" });
    assert_eq!(client.value("SELECT 'own'"), "own");
    client.send(&raw::terminate());
    assert_eq!(bouncer.client().value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn a_transaction_that_a_batch_ends_does_not_close_its_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut client = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    for end in ["COMMIT", "ROLLBACK"] {
        let run = [raw::parse("", end), raw::bind("", "", &[]), raw::execute(), raw::sync()].concat();
        client.send(&[raw::query("BEGIN"), raw::sync(), run].concat());
        let answers: Vec<Message> = (0..3).flat_map(|_| client.until_ready()).collect();
        assert_eq!(statuses(&answers), "TTI");
    }
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
    assert!(!bouncer.log().contains(WARNING), "{}", bouncer.log());
}
