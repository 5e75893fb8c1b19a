//! Replicas that find each other by a name: a cancel request that arrives at any of them reaches the one that has the
//! client, and no other query.

mod lookups;

use crate::peers::{expect_canceled, start_query};
use crate::support::fleet::peer_id_of;
use crate::support::raw::{self, Client};
use crate::support::replicas::{PEER_HOST, Replicas, start_cancel};
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{TIMEOUT, eventually, postgres};
use rds_sim::postgres::PostgresOptions;
use rustix::process::Signal;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use wire::startup::Version;

/// Each lookup queries IPv4 and IPv6 addresses.
const QUESTIONS_PER_LOOKUP: u64 = 2;
/// The default of `cancel_wait_timeout`.
const CANCEL_WAIT: Duration = Duration::from_secs(10);

/// The key of no client, in the form of a process with this number, which may be forwarded three times.
fn made_up_key(peer_id: u8) -> (u32, Vec<u8>) {
    (u32::from_be_bytes([1, peer_id, 0, 5]), vec![1, 2, 3, 0xff])
}

/// Records the requests that arrive, and closes their connections.
fn record(listener: TcpListener) -> Receiver<[u8; 16]> {
    let (requests, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut request = [0; 16];
            stream.unwrap().read_exact(&mut request).unwrap();
            if requests.send(request).is_err() {
                break;
            }
        }
    });
    received
}

/// Cancels a query of a client of one replica with a request to another.
fn cancel_across(replicas: &Replicas, owner: u8, at: u8) {
    let mut client = replicas.client_at(owner);
    start_query(&mut client);
    replicas.cancel_at(at, client.cancel_key());
    expect_canceled(&mut client);
}

/// Starts a query that has no answer until it is canceled; no other test may use this mark.
fn start_silent_query(client: &mut Client, mark: &str) {
    let query = silent_query(mark);
    client.send_query(&query);
    wait_until_it_runs(&query);
}

fn silent_query(mark: &str) -> String {
    format!("SELECT pg_sleep(60) /* {mark} */")
}

fn wait_until_it_runs(query: &str) {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = '{query}'");
    eventually("the query runs", || postgres().sql(&count).unwrap().trim() == "1");
}

/// Runs `rounds` queries, each of which is canceled by a request through the load balancer.
fn run_canceled_queries(balancer: SocketAddr, rounds: usize) {
    let mut client = Client::log_in_at(balancer, "app", "app");
    for _ in 0..rounds {
        start_query(&mut client);
        assert_eq!(start_cancel(balancer, client.cancel_key()).read(), None);
        expect_canceled(&mut client);
    }
    assert_eq!(client.value("SELECT 1"), "1");
}

#[test]
fn every_cancel_request_through_a_load_balancer_hits_its_query_and_no_other() {
    let replicas = Replicas::start(3, &[]);
    let balancer = replicas.balancer(&[1, 2, 3]);
    let mut bystanders = [1, 2, 3].map(|number| replicas.client_at(number));
    for (number, bystander) in bystanders.iter_mut().enumerate() {
        start_silent_query(bystander, &format!("bystander {number}"));
    }
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| run_canceled_queries(balancer, 10));
        }
    });
    for bystander in &mut bystanders {
        assert!(!bystander.has_pending_input(), "its query runs");
        assert_eq!(start_cancel(balancer, bystander.cancel_key()).read(), None);
        expect_canceled(bystander);
    }
}

#[test]
fn a_request_reaches_a_client_of_a_replica_that_drains() {
    let replicas = Replicas::start(2, &["drain_max_seconds = 20"]);
    let mut client = replicas.client_at(1);
    start_query(&mut client);
    let mut idle = replicas.client_at(1);
    replicas.member(1).signal(Signal::TERM);
    // Clients are closed only after the time in which others are accepted.
    assert_eq!(idle.read().expect("a message").error().0, "57P01");
    replicas.cancel_at(2, client.cancel_key());
    expect_canceled(&mut client);
}

#[test]
fn a_hundred_requests_at_the_same_time_all_succeed() {
    let server = crate::support::postgres::start(PostgresOptions {
        config_lines: vec!["max_connections = 150".to_owned()],
        ..PostgresOptions::default()
    });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    let mut replicas = Replicas::in_front_of(&server, "pool_size=40");
    replicas.announce(&[1, 2, 3]);
    (1..=3).for_each(|number| replicas.start_member(number, &[]));
    let balancer = replicas.balancer(&[1, 2, 3]);
    let mut clients: Vec<Client> = (0..100).map(|_| Client::log_in_at(balancer, "app", "app")).collect();
    clients.iter_mut().for_each(start_query);
    let (began, questions) = (Instant::now(), replicas.dns.questions_for(PEER_HOST));
    // All arrive at a replica that has a third of the clients.
    let requests: Vec<Client> =
        clients.iter().map(|client| replicas.start_cancel_at(1, client.cancel_key())).collect();
    clients.iter_mut().for_each(expect_canceled);
    for mut request in requests {
        assert_eq!(request.read(), None);
    }
    // One per second for the requests, and one of each replica without a request.
    let lookups = (replicas.dns.questions_for(PEER_HOST) - questions) / QUESTIONS_PER_LOOKUP;
    assert!(lookups <= began.elapsed().as_secs() + 1 + 3, "{lookups}");
}

#[test]
fn several_workers_are_found_in_each_replica() {
    let replicas = Replicas::start(2, &["workers = 3"]);
    for (owner, at) in [(1, 2), (2, 1), (1, 1)] {
        // Each worker gets one.
        let mut clients = [(); 3].map(|()| replicas.client_at(owner));
        for client in &mut clients {
            start_query(client);
            replicas.cancel_at(at, client.cancel_key());
            expect_canceled(client);
        }
    }
}

#[test]
fn an_address_that_is_down_or_silent_does_not_delay_the_others() {
    let mut replicas = Replicas::reserve();
    // Nothing listens at the fourth address. The fifth answers no packet: its queue of connections is full.
    let full = replicas.listen_at(5, 0);
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&replicas.address(5), Duration::from_millis(200)) {
        queued.push(stream);
    }
    // The silent one first.
    replicas.announce(&[5, 4, 1, 2]);
    (1..=2).for_each(|number| replicas.start_member(number, &[]));
    let mut client = replicas.client_at(2);
    start_query(&mut client);
    let mut request = replicas.start_cancel_at(1, client.cancel_key());
    expect_canceled(&mut client);
    assert!(!request.has_pending_input(), "the request ends after the attempt to reach the silent address");
    assert_eq!(request.read(), None);
    replicas.member(1).wait_for_line(&format!("peer={}", replicas.address(4)));
    replicas.member(1).wait_for_line(&format!("peer={}", replicas.address(5)));
    // More requests than there are places: they do not wait for one at the silent address.
    let began = Instant::now();
    let requests: Vec<Client> = (0..50).map(|_| replicas.start_cancel_at(1, made_up_key(77))).collect();
    for mut request in requests {
        assert_eq!(request.read(), None);
    }
    assert!(began.elapsed() < CANCEL_WAIT, "{:?}", began.elapsed());
    cancel_across(&replicas, 2, 1);
    drop(full);
}

#[test]
fn replicas_with_the_same_number_find_each_others_clients() {
    let mut replicas = Replicas::reserve();
    replicas.announce(&[1, 2, 3]);
    for (number, workers) in [(1, "workers = 1"), (2, "workers = 3"), (3, "workers = 2")] {
        replicas.start_member(number, &["peer_id = 5", workers]);
    }
    for (owner, at) in [(1, 2), (2, 1), (3, 2), (3, 3)] {
        for _ in 0..3 {
            cancel_across(&replicas, owner, at);
        }
    }
    assert_eq!(peer_id_of(&replicas.client_at(1)), 5);
}

#[test]
fn a_made_up_key_is_sent_once_to_each_address() {
    let mut replicas = Replicas::reserve();
    replicas.announce(&[1, 2, 3, 4]);
    (1..=3).for_each(|number| replicas.start_member(number, &["peer_id = 5"]));
    let received = record(replicas.listen_at(4, 16));
    // One names an unknown process, the other the number that all of them have.
    for peer_id in [77, 5] {
        replicas.cancel_at(1, made_up_key(peer_id));
        let request = received.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(request[8..], [1, peer_id, 0, 5, 1, 2, 3, 0xfc]);
        // The other replicas received it, too, and have closed their connections: they are done with it.
        assert!(received.try_recv().is_err(), "a replica forwarded it");
    }
    let mut exhausted = made_up_key(77);
    exhausted.1[3] = 0xfc;
    replicas.cancel_at(1, exhausted);
    assert!(received.try_recv().is_err());
}

#[test]
fn a_listed_peer_is_asked_directly_and_others_by_their_addresses() {
    let mut replicas = Replicas::reserve();
    replicas.announce(&[1, 2, 3, 4]);
    let received = record(replicas.listen_at(4, 16));
    let listed = format!("peer_id = 1\n[peers]\n2 = host=127.0.0.2 port={}", replicas.port());
    replicas.start_member(1, &[&listed]);
    replicas.start_member(2, &["peer_id = 2"]);
    replicas.start_member(3, &["peer_id = 3"]);
    cancel_across(&replicas, 2, 1);
    assert!(received.try_recv().is_err(), "the listed peer alone was asked");
    cancel_across(&replicas, 3, 1);
    assert_eq!(received.recv_timeout(TIMEOUT).unwrap()[9], 3);
    cancel_across(&replicas, 1, 3);
    let mut console = replicas.console_at(1);
    assert_eq!(console.column("SHOW PEERS", "peer_id"), ["2", "1", "", "", ""]);
    assert_eq!(console.column("SHOW PEER_POOLS", "peer_id"), ["2", "", "", ""]);
    // [peers] also works with a number that was chosen at the start.
    let unnumbered = format!("[peers]\n2 = host=127.0.0.2 port={}", replicas.port());
    replicas.start_member(5, &[&unnumbered]);
    assert!(!replicas.member(5).log().contains("has no effect"));
    cancel_across(&replicas, 2, 5);
}

#[test]
fn replicas_that_require_tls_accept_forwarded_requests() {
    let side = ClientSide::new();
    let file = |name: &str| side.dir.path().join(name).display().to_string();
    let settings = [
        "client_tls_sslmode = require".to_owned(),
        format!("client_tls_cert_file = {}", file("cert.pem")),
        format!("client_tls_key_file = {}", file("key.pem")),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let replicas = Replicas::start(2, &settings);
    let mut client = TlsClient::connect(replicas.port(), side.config()).unwrap();
    let mut packet = Vec::new();
    wire::encode::startup(&mut packet, Version::V3_0, &[("user", "app"), ("database", "app")]);
    client.send(&packet).unwrap();
    let greeting = client.until_ready().unwrap();
    let key = greeting.iter().find(|message| message.tag == b'K').expect("a cancel key");
    let pid = u32::from_be_bytes(key.bytes[5..9].try_into().unwrap());
    let query = silent_query("with TLS");
    client.send(&raw::query(&query)).unwrap();
    wait_until_it_runs(&query);
    replicas.cancel_at(2, (pid, key.bytes[9..].to_vec()));
    let messages = client.until_ready().unwrap();
    let error = messages.iter().find(|message| message.tag == b'E').expect("the query is canceled");
    assert_eq!(error.error().0, "57014");
}

#[test]
fn a_flood_of_made_up_keys_leaves_room_for_clients() {
    let settings = ["default_pool_size = 3", "max_client_conn = 20", "cancel_wait_timeout = 60"];
    let mut replicas = Replicas::reserve();
    // Accepts connections and never closes them.
    let _silent = replicas.listen_at(4, 128);
    replicas.announce(&[1, 2, 4]);
    (1..=2).for_each(|number| replicas.start_member(number, &settings));
    let mut console = replicas.console_at(1);
    let flood: Vec<Client> = (0..60).map(|_| replicas.start_cancel_at(1, made_up_key(77))).collect();
    eventually("three have a connection to the silent address, the others wait", || {
        console.column("SHOW PEER_POOLS", "sv_active_cancel") == ["0", "3"]
            && console.column("SHOW PEER_POOLS", "cl_waiting_cancel_req") == ["0", "57"]
    });
    let mut client = replicas.client_at(2);
    start_query(&mut client);
    let _request = replicas.start_cancel_at(1, client.cancel_key());
    expect_canceled(&mut client);
    assert_eq!(replicas.client_at(1).value("SELECT 1"), "1");
    drop(flood);
}
