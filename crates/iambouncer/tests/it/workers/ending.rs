//! Shutdown of a process with several workers: every client that must be waited for is, and all workers end.

use super::moving::begin_all;
use crate::support::raw::{self, Client, tags};
use crate::support::{Workers, eventually};
use rustix::process::Signal;

fn disconnect(mut client: Client) {
    client.send(&raw::terminate());
}

fn receives_shutdown_error(client: &mut Client) -> bool {
    client.until_end().first().is_some_and(|message| message.error().0 == "57P01")
}

#[test]
fn shutdown_ends_all_workers() {
    let mut workers = Workers::start("workers_shutdown", 3, &[]);
    let mut clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    begin_all(&mut clients[..3]);
    workers.bouncer.console().send_query("SHUTDOWN");
    assert!(clients.iter_mut().all(receives_shutdown_error));
    assert_eq!(workers.bouncer.wait_for_end().code(), Some(0));
    workers.observer().wait_for_backends(0);
}

#[test]
fn quit_ends_all_workers() {
    let mut workers = Workers::start("workers_quit", 3, &[]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    begin_all(&mut clients);
    workers.bouncer.signal(Signal::QUIT);
    assert!(clients.iter_mut().all(receives_shutdown_error));
    assert_eq!(workers.bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn term_waits_for_the_clients_of_every_worker() {
    for last in 0..3 {
        let mut workers = Workers::start(&format!("workers_term_{last}"), 3, &["default_pool_size = 1"]);
        let mut clients = workers.clients_at(&[0, 1, 2]);
        workers.wait_for_clients(3);
        let mut console = workers.bouncer.console();
        workers.bouncer.signal(Signal::TERM);
        eventually("the signal was seen", || workers.bouncer.log().contains("waiting for"));
        let mut stays = clients.remove(last);
        for mut client in clients {
            // The only server becomes idle at a worker that ends before the last client disconnects.
            assert_eq!(client.value("SELECT 1"), "1");
            disconnect(client);
        }
        for _ in 0..5 {
            assert_eq!(stays.value("SELECT 'goes on'"), "goes on");
            // Shutdown does not wait for a console, but it stays connected while other clients are waited for.
            assert_eq!(console.column("SHOW STATE", "value").len(), 3);
        }
        stays.query("BEGIN");
        assert_eq!(tags(&stays.query("COMMIT")), "CZ");
        disconnect(stays);
        assert_eq!(workers.bouncer.wait_for_end().code(), Some(0));
        workers.observer().wait_for_backends(0);
    }
}

#[test]
fn int_waits_for_the_servers_of_every_worker() {
    let mut workers = Workers::start("workers_int", 3, &["default_pool_size = 3"]);
    let mut busy = workers.clients_at(&[0, 1, 2]);
    let mut waiting = workers.clients_at(&[0, 1, 2]);
    begin_all(&mut busy);
    for client in &mut waiting {
        client.send_query("SELECT 1");
    }
    workers.wait_for_waiting(3);
    workers.bouncer.signal(Signal::INT);
    assert!(waiting.iter_mut().all(receives_shutdown_error));
    for client in busy.iter_mut().rev() {
        assert_eq!(client.value("SELECT 'goes on'"), "goes on");
        assert_eq!(tags(&client.query("COMMIT")), "CZ");
    }
    assert_eq!(workers.bouncer.wait_for_end().code(), Some(0));
    assert!(busy.iter_mut().all(receives_shutdown_error));
}

#[test]
fn a_second_signal_ends_the_workers_that_still_wait() {
    for signal in [Signal::TERM, Signal::INT] {
        let user = format!("workers_twice_{}", if signal == Signal::TERM { "term" } else { "int" });
        let mut workers = Workers::start(&user, 3, &[]);
        let mut clients = workers.clients_at(&[1, 2]);
        begin_all(&mut clients);
        workers.bouncer.signal(signal);
        eventually("the signal was seen", || workers.bouncer.log().contains("got SIG"));
        for client in &mut clients {
            assert_eq!(client.value("SELECT 1"), "1");
        }
        workers.bouncer.signal(signal);
        assert!(clients.iter_mut().all(receives_shutdown_error));
        assert_eq!(workers.bouncer.wait_for_end().code(), Some(0));
    }
}
