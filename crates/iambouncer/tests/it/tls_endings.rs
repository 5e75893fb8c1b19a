//! How encrypted sessions end: the client can tell the end from a connection that was cut.

use crate::support::bouncer::Start;
use crate::support::postgres;
use crate::support::raw;
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{Bouncer, Client};
use rustix::process::Signal;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use wire::encode;

struct Stage {
    tls: ClientSide,
    bouncer: Bouncer,
}

impl Stage {
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

/// Reads to the end, which has to be one of TLS. Returns the messages as tags.
fn end(mut client: TlsClient) -> String {
    let messages = client.until_end().expect("close_notify");
    raw::tags(&messages)
}

#[test]
fn a_session_that_the_client_ends_closes_with_close_notify() {
    let stage = Stage::new(&[]);
    for queries in [0, 1, 3] {
        let mut client = stage.client("app", "app");
        (0..queries).for_each(|_| assert_eq!(client.value("SELECT 1"), "1"));
        client.send(&raw::terminate()).unwrap();
        assert_eq!(end(client), "");
    }
    let mut client = stage.client("pgbouncer", "postgres");
    client.send(&raw::terminate()).unwrap();
    assert_eq!(end(client), "");
}

#[test]
fn a_session_that_is_ended_closes_with_close_notify() {
    let stage = Stage::new(&["client_idle_timeout = 0"]);
    let killed = stage.client("app", "app");
    let ids = stage.console().column("SHOW CLIENTS", "id");
    stage.console().query(&format!("KILL_CLIENT {}", ids[0]));
    assert_eq!(end(killed), "E");
    // Bytes that nobody will read do not change that.
    let mut strange = stage.client("app", "app");
    strange.send(&[b"!\0\0\0\x04".as_slice(), &[0; 5000]].concat()).unwrap();
    assert_eq!(end(strange), "E");
    let mut terminated = stage.client("app", "app");
    terminated.query("BEGIN");
    let pid = terminated.value("SELECT pg_backend_pid()");
    postgres().sql(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    assert_eq!(end(terminated), "E");
    let mut suicide = stage.client("app", "app");
    suicide.send(&raw::query("SELECT pg_terminate_backend(pg_backend_pid())")).unwrap();
    assert!(end(suicide).ends_with('E'));
}

#[test]
fn bytes_that_nobody_reads_do_not_keep_a_session_from_closing_with_close_notify() {
    let stage = Stage::new(&[]);
    for rows in [1, 100_000] {
        for behind in [0, 1, 20_000, 400_000] {
            let mut client = stage.client("app", "app");
            let query = raw::query(&format!("SELECT generate_series(1, {rows})"));
            // The other side may have seen enough before all of it is sent.
            let _ = client.send(&[query, raw::terminate(), vec![0; behind]].concat());
            end(client);
        }
    }
}

/// Logs anybody in, and answers a query by ending.
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
fn a_server_that_ends_at_once_leaves_a_session_that_closes_with_close_notify() {
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
fn a_login_that_is_refused_closes_with_close_notify() {
    let stage = Stage::new(&[]);
    let mut client = TlsClient::connect(stage.bouncer.port, stage.tls.config()).unwrap();
    let mut packet = Vec::new();
    encode::startup(&mut packet, wire::startup::Version::V3_0, &[("user", "ghost"), ("database", "app")]);
    client.send(&packet).unwrap();
    assert_eq!(end(client), "E");
}

#[test]
fn a_pooler_that_ends_closes_sessions_with_close_notify() {
    let mut stage = Stage::new(&[]);
    let mut client = stage.client("app", "app");
    assert_eq!(client.value("SELECT 1"), "1");
    stage.bouncer.signal(Signal::QUIT);
    assert_eq!(end(client), "E");
    stage.bouncer.wait_for_end();
}
