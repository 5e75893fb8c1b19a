//! Probes and the console when other peers have exhausted connections or open files.

use crate::support::http::{connect, get};
use crate::support::raw::Client;
use crate::support::{Bouncer, eventually, postgres};
use rustix::process::{Resource, Rlimit, prlimit};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

const AUTO: &str = "http_port = auto";

#[test]
fn slow_connections_do_not_delay_a_probe() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    let slow = |n: usize| {
        let mut stream = connect(port);
        stream.write_all(if n.is_multiple_of(2) { b"" } else { b"GET /livez HT" }).unwrap();
        stream
    };
    let mut held: Vec<_> = (0..200).map(slow).collect();
    let began = Instant::now();
    assert_eq!(get(port, "/livez").status, 200);
    // Otherwise each of three batches of 64 connections could take five seconds.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let first = held.first_mut().unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap_or(0), 0, "the oldest is closed");
}

#[test]
fn a_request_that_arrives_slowly_is_aborted_after_a_second() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let mut stream = connect(bouncer.http_port());
    let began = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    eventually("it is closed", || {
        let written = stream.write_all(b"x");
        let read = stream.read(&mut [0; 512]);
        written.is_err() || !matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    });
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_millis(4900)).contains(&took), "{took:?}");
}

/// The size of the process's table of open files.
fn open_file_slots(bouncer: &Bouncer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bouncer.pid().as_raw_pid())).unwrap();
    let slots = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
    slots.trim().parse().unwrap()
}

/// Each doubling of the table stopped the worker that accepts for about 10 ms.
#[test]
fn a_burst_of_clients_does_not_wait_for_the_table_of_open_files_to_grow() {
    let max_client_conn = if has_files_for(3000) { 1500 } else { 300 };
    let bouncer =
        Bouncer::in_front_of(postgres(), &[format!("max_client_conn = {max_client_conn}").as_str()]);
    let slots = open_file_slots(&bouncer);
    assert!(slots >= max_client_conn, "{slots}");
    let ini = std::fs::read_to_string(bouncer.ini()).unwrap();
    let (few, many) = (format!("conn = {max_client_conn}"), format!("conn = {}", 2 * max_client_conn));
    std::fs::write(bouncer.ini(), ini.replace(&few, &many)).unwrap();
    bouncer.console().query("RELOAD");
    let slots = open_file_slots(&bouncer);
    assert!(slots >= 2 * max_client_conn, "{slots} after RELOAD");
}

fn has_files_for(clients: u64) -> bool {
    let allowed = rustix::process::getrlimit(Resource::Nofile).maximum;
    allowed.is_none_or(|allowed| allowed > clients)
}

#[test]
fn probes_and_console_answer_when_open_files_have_run_out() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO, "max_client_conn = 1000"]);
    let mut clients = vec![bouncer.client()];
    assert_eq!(clients[0].value("SELECT 1"), "1");
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Some(bouncer.pid()), Resource::Nofile, few).unwrap();
    let refusal = loop {
        assert!(clients.len() < 64, "never full");
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.greeting = client.until_ready();
        match client.greeting.first() {
            Some(first) if first.tag == b'E' => break first.explained(),
            _ => clients.push(client),
        }
    };
    assert_eq!(refusal.0, "53300");
    assert!(refusal.1.contains("open files are in use"), "{refusal:?}");
    let mut console = bouncer.console();
    assert_eq!(console.column("SHOW STATE", "key").len(), 3);
    // Other connections use up the remaining files for clients and the console.
    let others: Vec<Client> = (0..30)
        .map(|_| {
            let mut other = Client::connect(bouncer.port);
            // Fails if the pooler has closed it already to make room.
            let _ = other.stream.write_all(&[0]);
            other
        })
        .collect();
    assert_eq!(get(bouncer.http_port(), "/livez").status, 200);
    let mut second = bouncer.console();
    assert_eq!(second.column("SHOW STATE", "key").len(), 3);
    assert_eq!(clients[0].value("SELECT 2"), "2");
    drop((others, clients.drain(1..)));
    eventually("a client is accepted again", || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.until_ready().last().is_some_and(|last| last.tag == b'Z')
    });
}
