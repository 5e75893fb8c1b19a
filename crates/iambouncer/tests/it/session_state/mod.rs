//! `session_state = follow`: in transaction pooling a client has what it has set, whichever server it gets, or it keeps
//! its server.

mod differential;
mod functions;
mod login_settings;
mod pins;
mod refused_pins;
mod resets;
mod session_pooling;
mod settings;
mod startup;
mod tenants;
mod verified;

use crate::support::raw::{Client, Message};
use crate::support::{Bouncer, eventually, postgres};

/// A pooler with one server, which all clients share: whatever one leaves behind, the next one sees.
fn with_one_server() -> Bouncer {
    Bouncer::in_front_of(postgres(), &["session_state = follow", "default_pool_size = 1"])
}

/// The same with several servers and workers.
fn with_several_servers() -> Bouncer {
    let settings =
        ["session_state = follow", "default_pool_size = 3", "server_round_robin = 1", "workers = 2"];
    Bouncer::in_front_of(postgres(), &settings)
}

/// The SQLSTATE of the error among these messages.
fn code(messages: &[Message]) -> String {
    let error = messages.iter().find(|message| message.tag == b'E');
    error.map(|error| error.error().0).unwrap_or_default()
}

/// The reasons for which clients keep their servers.
fn pins(bouncer: &Bouncer) -> Vec<String> {
    bouncer.show("PINS", "reasons")
}

/// The same when a query of the pooler decides, after the client has its answer.
fn wait_for_pins(bouncer: &Bouncer, reasons: &[&str]) {
    eventually("the reasons are these", || pins(bouncer) == reasons);
}

/// Number of changes that were not recognized.
fn mismatches(bouncer: &Bouncer) -> bool {
    bouncer.log().contains("has changed its session unexpectedly")
}

/// Runs statements, none of which may fail.
fn run(client: &mut Client, statements: &[&str]) {
    for sql in statements {
        let answer = client.query(sql);
        assert_eq!(code(&answer), "", "{sql}");
    }
}
