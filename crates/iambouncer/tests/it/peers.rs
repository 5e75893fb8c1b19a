//! Several processes on one port: a cancel request reaches the process that has the client, and no other query.

use crate::cancel::cancel;
use crate::support::fleet::{Fleet, KeptPort, peer_id_of};
use crate::support::raw::tags;
use crate::support::{Bouncer, Client, TIMEOUT, bouncer::Start, eventually, postgres, program};
use rustix::process::Signal;
use std::io::Read;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

/// Starts a query that runs until it is canceled, and waits until the server runs it: the second row is larger than
/// the server's buffer, so the first one is sent at once.
pub(crate) fn start_query(client: &mut Client) {
    client.send_query("SELECT repeat('x', 20000) FROM generate_series(1, 2); SELECT pg_sleep(60)");
    while client.read().expect("a row").tag != b'D' {}
}

/// Expects that the query of [`start_query`] was canceled.
#[track_caller]
pub(crate) fn expect_canceled(client: &mut Client) {
    let messages = client.until_ready();
    let error = messages.iter().find(|message| message.tag == b'E').expect("the query is canceled");
    assert_eq!(error.error().0, "57014");
}

/// A peer that records the cancel requests it receives, and closes their connections.
fn recording_peer() -> (u16, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut request = vec![0; 16];
            stream.unwrap().read_exact(&mut request).unwrap();
            if requests.send(request).is_err() {
                break;
            }
        }
    });
    (port, received)
}

#[test]
fn two_processes_deliver_every_cancel_request() {
    let fleet = Fleet::start(2, &[], &[]);
    let mut clients = [fleet.client_at(1), fleet.client_at(2)];
    for n in 0..100 {
        let client = &mut clients[n % 2];
        let (pid, key) = client.cancel_key();
        start_query(client);
        match n / 2 % 4 {
            0 => fleet.cancel_at(1, pid, &key),
            1 => fleet.cancel_at(2, pid, &key),
            // The kernel chooses the process.
            _ => cancel(fleet.port(), pid, &key),
        }
        expect_canceled(client);
    }
}

#[test]
fn three_processes_with_several_workers_find_every_client() {
    let fleet = Fleet::start(3, &["workers = 3"], &[]);
    for owner in 1..=3 {
        // Each worker gets one.
        let mut clients = [fleet.client_at(owner), fleet.client_at(owner), fleet.client_at(owner)];
        for at in 1..=3 {
            for client in &mut clients {
                let (pid, key) = client.cancel_key();
                start_query(client);
                fleet.cancel_at(at, pid, &key);
                expect_canceled(client);
            }
        }
    }
}

#[test]
fn peers_with_ports_of_their_own_are_reached_over_tcp() {
    let ports = [KeptPort::choose(), KeptPort::choose()];
    let member = |id: usize| {
        let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
        let peers = [1, 2].map(|id| format!("{id} = host=localhost port={}", ports[id - 1].number()));
        Start::databases(&databases)
            .set("so_reuseport = 1")
            .set(&format!("listen_port = {}", ports[id - 1].number()))
            .set(&format!("peer_id = {id}\n[peers]\n{}\n{}", peers[0], peers[1]))
            .start()
    };
    let members = [member(1), member(2)];
    for (owner, at) in [(0, 1), (1, 0), (0, 0)] {
        let mut client = members[owner].client();
        assert_eq!(usize::from(peer_id_of(&client)), owner + 1);
        let (pid, key) = client.cancel_key();
        start_query(&mut client);
        cancel(members[at].port, pid, &key);
        expect_canceled(&mut client);
    }
}

#[test]
fn a_key_of_an_unknown_peer_is_forwarded_once() {
    let (port, received) = recording_peer();
    let fleet = Fleet::start(3, &[], &[&format!("9 = host=127.0.0.1 port={port}")]);
    // Peer 77, which may be known to one of the others.
    let (pid, key) = (u32::from_be_bytes([1, 77, 0, 5]), [1, 2, 3, 0xff]);
    fleet.cancel_at(1, pid, &key);
    let request = received.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(request[8..], [1, 77, 0, 5, 1, 2, 3, 0xfc]);
    // The members received it, too. They have closed their connections, so they are done with it.
    assert!(received.try_recv().is_err(), "a member forwarded it");
    // One that names peer 9 may be forwarded by it, but not for ever.
    for (given, forwarded) in [(3, Some(2)), (1, Some(0)), (0, None)] {
        fleet.cancel_at(2, u32::from_be_bytes([1, 9, 0, 5]), &[1, 2, 3, 0xf8 | given]);
        match forwarded {
            // It may still be on its way from the peer's thread.
            Some(left) => assert_eq!(received.recv_timeout(TIMEOUT).unwrap()[15], 0xf8 | left),
            None => assert!(received.try_recv().is_err(), "it was forwarded again"),
        }
    }
}

#[test]
fn a_wrong_key_of_this_process_is_not_forwarded() {
    let (port, received) = recording_peer();
    let fleet = Fleet::start(1, &[], &[&format!("9 = host=127.0.0.1 port={port}")]);
    let mut client = fleet.client_at(1);
    let (pid, mut key) = client.cancel_key();
    start_query(&mut client);
    key[1] ^= 1;
    fleet.cancel_at(1, pid, &key);
    fleet.cancel_at(1, pid ^ 1, &client.cancel_key().1);
    assert!(received.try_recv().is_err());
    fleet.cancel_at(1, pid, &client.cancel_key().1);
    expect_canceled(&mut client);
}

#[test]
fn a_silent_peer_and_one_that_is_down_do_not_delay_the_others() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_line = format!("8 = host=127.0.0.1 port={} pool_size=3", silent.local_addr().unwrap().port());
    let down = KeptPort::choose();
    let down_line = format!("7 = host=127.0.0.1 port={}", down.number());
    let fleet = Fleet::start(2, &["cancel_wait_timeout = 4"], &[&silent_line, &down_line]);
    let mut console = fleet.console_at(1);
    let waiting: Vec<_> = (0..30)
        .map(|_| fleet.start_cancel_at(1, u32::from_be_bytes([1, 8, 0, 5]), &[1, 2, 3, 0xff]))
        .collect();
    eventually("three of them have a connection", || {
        // The own process, number 1, has no pool.
        console.column("SHOW PEER_POOLS", "peer_id") == ["2", "7", "8"]
            && console.column("SHOW PEER_POOLS", "sv_active_cancel") == ["0", "0", "3"]
            && console.column("SHOW PEER_POOLS", "cl_active_cancel_req") == ["0", "0", "3"]
            && console.column("SHOW PEER_POOLS", "cl_waiting_cancel_req") == ["0", "0", "27"]
    });
    fleet.cancel_at(1, u32::from_be_bytes([1, 7, 0, 5]), &[1, 2, 3, 0xff]);
    // A key of an unknown peer goes to those that have a place.
    let unknown = fleet.start_cancel_at(1, u32::from_be_bytes([1, 99, 0, 5]), &[1, 2, 3, 0xff]);
    let mut client = fleet.client_at(2);
    let (pid, key) = client.cancel_key();
    for _ in 0..3 {
        start_query(&mut client);
        fleet.cancel_at(1, pid, &key);
        expect_canceled(&mut client);
    }
    assert_eq!(
        console.column("SHOW PEER_POOLS", "cl_waiting_cancel_req"),
        ["0", "0", "27"],
        "they still wait"
    );
    for mut stream in waiting.into_iter().chain([unknown]) {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    assert_eq!(console.column("SHOW PEER_POOLS", "cl_waiting_cancel_req"), ["0", "0", "0"]);
    for part in ["peer=7", "peer=8", "timed out"] {
        fleet.member(1).wait_for_line(part);
    }
}

#[test]
fn a_forwarded_request_for_a_finished_query_hits_no_query() {
    let fleet = Fleet::start(2, &["default_pool_size = 1"], &[]);
    let (mut first, mut second) = (fleet.client_at(1), fleet.client_at(1));
    let (pid, key) = first.cancel_key();
    for _ in 0..50 {
        first.send_query("SELECT 1");
        let answer = tags(&first.until_ready());
        assert_eq!(answer, "TDCZ");
        // The server of the first client now belongs to the second one.
        second.send_query("SELECT pg_sleep(0.01)");
        fleet.cancel_at(2, pid, &key);
        assert_eq!(tags(&second.until_ready()), "TDCZ");
    }
}

#[test]
fn reload_changes_the_peers() {
    let (port, received) = recording_peer();
    let fleet = Fleet::start(1, &[], &[]);
    let mut console = fleet.console_at(1);
    assert_eq!(console.column("SHOW PEERS", "peer_id"), ["1"]);
    let ini = fleet.member(1).ini();
    let text = std::fs::read_to_string(&ini).unwrap();
    let line = format!("5 = host=127.0.0.1 port={port} pool_size=4\n6 = host=other.example\n");
    std::fs::write(&ini, text.replace("peer_id = 1", "peer_id = 2") + &line).unwrap();
    console.query("RELOAD");
    assert_eq!(console.column("SHOW PEERS", "peer_id"), ["1", "5", "6"]);
    assert_eq!(console.column("SHOW PEERS", "pool_size"), ["20", "4", "20"]);
    assert_eq!(console.column("SHOW PEERS", "port")[1..], [port.to_string(), "6432".to_owned()]);
    assert_eq!(console.column("SHOW PEER_POOLS", "peer_id"), ["5", "6"]);
    let lists = console.column("SHOW LISTS", "list").into_iter().zip(console.column("SHOW LISTS", "items"));
    let of_peers: Vec<_> =
        lists.filter(|(name, _)| name.starts_with("peer")).map(|(_, count)| count).collect();
    assert_eq!(of_peers, ["3", "2"]);
    fleet.cancel_at(1, u32::from_be_bytes([1, 5, 0, 5]), &[1, 2, 3, 0xff]);
    assert_eq!(received.try_recv().unwrap()[8..], [1, 5, 0, 5, 1, 2, 3, 0xfe]);
    // peer_id is in the keys of clients, so it stays.
    assert_eq!(peer_id_of(&fleet.client_at(1)), 1);
    fleet.member(1).wait_for_line("peer_id");
}

#[test]
fn a_port_is_shared_only_if_both_processes_want_it_and_a_unix_socket_never() {
    let fleet = Fleet::start(1, &[], &[]);
    let running = std::fs::read_to_string(fleet.member(1).ini()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ini = dir.path().join("pooler.ini");
    let refusal = |text: String| {
        std::fs::write(&ini, text).unwrap();
        let output = program::run(&[ini.to_str().unwrap()], &[]);
        assert_eq!(output.code, Some(1), "{output:?}");
        output.stderr
    };
    let own_dir = format!("unix_socket_dir = {}", dir.path().display());
    let others = running.lines().find(|line| line.starts_with("unix_socket_dir")).unwrap();
    let text = refusal(running.clone());
    assert!(text.contains("each process needs its own unix_socket_dir"), "{text}");
    let text = refusal(running.replace(others, &own_dir).replace("so_reuseport = 1", "so_reuseport = 0"));
    assert!(text.contains(&format!("cannot listen on 127.0.0.1:{}", fleet.port())), "{text}");
}

#[test]
fn peers_without_peer_id_are_reported_and_have_no_effect() {
    let (port, received) = recording_peer();
    let bouncer = Bouncer::in_front_of(
        postgres(),
        &[&format!("max_client_conn = 50\n[peers]\n9 = host=127.0.0.1 port={port}")],
    );
    bouncer.wait_for_line("[peers] has no effect without peer_id");
    cancel(bouncer.port, u32::from_be_bytes([1, 9, 0, 5]), &[1, 2, 3, 0xff]);
    assert!(received.try_recv().is_err());
    assert_eq!(bouncer.show("PEERS", "peer_id"), ["9"]);
    assert!(bouncer.show("PEER_POOLS", "peer_id").is_empty());
}

#[test]
fn a_process_that_waits_for_its_clients_receives_their_cancel_requests() {
    let fleet = Fleet::start(2, &[], &[]);
    let mut client = fleet.client_at(1);
    let (pid, key) = client.cancel_key();
    fleet.member(1).signal(Signal::TERM);
    fleet.member(1).wait_for_line("waiting for 1 clients to disconnect");
    // The port now belongs to the other process alone.
    for _ in 0..5 {
        start_query(&mut client);
        cancel(fleet.port(), pid, &key);
        expect_canceled(&mut client);
    }
}

#[test]
fn a_flood_of_requests_for_a_silent_peer_leaves_room_for_clients() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let line = format!("8 = host=127.0.0.1 port={} pool_size=3", silent.local_addr().unwrap().port());
    let fleet = Fleet::start(2, &["cancel_wait_timeout = 60", "max_client_conn = 20"], &[&line]);
    let mut console = fleet.console_at(1);
    let mut flood: Vec<_> = (0..200)
        .map(|_| fleet.start_cancel_at(1, u32::from_be_bytes([1, 8, 0, 5]), &[1, 2, 3, 0xff]))
        .collect();
    // One origin gets 50 places and the free ones of max_client_conn; the oldest connections are closed.
    for stream in &mut flood[..130] {
        // Those that were closed before their request was read receive an error.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    eventually("the other 70 wait or have a connection", || {
        console.column("SHOW PEER_POOLS", "sv_active_cancel") == ["0", "3"]
            && console.column("SHOW PEER_POOLS", "cl_waiting_cancel_req") == ["0", "67"]
    });
    let mut client = fleet.client_at(2);
    let (pid, key) = client.cancel_key();
    start_query(&mut client);
    fleet.cancel_at(1, pid, &key);
    expect_canceled(&mut client);
    assert_eq!(fleet.client_at(1).value("SELECT 1"), "1");
}
