//! What fails while clients share the listener, or begin or end to.

use super::{code, direct, drained, payload, run, shared, sharing, with_servers};
use crate::support::bouncer::Start;
use crate::support::eventually;
use crate::support::postgres::start;
use crate::support::raw::Client;
use crate::support::{Bouncer, postgres};
use rds_sim::postgres::PostgresOptions;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::{io, thread};

/// A port at which 127.0.0.1 and 127.0.0.2 lead to these servers.
fn one_port(servers: [u16; 2]) -> u16 {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let second = TcpListener::bind(("127.0.0.2", port)).unwrap();
    for (listener, server) in [(first, servers[0]), (second, servers[1])] {
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                for (mut from, mut to) in
                    [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)]
                {
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
    }
    port
}

/// Ends the session of the listener.
fn kill_listener(bouncer: &Bouncer) {
    let (states, pids) = (bouncer.show("SERVERS", "state"), bouncer.show("SERVERS", "remote_pid"));
    let at = states.iter().position(|state| state == "listen").expect("there is a listener");
    assert_eq!(direct().value(&format!("SELECT pg_terminate_backend({})", pids[at])), "t");
}

#[test]
fn clients_of_a_lost_listener_are_disconnected_and_others_stay() {
    let bouncer = with_servers(3, &["workers = 2"]);
    let mut clients: Vec<Client> = (0..4).map(|_| sharing(&bouncer, "lost")).collect();
    let mut other = bouncer.client();
    kill_listener(&bouncer);
    for client in &mut clients {
        let messages = client.until_end();
        assert_eq!(code(&messages), "57P01");
        assert!(messages[0].error().1.contains("notifications may have been lost"));
        assert!(messages[0].hint().contains("LISTEN"));
    }
    assert_eq!(other.value("SELECT 1"), "1");
    let mut again = sharing(&bouncer, "lost");
    run(&mut direct(), &["NOTIFY lost, 'x'"]);
    assert_eq!(payload(&mut again), "x");
}

#[test]
fn a_client_in_a_transaction_is_on_its_own_server_when_the_listener_is_lost() {
    let bouncer = with_servers(3, &[]);
    let mut client = sharing(&bouncer, "own_server");
    let mut other = sharing(&bouncer, "own_server");
    run(&mut client, &["BEGIN"]);
    kill_listener(&bouncer);
    assert_eq!(code(&other.until_end()), "57P01");
    run(&mut direct(), &["NOTIFY own_server, 'x'"]);
    run(&mut client, &["SELECT 1"]);
    let messages = client.query("COMMIT");
    assert_eq!(super::payloads(&messages), ["x"]);
    // It founds the next one.
    shared(&bouncer);
    assert_eq!(drained(&mut client, &mut direct(), "own_server"), [""; 0]);
}

#[test]
fn a_client_that_leaves_in_any_state_leaves_nothing_on_its_server() {
    let bouncer = with_servers(2, &[]);
    let mut stays = sharing(&bouncer, "leaving");
    for round in 0..40 {
        let mut client = bouncer.client();
        client.send_query("LISTEN leaving; LISTEN leaving_too");
        match round % 4 {
            0 => {}
            1 => drop(client.until_ready()),
            2 => {
                client.until_ready();
                shared(&bouncer);
                client.send_query("BEGIN");
            }
            _ => {
                client.until_ready();
                shared(&bouncer);
            }
        }
        drop(client);
        let mut next = bouncer.client();
        let left = next.value("SELECT count(*) FROM pg_listening_channels()");
        assert_eq!(left, "0", "round {round}");
    }
    assert_eq!(drained(&mut stays, &mut direct(), "leaving"), [""; 0]);
}

#[test]
fn cancel_requests_do_not_break_the_hand_over() {
    let bouncer = with_servers(2, &[]);
    let mut client = sharing(&bouncer, "canceled");
    let mut sender = direct();
    let (pid, key) = client.cancel_key();
    for round in 0..30 {
        client.send_query(&format!("BEGIN; SELECT pg_sleep(0.0{}); COMMIT", round % 3));
        crate::cancel::cancel(bouncer.port, pid, &key);
        let answer = client.until_ready();
        let error =
            answer.iter().find(|message| message.tag == b'E').map(|error| (error.error(), error.detail()));
        assert!(answer.last().is_some_and(|last| last.tag == b'Z'), "{error:?}");
        run(&mut client, &["ROLLBACK"]);
        run(&mut sender, &[&format!("NOTIFY canceled, '{round}'")]);
        assert_eq!(payload(&mut client), round.to_string());
        shared(&bouncer);
    }
}

#[test]
fn a_client_whose_server_is_not_the_listeners_keeps_its_server() {
    // Two PostgreSQL servers behind one line, in turn.
    let second = start(PostgresOptions::default());
    second.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    second.sql("CREATE DATABASE app OWNER app").unwrap();
    let port = one_port([postgres().port(), second.port()]);
    let line =
        format!("app = host=127.0.0.1,127.0.0.2 port={port} dbname=app load_balance_hosts=round-robin");
    let bouncer = Start::databases(&line).set("session_state = follow").set("default_pool_size = 4").start();
    let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
    for client in &mut clients {
        run(client, &["BEGIN", "LISTEN elsewhere"]);
    }
    for client in &mut clients {
        run(client, &["COMMIT"]);
    }
    eventually("there is a listener", || bouncer.show("SERVERS", "state").contains(&"listen".to_owned()));
    let mut senders = [direct(), Client::log_in(second.port(), "app", "app")];
    for sender in &mut senders {
        run(sender, &["NOTIFY elsewhere, 'x'"]);
    }
    for client in &mut clients {
        assert_eq!(payload(client), "x");
        // A transaction anywhere is no reason to disconnect it.
        run(client, &["BEGIN", "SELECT 1", "COMMIT"]);
    }
}

#[test]
fn a_server_that_dies_during_the_return_ends_its_client_only() {
    let bouncer = with_servers(3, &[]);
    let (mut one, mut other) = (sharing(&bouncer, "dying"), sharing(&bouncer, "dying"));
    run(&mut one, &["BEGIN"]);
    let pid = one.value("SELECT pg_backend_pid()");
    assert_eq!(direct().value(&format!("SELECT pg_terminate_backend({pid})")), "t");
    assert!(code(&one.until_end()).starts_with("57P"));
    assert_eq!(drained(&mut other, &mut direct(), "dying"), [""; 0]);
}

#[test]
fn clients_that_begin_to_share_when_the_listener_is_lost_are_not_forgotten() {
    // Other tests use the shared server.
    let server = start(PostgresOptions::default());
    server.sql("CREATE ROLE app SUPERUSER LOGIN").unwrap();
    server.sql("CREATE DATABASE app OWNER app").unwrap();
    let settings = ["session_state = follow", "default_pool_size = 4", "workers = 2"];
    let bouncer = Bouncer::in_front_of(&server, &settings);
    let connect = || Client::log_in(server.port(), "app", "app");
    let (mut killer, mut sender) = (connect(), connect());
    for round in 0..25 {
        let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
        for client in &mut clients {
            run(client, &["LISTEN forgotten"]);
        }
        if round % 2 == 0 {
            eventually("there is a listener", || {
                bouncer.show("SERVERS", "state").contains(&"listen".to_owned())
            });
        }
        // Sessions that are about to take part, at whichever step.
        killer.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%iambouncer\\_%' AND pid <> pg_backend_pid()",
        );
        for client in &mut clients {
            // A client that is still connected listens, and one that is not knows it.
            client.send_query("SELECT 1");
            let answer = client.until_ready();
            if answer.last().is_some_and(|last| last.tag == b'Z') {
                run(&mut sender, &[&format!("NOTIFY forgotten, '{round}'")]);
                let (mut is_notified, mut is_lost) = (!super::payloads(&answer).is_empty(), false);
                while !is_notified && !is_lost {
                    match client.read() {
                        Some(message) => is_notified = message.tag == b'A',
                        None => is_lost = true,
                    }
                }
            }
        }
    }
}
