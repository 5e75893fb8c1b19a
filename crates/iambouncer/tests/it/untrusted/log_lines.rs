//! Untrusted names, values and messages are logged as one line of printable text.

use crate::support::bouncer::Start;
use crate::support::raw::Client;
use crate::support::{Bouncer, postgres};
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// A name with a line break, terminal escape sequences in both forms, and a forged line.
const NAME: &str = "x\u{1b}[2J\u{9b}31m\r\n2030-01-01T00:00:00.000000Z  INFO client login user=root";

fn expect_clean(log: &str) {
    let is_bad = |c: char| c.is_control() && c != '\n';
    assert!(!log.chars().any(is_bad), "{log:?}");
    assert!(!log.lines().any(|line| line.starts_with("2030-")), "{log}");
}

#[test]
fn names_of_a_client_cannot_forge_a_log_line() {
    let databases = format!("* = host=127.0.0.1 port={} user=app", postgres().port());
    let bouncer = Start::databases(&databases).set("auth_type = any").set("log_connections = 1").start();
    let parameters: [&[(&str, &str)]; 4] = [
        &[("user", NAME), ("database", "app")],
        &[("user", "app"), ("database", NAME)],
        &[("user", "app"), ("database", "app"), (NAME, "1")],
        &[("user", "app"), ("database", "app"), ("client_encoding", NAME)],
    ];
    for parameters in parameters {
        Client::start(bouncer.port, parameters).until_ready();
    }
    let mut client = bouncer.client();
    client.query(&format!("set application_name = '{NAME}'"));
    drop(client);
    bouncer.wait_for_line("unsupported startup parameter: x\\x1b[2J\\u{9b}31m\\r\\n2030");
    expect_clean(&bouncer.log());
}

#[test]
fn messages_of_a_server_cannot_forge_a_log_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut fields = format!("SFATAL\0C28000\0M{NAME}\0\0").into_bytes();
            let mut message = vec![b'E'];
            message.extend_from_slice(&(fields.len() as u32 + 4).to_be_bytes());
            message.append(&mut fields);
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(&message);
        }
    });
    let databases = format!("app = host=127.0.0.1 port={port} user=app password=x");
    let bouncer = Start::databases(&databases).set("server_tls_sslmode = disable").start();
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    // The client receives the server's text unchanged.
    assert!(client.expect(b'E').error().1.contains('\u{1b}'));
    bouncer.wait_for_line("x\\x1b[2J\\u{9b}31m\\r\\n2030");
    expect_clean(&bouncer.log());
}

#[test]
fn a_refused_reload_logs_one_line_per_error() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    std::fs::write(bouncer.ini(), "[pgbouncer]\npool_mode = \u{1b}[2Jx\n").unwrap();
    bouncer.signal(rustix::process::Signal::HUP);
    bouncer.wait_for_line("configuration not reloaded");
    bouncer.wait_for_line("\\x1b[2Jx");
    expect_clean(&bouncer.log());
}
