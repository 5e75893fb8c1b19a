//! Clients that move between workers: they and the console notice nothing, and workers join and leave with the load.

use super::moving::Until;
use crate::cancel::cancel;
use crate::support::bouncer::Start;
use crate::support::raw::{self, Client, tags};
use crate::support::workers::worker_of_client;
use crate::support::{Bouncer, TIMEOUT, eventually, postgres};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A pooler in front of the shared PostgreSQL, with this in its environment.
fn start(environment: (&str, &str), settings: &[&str]) -> Bouncer {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = Start::databases(&databases).set("workers = 1-3").env(environment.0, environment.1);
    settings.iter().fold(start, |start, setting| start.set(setting)).start()
}

/// A pooler whose clients move after every request.
fn always_moving(settings: &[&str]) -> Bouncer {
    start(("TEST_MOVE_CLIENTS", "1"), settings)
}

/// A worker of the pooler is busy if it computes for a tenth of the time.
const SMALL_LOAD: (&str, &str) = ("TEST_BUSY_LOAD", "100");
/// Interval between checks that must not be a load themselves.
const SLOW_POLL: Duration = Duration::from_millis(250);

/// As [`eventually`], for a state that frequent checks would change.
fn without_load(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(SLOW_POLL);
    }
}

fn ids_of_clients(console: &mut Client) -> Vec<String> {
    let mut ids = console.column("SHOW CLIENTS", "id");
    ids.sort();
    ids
}

#[test]
fn a_client_that_moves_keeps_its_session() {
    for mode in ["transaction", "session"] {
        let bouncer = always_moving(&[&format!("pool_mode = {mode}"), "default_pool_size = 2"]);
        let mut client = bouncer.client();
        client.query("SET application_name = 'mover'");
        client.send(&[raw::parse("own", "SELECT $1 || ' own'"), raw::sync()].concat());
        client.until_ready();
        for turn in 0..20 {
            assert_eq!(client.value("SHOW application_name"), "mover", "{mode}, turn {turn}");
            let bind = raw::bind("", "own", &[turn.to_string().as_bytes()]);
            client.send(&[bind, raw::execute(), raw::sync()].concat());
            let answer = client.until_ready();
            assert_eq!(answer[1].row(), [Some(format!("{turn} own"))], "{mode}");
        }
    }
}

#[test]
fn a_client_in_session_pooling_takes_its_server_along() {
    let bouncer = always_moving(&["pool_mode = session"]);
    let mut client = bouncer.client();
    client.query("CREATE TEMPORARY TABLE kept (n int)");
    client.query("PREPARE by_text AS SELECT count(*) FROM kept");
    let pid = client.value("SELECT pg_backend_pid()");
    for turn in 0..10 {
        client.query("INSERT INTO kept VALUES (1)");
        assert_eq!(client.value("EXECUTE by_text"), (turn + 1).to_string());
        assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
    }
    assert_eq!(bouncer.show("SERVERS", "state"), ["active"]);
}

#[test]
fn bytes_that_arrive_during_a_move_are_not_lost() {
    for engine in ["auto", "epoll"] {
        let bouncer = always_moving(&["pool_mode = transaction", &format!("io_engine = {engine}")]);
        let mut client = bouncer.client();
        // The answer to each is followed by a move, while the next are in the socket or arrive.
        for _ in 0..30 {
            let requests: Vec<u8> = (0..20).flat_map(|n| raw::query(&format!("SELECT {n}"))).collect();
            let (first, rest) = requests.split_at(requests.len() / 2 + 3);
            client.send(first);
            client.send(rest);
            for n in 0..20 {
                let answer = client.until_ready();
                assert_eq!((tags(&answer).as_str(), answer[1].row()), ("TDCZ", vec![Some(n.to_string())]));
            }
        }
    }
}

/// Clients send requests while commands hold their moves back.
fn move_during_commands(mode: &str) {
    let bouncer = always_moving(&[&format!("pool_mode = {mode}")]);
    let mut clients: Vec<Client> = (0..8).map(|_| bouncer.client()).collect();
    let mut console = bouncer.console();
    let before = ids_of_clients(&mut console);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let until = Until(&is_done);
        for client in &mut clients {
            scope.spawn(|| {
                while !is_done.load(Ordering::Acquire) {
                    client.value("SELECT 1");
                }
            });
        }
        for _ in 0..50 {
            assert_eq!(ids_of_clients(&mut console), before);
        }
        drop(until);
    });
    let killed = console.column("SHOW CLIENTS", "ptr");
    assert_eq!(killed.len(), before.len());
}

#[test]
fn commands_find_each_client_once_while_clients_move() {
    move_during_commands("transaction");
}

/// The client keeps its server, and with it the state of its last request.
#[test]
fn a_client_whose_move_is_held_back_in_session_pooling_is_still_served() {
    move_during_commands("session");
}

#[test]
fn a_client_that_has_moved_cancels_its_own_query() {
    let bouncer = always_moving(&["pool_mode = transaction"]);
    let mut client = bouncer.client();
    let mut observer = Client::log_in(postgres().port(), "postgres", "postgres");
    // PostgreSQL ignores a cancel request that arrives before the query.
    let active = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%AS moved'";
    for _ in 0..3 {
        assert_eq!(client.value("SELECT 1"), "1");
        client.send_query("SELECT pg_sleep(60) AS moved");
        eventually("the query runs", || observer.value(active) == "1");
        let (pid, secret) = client.cancel_key();
        cancel(bouncer.port, pid, &secret);
        let answer = client.until_ready();
        assert_eq!(answer[answer.len() - 2].error().0, "57014");
    }
}

#[test]
fn a_worker_joins_when_another_is_busy_and_leaves_when_it_is_not_needed() {
    for mode in ["transaction", "session"] {
        let bouncer = start(SMALL_LOAD, &[&format!("pool_mode = {mode}"), "default_pool_size = 8"]);
        // A client of the console stays at its worker, and is counted there. Its login comes first, when one is active.
        let mut console = bouncer.console();
        assert_eq!(worker_of_client(&console), 0);
        let mut clients: Vec<Client> = (0..8).map(|_| bouncer.client()).collect();
        let mut states =
            |wanted: &str| console.column("SHOW WORKERS", "state").iter().filter(|s| *s == wanted).count();
        without_load("the logins are over", || states("active") == 1);
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            let until = Until(&is_done);
            for (number, client) in clients.iter_mut().enumerate() {
                let is_done = &is_done;
                scope.spawn(move || {
                    while !is_done.load(Ordering::Acquire) {
                        assert_eq!(client.value(&format!("SELECT {number}")), number.to_string());
                    }
                });
            }
            eventually("all workers are active", || states("active") == 3);
            eventually("each has clients", || {
                bouncer.show("WORKERS", "clients").iter().all(|clients| clients != "0")
            });
            drop(until);
        });
        without_load("one is sufficient", || states("active") == 1);
        // They move as they become active; another worker may have joined once more for a moment.
        without_load("all have moved", || {
            for (number, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.value(&format!("SELECT {number}")), number.to_string());
            }
            console.column("SHOW WORKERS", "clients")[1..] == ["0", "0"]
        });
        without_load("their servers, too", || console.column("SHOW WORKERS", "servers")[1..] == ["0", "0"]);
    }
}

/// How often the kernel has scheduled the thread of each worker, besides the first.
fn times_scheduled(bouncer: &Bouncer) -> Vec<u64> {
    let tasks = format!("/proc/{}/task", bouncer.pid().as_raw_pid());
    let mut all: Vec<(String, u64)> = std::fs::read_dir(tasks)
        .unwrap()
        .filter_map(|task| {
            let path = task.unwrap().path();
            let name = std::fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
            let status = std::fs::read_to_string(path.join("status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            name.starts_with("worker-").then(|| (name, line.trim().parse().unwrap()))
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, count)| count).collect()
}

#[test]
fn a_worker_without_work_is_not_scheduled() {
    let bouncer = start(("RUST_BACKTRACE", "0"), &["pool_mode = transaction"]);
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    let mut before = Vec::new();
    eventually("the other workers have started", || {
        before = times_scheduled(&bouncer);
        client.query("SELECT pg_sleep(0.1)");
        before.len() == 2 && times_scheduled(&bouncer) == before
    });
    // Sweeps of the first worker's janitor, and a sample of the history.
    client.query("SELECT pg_sleep(6)");
    assert_eq!(times_scheduled(&bouncer), before);
}
