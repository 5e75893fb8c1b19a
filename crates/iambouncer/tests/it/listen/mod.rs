//! `shared_listener`: clients of a pool that listen share one connection, and see what they would see on their own.

mod changes;
mod commands;
mod delivery;
mod drivers;
mod programs;
mod trouble;

use crate::support::raw::{Client, Message};
use crate::support::{Bouncer, eventually, postgres};

/// A pooler whose pool has this many servers.
fn with_servers(servers: usize, settings: &[&str]) -> Bouncer {
    let size = format!("default_pool_size = {servers}");
    Bouncer::in_front_of(postgres(), &[&["session_state = follow", &*size], settings].concat())
}

/// A session of its own on the server.
fn direct() -> Client {
    Client::log_in(postgres().port(), "app", "app")
}

/// The SQLSTATE of the error among these messages.
fn code(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == b'E');
    error.map(|error| error.error().0).unwrap_or_default()
}

fn run(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        let answer = client.query(sql);
        assert_eq!(code(&answer), "", "{sql}");
    }
}

/// Channel and payload.
fn notification(message: &Message) -> (String, String) {
    assert_eq!(message.tag as char, 'A');
    let text = String::from_utf8_lossy(&message.bytes[9..]).into_owned();
    let mut parts = text.split('\0').map(str::to_owned);
    (parts.next().unwrap(), parts.next().unwrap())
}

/// The payload of the next message, which is a notification.
fn payload(client: &mut Client) -> String {
    notification(&client.expect(b'A')).1
}

/// The payloads among these messages.
fn payloads(messages: &[Message]) -> Vec<String> {
    messages.iter().filter(|message| message.tag == b'A').map(|message| notification(message).1).collect()
}

/// Waits until no client keeps a server: those that listen share the listener.
fn shared(bouncer: &Bouncer) {
    eventually("the clients share the listener", || {
        bouncer.show("SERVERS", "state").contains(&"listen".to_owned())
            && bouncer.show("PINS", "reasons").is_empty()
    });
}

/// A client that listens on a channel through the shared listener.
fn sharing(bouncer: &Bouncer, channel: &str) -> Client {
    let mut client = bouncer.client();
    run(&mut client, &[&format!("LISTEN {channel}")]);
    shared(bouncer);
    client
}

/// Sends the client everything that was sent before, and returns it: a last notification ends it.
fn drained(client: &mut Client, sender: &mut Client, channel: &str) -> Vec<String> {
    run(sender, &[&format!("NOTIFY {channel}, 'end of test'")]);
    let mut seen = Vec::new();
    loop {
        match payload(client) {
            end if end == "end of test" => return seen,
            other => seen.push(other),
        }
    }
}
