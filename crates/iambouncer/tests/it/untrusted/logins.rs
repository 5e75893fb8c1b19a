//! Connections that never log in: their memory cost, their effect on other clients, and the number of log
//! lines.

use crate::support::bouncer::Start;
use crate::support::raw::Client;
use crate::support::{Bouncer, eventually, postgres};
use socket2::{Domain, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// A connection from a loopback address that has sent one byte.
fn half_open(port: u16, from: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(crate::support::TIMEOUT)).unwrap();
    stream.write_all(&[0]).unwrap();
    stream
}

/// The bytes received, if the connection has been closed.
fn received_if_closed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    stream.set_nonblocking(true).unwrap();
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        _ => Some(received),
    }
}

fn in_login(console: &mut Client) -> usize {
    console.column("SHOW SOCKETS", "state").iter().filter(|state| *state == "cl_login").count()
}

/// The data segment of the process, including untouched pages: the peer must not determine how much is
/// touched.
fn data_kib(bouncer: &Bouncer) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", bouncer.pid().as_raw_nonzero())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A header that announces 64 KiB, without a body.
#[test]
fn memory_for_a_message_is_allocated_as_it_arrives() {
    const CONNECTIONS: usize = 400;
    const MAX_KIB_EACH: u64 = 24;
    let bouncer = Bouncer::in_front_of(postgres(), &["auth_type = plain", "max_client_conn = 1000"]);
    let start = || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.expect(b'R');
        client
    };
    // Allocations that are made once and kept.
    let warm: Vec<Client> = (0..20).map(|_| start()).collect();
    let before = data_kib(&bouncer);
    let held: Vec<Client> = (0..CONNECTIONS)
        .map(|_| {
            let mut client = start();
            client.send(&[b'p', 0, 1, 0, 0]);
            client
        })
        .collect();
    // Input is read in order: when this client is answered, all headers have been read.
    let last = start();
    let grown = data_kib(&bouncer).saturating_sub(before);
    drop((warm, last));
    assert!(grown <= CONNECTIONS as u64 * MAX_KIB_EACH, "{grown} KiB for {} connections", held.len());
}

#[test]
fn the_connection_longest_in_login_is_closed_when_a_client_logs_in() {
    let bouncer = Bouncer::in_front_of(postgres(), &["max_client_conn = 3"]);
    let mut console = bouncer.console();
    let mut idle: Vec<TcpStream> = (0..3)
        .map(|n| {
            let stream = half_open(bouncer.port, "127.0.0.1");
            eventually("it is seen", || in_login(&mut console) == n + 1);
            stream
        })
        .collect();
    let mut clients = Vec::new();
    for gone in 1..=3 {
        let mut client = bouncer.client();
        assert_eq!(client.value("SELECT 1"), "1");
        clients.push(client);
        eventually("the oldest is closed", || received_if_closed(&mut idle[gone - 1]).is_some());
        assert!(idle[gone..].iter_mut().all(|stream| received_if_closed(stream).is_none()));
    }
    let mut refused = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    assert!(refused.expect(b'E').error().1.contains("max_client_conn"));
    assert!(clients.iter_mut().all(|client| client.value("SELECT 2") == "2"));
}

#[test]
fn one_address_cannot_occupy_all_login_places() {
    // Limits: three clients and a hundred connections in login, of which one address may have fifty.
    let bouncer = Bouncer::in_front_of(postgres(), &["max_client_conn = 3"]);
    let mut one_address: Vec<TcpStream> = (0..60).map(|_| half_open(bouncer.port, "127.0.0.2")).collect();
    let mut console = bouncer.console();
    eventually("those above the bound are closed", || in_login(&mut console) == 53);
    let mut other = half_open(bouncer.port, "127.0.0.3");
    eventually("it is seen", || in_login(&mut console) == 54);
    assert!(one_address[..7].iter_mut().all(|stream| received_if_closed(stream).is_some()));
    assert!(one_address[7..].iter_mut().all(|stream| received_if_closed(stream).is_none()));
    assert!(received_if_closed(&mut other).is_none());
    let received = received_if_closed(&mut one_address[0]);
    assert!(
        received.is_none_or(
            |received| received.is_empty() || String::from_utf8_lossy(&received).contains("53300")
        )
    );
}

#[test]
fn many_addresses_cannot_keep_clients_out() {
    let bouncer = Bouncer::in_front_of(postgres(), &["max_client_conn = 3"]);
    let from = |n: usize| format!("127.0.0.{}", 2 + n % 20);
    let mut unauthenticated: Vec<TcpStream> = (0..150).map(|n| half_open(bouncer.port, &from(n))).collect();
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    let closed = unauthenticated.iter_mut().filter_map(received_if_closed).count();
    assert!(closed >= 40, "{closed}");
    let bound = 3 + 100 + 100;
    assert!(in_login(&mut bouncer.console()) <= bound);
}

#[test]
fn silent_connections_are_not_accepted_with_tcp_defer_accept() {
    for (setting, seen) in [("tcp_defer_accept = 1", 0), ("tcp_defer_accept = 0", 1)] {
        let bouncer = Bouncer::in_front_of(postgres(), &[setting]);
        let _silent = Client::connect(bouncer.port);
        // It connected first, so it would have been accepted first.
        assert_eq!(in_login(&mut bouncer.console()), seen, "{setting}");
    }
    let bouncer = Bouncer::in_front_of(postgres(), &["tcp_defer_accept = 0"]);
    bouncer.console().query("SET tcp_defer_accept = 1");
    eventually("the setting is in force", || {
        let _silent = Client::connect(bouncer.port);
        in_login(&mut bouncer.console()) == 0
    });
    let default = Bouncer::in_front_of(postgres(), &[]);
    let mut console = default.console();
    let config =
        console.column("SHOW CONFIG", "key").iter().position(|key| key == "tcp_defer_accept").unwrap();
    assert_eq!(console.column("SHOW CONFIG", "value")[config], "1");
}

#[test]
fn a_client_that_waits_for_its_first_server_can_be_killed() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let databases = format!("app = host=127.0.0.1 port={}", silent.local_addr().unwrap().port());
    let bouncer = Start::databases(&databases).set("server_tls_sslmode = disable").start();
    let mut waiting = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let mut console = bouncer.console();
    let users = |console: &mut Client| console.column("SHOW CLIENTS", "user");
    eventually("it waits", || users(&mut console).contains(&"app".to_owned()));
    let at = users(&mut console).iter().position(|user| user == "app").unwrap();
    let id = console.column("SHOW CLIENTS", "id")[at].clone();
    console.query(&format!("KILL_CLIENT {id}"));
    assert_eq!(waiting.expect(b'E').error().0, "57P01");
    assert_eq!(waiting.until_end(), []);
}

#[test]
fn a_flood_of_connections_without_login_logs_a_few_lines_per_second_with_a_count() {
    const CONNECTIONS: usize = 300;
    const LINES_PER_SECOND: usize = 10;
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let began = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut client = Client::connect(bouncer.port);
        client.send(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(client.until_end(), []);
    }
    let seconds = began.elapsed().as_secs() as usize;
    let lines = || {
        let log = bouncer.log();
        let lines = log.lines().filter(|line| {
            line.contains("closing without an answer") || line.contains("suppressed log lines")
        });
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let counted = |line: &String| -> usize {
        let left_out = line
            .split_once("left_out=")
            .map_or(0, |(_, rest)| rest.split_whitespace().next().unwrap().parse().unwrap());
        left_out + usize::from(line.contains("closing without an answer"))
    };
    eventually("all are counted", || lines().iter().map(counted).sum::<usize>() == CONNECTIONS);
    assert!(lines().len() <= LINES_PER_SECOND * (seconds + 1) + 1, "{:?}", lines());
}
