//! Errors that clients receive: the texts of PgBouncer, with the SQLSTATE of the table.

use crate::support::raw::{self, Client, Message};
use crate::support::{Bouncer, bouncer::Start, postgres};
use iambouncer::client_error::messages::MESSAGES;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// The texts that a test has received.
#[derive(Default)]
struct Received(RefCell<BTreeSet<&'static str>>);

impl Received {
    /// The message is an error with this text, in which `argument` stands for a name, and with its SQLSTATE.
    #[track_caller]
    fn expect(&self, message: &Message, text: &str, argument: &str) {
        let row = MESSAGES.iter().find(|row| row.text == text).unwrap_or_else(|| panic!("{text}: no row"));
        let expected = (row.code.to_owned(), row.text.replace("%s", argument));
        assert_eq!(message.error(), expected);
        self.0.borrow_mut().insert(row.text);
    }
}

fn last(client: &mut Client) -> Message {
    client.until_end().into_iter().rfind(|message| message.tag == b'E').expect("an error")
}

/// The answer to a startup packet with these parameters.
fn refusal(bouncer: &Bouncer, parameters: &[(&str, &str)]) -> Message {
    last(&mut Client::start(bouncer.port, parameters))
}

fn password(text: &str) -> Vec<u8> {
    let mut message = Vec::new();
    wire::encode::password(&mut message, text);
    message
}

#[test]
fn refused_startup_packets() {
    let received = Received::default();
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let with = |more: (&str, &str)| refusal(&bouncer, &[("user", "app"), ("database", "app"), more]);
    received.expect(&with(("a_b", "1")), "unsupported startup parameter: %s", "a_b");
    let text = "unsupported startup parameter in options: %s";
    received.expect(&with(("options", "-c enable_seqscan=false")), text, "enable_seqscan");
    let text = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
    for options in ["-d", "-c timezone"] {
        received.expect(&with(("options", options)), text, "");
    }
    received.expect(&refusal(&bouncer, &[("database", "app")]), "no username supplied", "");
    let nowhere = refusal(&bouncer, &[("user", "app"), ("database", "dne")]);
    received.expect(&nowhere, "no such database: %s", "dne");
    let unknown = refusal(&bouncer, &[("user", "ghost"), ("database", "app")]);
    received.expect(&unknown, "\"trust\" authentication failed", "");
    received.expect(&refusal(&bouncer, &[("user", "other"), ("database", "pgbouncer")]), "not allowed", "");
    bouncer.console().query("DISABLE app");
    received.expect(&with(("DateStyle", "ISO")), "database \"%s\" is disabled", "app");
    for (request, text) in [
        (80_877_103_u32, "received unencrypted data after SSL request"),
        (80_877_104, "received unencrypted data after GSSAPI encryption request"),
    ] {
        let mut client = Client::connect(bouncer.port);
        client.send(&[&8_u32.to_be_bytes()[..], &request.to_be_bytes(), b"more"].concat());
        received.expect(&last(&mut client), text, "");
    }
    assert_eq!(received.0.borrow().len(), 10);
}

#[test]
fn refused_passwords() {
    let received = Received::default();
    for (method, answer, text) in [
        ("plain", password("wrong"), "password authentication failed"),
        ("plain", password(""), "empty password returned by client"),
        ("md5", password("md5x"), "password authentication failed"),
        ("scram-sha-256", sasl("PLAIN"), "client selected an invalid SASL authentication mechanism"),
        ("scram-sha-256", raw::sync(), "unknown pkt"),
    ] {
        let bouncer = Bouncer::in_front_of(postgres(), &[&format!("auth_type = {method}")]);
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.expect(b'R');
        client.send(&answer);
        received.expect(&last(&mut client), text, "");
    }
}

fn sasl(mechanism: &str) -> Vec<u8> {
    let mut message = Vec::new();
    wire::encode::sasl_initial(&mut message, mechanism, b"n,,n=,r=abc");
    message
}

#[test]
fn limits_of_clients() {
    let received = Received::default();
    for (setting, text) in [
        ("max_client_conn", "no more connections allowed (max_client_conn)"),
        ("max_db_client_connections", "client connections exceeded (max_db_client_connections)"),
        ("max_user_client_connections", "client connections exceeded (max_user_client_connections)"),
    ] {
        let bouncer = Bouncer::in_front_of(postgres(), &[&format!("{setting} = 1")]);
        let _client = bouncer.client();
        let refused = refusal(&bouncer, &[("user", "app"), ("database", "app")]);
        received.expect(&refused, text, "");
        assert_eq!(refused.detail(), "The limit is 1.");
    }
}

#[test]
fn limits_of_time() {
    let received = Received::default();
    for (setting, query, text) in [
        ("query_timeout = 0.5", "SELECT pg_sleep(60)", "query timeout"),
        ("idle_transaction_timeout = 0.5", "BEGIN", "idle transaction timeout"),
        ("transaction_timeout = 0.5", "BEGIN", "transaction timeout"),
        ("client_idle_timeout = 0.5", "SELECT 1", "client_idle_timeout"),
    ] {
        let bouncer = Bouncer::in_front_of(postgres(), &[setting]);
        let mut client = bouncer.client();
        client.send_query(query);
        received.expect(&last(&mut client), text, "");
    }
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1", "query_wait_timeout = 0.5"]);
    let (mut holder, mut waiting) = (bouncer.client(), bouncer.client());
    holder.query("BEGIN");
    waiting.send_query("SELECT 1");
    received.expect(&last(&mut waiting), "query_wait_timeout", "");
    let bouncer = Bouncer::in_front_of(postgres(), &["auth_type = plain", "client_login_timeout = 0.5"]);
    let mut silent = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    received.expect(&last(&mut silent), "client_login_timeout", "");
}

#[test]
fn sessions_that_end() {
    let received = Received::default();
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    for (bytes, text) in [(&b"!\0\0\0\x04"[..], "unknown pkt"), (b"Q\0\0\0\x03", "failed to parse packet")] {
        let mut client = bouncer.client();
        client.send(bytes);
        received.expect(&last(&mut client), text, "");
    }
    let line = format!("app = host=127.0.0.1 port={} dbname=app\nextra = host=127.0.0.1", postgres().port());
    let bouncer = Start::databases(&line).start();
    let mut console = bouncer.console();
    let mut client = bouncer.client();
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    std::fs::write(bouncer.ini(), text.replace("app = host", "renamed = host")).unwrap();
    console.query("RELOAD");
    received.expect(&last(&mut client), "database removed", "");
    std::fs::write(bouncer.ini(), text).unwrap();
    console.query("RELOAD");
    let mut client = bouncer.client();
    client.query("BEGIN");
    console.send_query("SHUTDOWN");
    received.expect(&last(&mut client), "server shutting down", "");
}

#[test]
fn statement_pooling_and_values_that_the_server_refuses() {
    let received = Received::default();
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = statement"]);
    let begun = bouncer.client().query("BEGIN");
    received.expect(&begun[0], "transaction blocks not allowed in statement pooling mode", "");
    let mut client =
        Client::log_in_with(bouncer.port, &[("user", "app"), ("database", "app"), ("TimeZone", "Nowhere")]);
    client.send_query("SELECT 1");
    let refused = last(&mut client);
    received.expect(&refused, "invalid server parameter", "");
    assert!(refused.detail().contains("Nowhere"), "{}", refused.detail());
}

#[test]
fn the_log_has_the_detail() {
    let bouncer = Bouncer::in_front_of(postgres(), &["max_db_client_connections = 1"]);
    let _client = bouncer.client();
    refusal(&bouncer, &[("user", "app"), ("database", "app")]);
    let line = bouncer.wait_for_line("pooler error: client connections exceeded (max_db_client_connections)");
    assert!(line.contains("detail=\"The limit is 1.\""), "{line}");
}
