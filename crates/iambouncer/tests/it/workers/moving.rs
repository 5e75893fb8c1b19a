//! Servers move to the workers where clients wait: every client of every worker is served, and no server is
//! lost while moving.

use crate::support::raw::{self, Client, tags};
use crate::support::{Workers, eventually};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// Starts a transaction on every client and returns the process IDs of their servers. The transactions stay
/// open.
pub(super) fn begin_all(clients: &mut [Client]) -> BTreeSet<String> {
    for client in clients.iter_mut() {
        client.send_query("BEGIN");
    }
    for client in clients.iter_mut() {
        assert_eq!(tags(&client.until_ready()), "CZ");
    }
    clients.iter_mut().map(|client| client.value("SELECT pg_backend_pid()")).collect()
}

/// Ends the loops that check the flag, also if the test fails.
pub(super) struct Until<'a>(pub(super) &'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

pub(super) fn commit_all(clients: &mut [Client]) {
    for client in clients {
        assert_eq!(tags(&client.query("COMMIT")), "CZ");
    }
}

#[test]
fn clients_of_three_workers_share_one_server() {
    let workers = Workers::start("workers_share", 3, &["default_pool_size = 1"]);
    let clients = workers.clients_at(&[0, 1, 2, 0, 1, 2]);
    let mut observer = workers.observer();
    let is_done = AtomicBool::new(false);
    let pids: BTreeSet<String> = thread::scope(|scope| {
        let until = Until(&is_done);
        let watching = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !is_done.load(Ordering::Acquire) {
                seen.extend(observer.backends());
            }
            seen
        });
        let all: Vec<_> = clients
            .into_iter()
            .enumerate()
            .map(|(i, mut client)| {
                scope.spawn(move || {
                    let ask = |n| client.value(&format!("SELECT '{i} {n} ' || pg_backend_pid()"));
                    let answers: Vec<String> = (0..100).map(ask).collect();
                    for (n, answer) in answers.iter().enumerate() {
                        assert!(answer.starts_with(&format!("{i} {n} ")), "another's answer: {answer}");
                    }
                    answers.iter().map(|answer| answer.rsplit(' ').next().unwrap().to_owned()).collect()
                })
            })
            .collect();
        let pids: Vec<BTreeSet<String>> = all.into_iter().map(|one| one.join().unwrap()).collect();
        drop(until);
        // No server was closed or opened, so PostgreSQL has seen only one.
        assert_eq!(watching.join().unwrap().len(), 1);
        pids.into_iter().flatten().collect()
    });
    assert_eq!(pids.len(), 1, "{pids:?}");
    workers.servers_agree();
}

#[test]
fn waiters_at_all_workers_are_served_after_a_long_transaction() {
    let workers = Workers::start("workers_held", 3, &["default_pool_size = 1"]);
    let mut holder = workers.client_at(0);
    let mut waiting = workers.clients_at(&[1, 2, 0, 1, 2, 0]);
    holder.query("BEGIN");
    let pid = holder.value("SELECT pg_backend_pid()");
    for client in &mut waiting {
        client.send_query("SELECT pg_backend_pid()");
    }
    workers.wait_for_waiting(waiting.len());
    assert_eq!(tags(&holder.query("COMMIT")), "CZ");
    for client in &mut waiting {
        assert_eq!(client.until_ready()[1].row(), [Some(pid.clone())]);
    }
    // The same with the transaction at another worker.
    let mut holder = waiting.remove(1);
    holder.query("BEGIN");
    waiting[0].send_query("SELECT pg_backend_pid()");
    workers.wait_for_waiting(1);
    assert_eq!(tags(&holder.query("COMMIT")), "CZ");
    assert_eq!(waiting[0].until_ready()[1].row(), [Some(pid)]);
    workers.servers_agree();
}

/// Number of queries a client of another worker sends under load.
const SAMPLES: usize = 15;
/// Limit of load queries served first. Pools guarantee a few milliseconds; the limit allows for a machine on
/// which the worker rarely gets CPU time.
const MAX_OVERTAKING: u64 = 3000;

#[test]
fn a_busy_worker_does_not_keep_the_only_server_to_itself() {
    let workers = Workers::start("workers_busy", 3, &["default_pool_size = 1"]);
    let load = workers.clients_at(&[0, 0, 0, 0]);
    let mut other = workers.client_at(1);
    let (done, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut overtaking: Vec<u64> = thread::scope(|scope| {
        let _until = Until(&is_over);
        for mut client in load {
            let (done, is_over) = (&done, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    assert_eq!(client.value("SELECT 1"), "1");
                    done.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let ask = |_| {
            let before = done.load(Ordering::Acquire);
            // Wait for the load: without it the answer would prove nothing.
            eventually("the load is running", || done.load(Ordering::Acquire) > before + 4);
            let before = done.load(Ordering::Acquire);
            assert_eq!(other.value("SELECT 2"), "2");
            done.load(Ordering::Acquire) - before
        };
        (0..SAMPLES).map(ask).collect()
    });
    overtaking.sort_unstable();
    assert!(overtaking[SAMPLES / 2] < MAX_OVERTAKING, "{overtaking:?}");
    workers.servers_agree();
}

#[test]
fn a_worker_with_all_the_clients_gets_all_the_servers() {
    let workers = Workers::start("workers_gather", 3, &["default_pool_size = 4"]);
    let mut others = workers.clients_at(&[0, 0, 1, 1]);
    let before = begin_all(&mut others);
    assert_eq!(before.len(), 4);
    commit_all(&mut others);
    let mut clients = workers.clients_at(&[2, 2, 2, 2]);
    drop(others);
    assert_eq!(begin_all(&mut clients), before, "servers move, none is opened");
    // A fifth client must wait and gets the first server that is released.
    let mut fifth = workers.client_at(0);
    fifth.send_query("SELECT 5");
    workers.wait_for_waiting(1);
    assert_eq!(workers.observer().backends(), before);
    commit_all(&mut clients[..1]);
    assert_eq!(tags(&fifth.until_ready()), "TDCZ");
    commit_all(&mut clients[1..]);
    workers.servers_agree();
}

#[test]
fn clients_are_served_with_more_workers_than_servers() {
    let workers = Workers::start("workers_many", 4, &["default_pool_size = 2"]);
    let mut clients = workers.clients_at(&[0, 1, 2, 3]);
    for turn in 0..24 {
        let first = turn % 4;
        let second = (first + 1 + turn / 4 % 3) % 4;
        for at in [first, second] {
            clients[at].send_query("BEGIN");
        }
        for at in [first, second] {
            assert_eq!(tags(&clients[at].until_ready()), "CZ", "turn {turn}");
        }
        for at in [first, second] {
            assert_eq!(tags(&clients[at].query("COMMIT")), "CZ", "turn {turn}");
        }
    }
    assert!(workers.observer().backends().len() <= 2);
    workers.servers_agree();
}

#[test]
fn a_server_killed_while_idle_at_another_worker_is_not_assigned() {
    let workers = Workers::start("workers_killed", 3, &["default_pool_size = 1"]);
    let mut clients = workers.clients_at(&[0, 1, 2]);
    let mut observer = workers.observer();
    for turn in 0..9 {
        let pid = clients[turn % 3].value("SELECT pg_backend_pid()");
        observer.terminate(&pid);
        observer.wait_for_backends(0);
        let next = clients[(turn + 1) % 3].value("SELECT pg_backend_pid()");
        assert_ne!(next, pid, "turn {turn}");
    }
    workers.servers_agree();
}

#[test]
fn a_server_moving_to_a_client_that_disconnects_is_not_lost() {
    let workers = Workers::start("workers_left", 3, &["default_pool_size = 1"]);
    let mut later = workers.client_at(2);
    for turn in 0..30 {
        let mut clients = workers.clients_at(&[0, 1]);
        let mut leaver = clients.remove(1);
        let mut holder = clients.remove(0);
        holder.query("BEGIN");
        leaver.send_query("SELECT 1");
        if turn % 3 == 0 {
            workers.wait_for_waiting(1);
        }
        if turn % 2 == 0 {
            holder.send_query("COMMIT");
            drop(leaver);
        } else {
            leaver.send(&raw::terminate());
            drop(leaver);
            holder.send_query("COMMIT");
        }
        assert_eq!(tags(&holder.until_ready()), "CZ");
        assert_eq!(later.value("SELECT 2"), "2", "turn {turn}");
    }
    workers.servers_agree();
    assert_eq!(workers.observer().backends().len(), 1);
}

/// What `SHOW SERVERS` reports about a server, except what changes with every use.
fn shown_server(workers: &Workers) -> Vec<(&'static str, String)> {
    let columns = [
        "addr",
        "port",
        "local_addr",
        "local_port",
        "connect_time",
        "close_needed",
        "ptr",
        "remote_pid",
        "tls",
        "application_name",
        "prepared_statements",
        "id",
    ];
    let mut console = workers.bouncer.console();
    columns.map(|column| (column, console.column("SHOW SERVERS", column).concat())).to_vec()
}

#[test]
fn a_server_is_the_same_after_it_has_moved() {
    let settings = ["default_pool_size = 1", "max_prepared_statements = 10"];
    let workers = Workers::start("workers_facts", 2, &settings);
    let mut clients = workers.clients_at(&[0, 1]);
    clients[0].query("SET application_name = 'moved'");
    clients[1].query("SET application_name = 'moved'");
    clients[0].send(&[raw::parse("one", "SELECT 1"), raw::sync()].concat());
    assert_eq!(tags(&clients[0].until_ready()), "1Z");
    clients[0].value("SELECT pg_backend_pid()");
    let before = shown_server(&workers);
    for turn in 1..=4 {
        // Nothing but its client reports where a server is.
        clients[turn % 2].value("SELECT pg_backend_pid()");
        assert_eq!(shown_server(&workers), before, "turn {turn}");
    }
    let value = |name| &before.iter().find(|(column, _)| *column == name).unwrap().1;
    assert_eq!((value("application_name").as_str(), value("prepared_statements").as_str()), ("moved", "1"));
}
