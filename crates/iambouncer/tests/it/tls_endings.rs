//! The end of TLS sessions: the client can distinguish it from a cut connection.

use crate::support::bouncer::Start;
use crate::support::postgres;
use crate::support::raw;
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{Bouncer, Client};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use wire::encode;

struct Fixture {
    tls: ClientSide,
    bouncer: Bouncer,
}

impl Fixture {
    fn new(settings: &[&str]) -> Self {
        let tls = ClientSide::new();
        let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
        let start = tls.set(Start::databases(&databases), "allow");
        let bouncer = settings.iter().fold(start, |start, line| start.set(line)).start();
        Self { tls, bouncer }
    }

    fn client(&self, database: &str, user: &str) -> TlsClient {
        TlsClient::log_in(self.bouncer.port, self.tls.config(), user, database).unwrap()
    }

    fn console(&self) -> Client {
        self.bouncer.console()
    }
}

/// Reads to the end, which must be a close_notify. Returns the tags of the messages.
fn end(mut client: TlsClient) -> String {
    let messages = client.until_end().expect("close_notify");
    raw::tags(&messages)
}

#[test]
fn a_session_that_the_client_terminates_closes_with_close_notify() {
    let fixture = Fixture::new(&[]);
    for queries in [0, 1, 3] {
        let mut client = fixture.client("app", "app");
        (0..queries).for_each(|_| assert_eq!(client.value("SELECT 1"), "1"));
        client.send(&raw::terminate()).unwrap();
        assert_eq!(end(client), "");
    }
    let mut client = fixture.client("pgbouncer", "postgres");
    client.send(&raw::terminate()).unwrap();
    assert_eq!(end(client), "");
}

#[test]
fn a_session_that_the_pooler_ends_closes_with_close_notify() {
    let fixture = Fixture::new(&["client_idle_timeout = 0"]);
    let killed = fixture.client("app", "app");
    let ids = fixture.console().column("SHOW CLIENTS", "id");
    fixture.console().query(&format!("KILL_CLIENT {}", ids[0]));
    assert_eq!(end(killed), "E");
    // Unread bytes do not change that.
    let mut strange = fixture.client("app", "app");
    strange.send(&[b"!\0\0\0\x04".as_slice(), &[0; 5000]].concat()).unwrap();
    assert_eq!(end(strange), "E");
    let mut terminated = fixture.client("app", "app");
    terminated.query("BEGIN");
    let pid = terminated.value("SELECT pg_backend_pid()");
    postgres().sql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    assert_eq!(end(terminated), "E");
    let mut self_terminated = fixture.client("app", "app");
    self_terminated.send(&raw::query("SELECT pg_terminate_backend(pg_backend_pid())")).unwrap();
    assert!(end(self_terminated).ends_with('E'));
}

#[test]
fn unread_bytes_do_not_prevent_close_notify() {
    let fixture = Fixture::new(&[]);
    for rows in [1, 100_000] {
        for behind in [0, 1, 20_000, 400_000] {
            let mut client = fixture.client("app", "app");
            let query = raw::query(&format!("SELECT generate_series(1, {rows})"));
            // The pooler may close the connection before everything was sent.
            let _ = client.send(&[query, raw::terminate(), vec![0; behind]].concat());
            end(client);
        }
    }
}

/// Accepts any client, and answers its query with a FATAL error.
fn serve_no_query(mut stream: TcpStream) {
    let read = |stream: &mut TcpStream| stream.read(&mut [0; 4096]).unwrap_or(0);
    read(&mut stream);
    let mut greeting = Vec::new();
    encode::authentication_ok(&mut greeting);
    encode::backend_key_data(&mut greeting, 1, &[1, 2, 3, 4]);
    encode::ready_for_query(&mut greeting);
    let _ = stream.write_all(&greeting);
    if read(&mut stream) > 0 {
        let mut answer = Vec::new();
        iambouncer::client_error::killed().encode_fatal(&mut answer);
        let _ = stream.write_all(&answer);
    }
}

#[test]
fn a_session_closes_with_close_notify_when_its_server_closes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(|| serve_no_query(stream));
        }
    });
    let tls = ClientSide::new();
    let databases = format!("app = host=127.0.0.1 port={port}");
    let bouncer = tls.set(Start::databases(&databases).set("server_tls_sslmode = disable"), "allow").start();
    for _ in 0..30 {
        let mut client = TlsClient::log_in(bouncer.port, tls.config(), "app", "app").unwrap();
        client.send(&raw::query("SELECT 1")).unwrap();
        assert_eq!(end(client), "E");
    }
}

#[test]
fn a_refused_login_closes_with_close_notify() {
    let fixture = Fixture::new(&[]);
    let mut client = TlsClient::connect(fixture.bouncer.port, fixture.tls.config()).unwrap();
    let mut packet = Vec::new();
    encode::startup(&mut packet, wire::startup::Version::V3_0, &[("user", "ghost"), ("database", "app")]);
    client.send(&packet).unwrap();
    assert_eq!(end(client), "E");
}

#[test]
fn a_shutdown_closes_sessions_with_close_notify() {
    let mut fixture = Fixture::new(&[]);
    let mut client = fixture.client("app", "app");
    assert_eq!(client.value("SELECT 1"), "1");
    fixture.bouncer.signal(Signal::QUIT);
    assert_eq!(end(client), "E");
    fixture.bouncer.wait_for_end();
}
