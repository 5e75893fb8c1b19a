//! A rolling update of three poolers behind a balancer under load: no query fails. The balancer does what a Kubernetes
//! Service does: it gives new connections to the poolers that are ready, which it learns some time later.

use crate::support::updated_client::UpdatedClient;
use crate::support::{Bouncer, TIMEOUT, eventually, http, postgres};
use rustix::process::Signal;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const POOLERS: usize = 3;
/// Clients that connect for each transaction.
const CONNECTING: usize = 16;
/// Clients that keep a connection and check it before each use.
const CHECKING: usize = 8;
/// Time after which the balancer sees that a pooler is not ready, or is ready again.
const PROBE_PERIOD: Duration = Duration::from_millis(200);
/// Between two transactions of a client.
const PAUSE: Duration = Duration::from_millis(20);

/// A pooler as the balancer knows it.
struct Backend {
    port: u16,
    http_port: u16,
    is_ready: bool,
}

#[derive(Default)]
struct Balancer {
    backends: Mutex<Vec<Backend>>,
    next: AtomicUsize,
    is_over: AtomicBool,
}

impl Balancer {
    /// Starts it; returns its port.
    fn start(self: &Arc<Self>) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Some(port)) = (client, accepting.choose()) else { continue };
                if let Ok(server) = TcpStream::connect(("127.0.0.1", port)) {
                    join(client, server);
                }
            }
        });
        let probing = self.clone();
        std::thread::spawn(move || {
            while !probing.is_over.load(Ordering::Relaxed) {
                probing.probe();
                std::thread::sleep(PROBE_PERIOD);
            }
        });
        port
    }

    /// The next ready pooler in turn.
    fn choose(&self) -> Option<u16> {
        let backends = self.backends.lock().unwrap();
        let ready: Vec<u16> = backends.iter().filter(|one| one.is_ready).map(|one| one.port).collect();
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        (!ready.is_empty()).then(|| ready[at % ready.len()])
    }

    fn probe(&self) {
        let ports: Vec<u16> = self.backends.lock().unwrap().iter().map(|one| one.http_port).collect();
        for port in ports {
            let is_ready = is_ready(port);
            let mut backends = self.backends.lock().unwrap();
            if let Some(backend) = backends.iter_mut().find(|one| one.http_port == port) {
                backend.is_ready = is_ready;
            }
        }
    }

    fn add(&self, pooler: &Bouncer) {
        let (port, http_port) = (pooler.port, pooler.http_port());
        self.backends.lock().unwrap().push(Backend { port, http_port, is_ready: false });
        eventually("the balancer has seen the new pooler", || {
            self.backends.lock().unwrap().iter().any(|one| one.port == port && one.is_ready)
        });
    }

    fn remove(&self, pooler_port: u16) {
        self.backends.lock().unwrap().retain(|one| one.port != pooler_port);
    }
}

/// A probe of a process that may be gone.
fn is_ready(http_port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", http_port)) else { return false };
    let _ = stream.set_read_timeout(Some(TIMEOUT));
    let _ = stream.write_all(b"GET /readiness HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer.starts_with(b"HTTP/1.1 200")
}

/// Copies in both directions until both sides have ended.
fn join(client: TcpStream, server: TcpStream) {
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let _ = to.set_nodelay(true);
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

fn run_transaction(client: &mut UpdatedClient, number: u32) -> io::Result<()> {
    let statements: &[&str] = match number % 3 {
        0 => &["BEGIN", "SELECT pg_sleep(0.002)", "COMMIT"],
        _ => &["SELECT 1"],
    };
    statements.iter().try_for_each(|sql| client.query(sql))
}

#[derive(Default)]
struct UpdateCounts {
    transactions: AtomicU32,
    reconnects: AtomicU32,
    failures: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

impl UpdateCounts {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn count(&self, what: &str, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => {
                self.transactions.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => self.failures.lock().unwrap().push(format!("{what}: {error}")),
        }
    }

    fn run_connecting(&self, port: u16) {
        for number in 0.. {
            if self.is_over() {
                return;
            }
            let outcome = UpdatedClient::log_in(port).and_then(|mut client| {
                run_transaction(&mut client, number)?;
                client.terminate()
            });
            self.count("connects for each transaction", outcome);
            std::thread::sleep(PAUSE);
        }
    }

    fn run_checking(&self, port: u16) {
        let mut client = None;
        for number in 0.. {
            if self.is_over() {
                return;
            }
            if client.as_ref().is_none_or(UpdatedClient::is_closed) {
                self.reconnects.fetch_add(1, Ordering::Relaxed);
                match UpdatedClient::log_in(port) {
                    Ok(opened) => client = Some(opened),
                    Err(error) => self.count("reconnects", Err(error)),
                }
            }
            if let Some(open) = &mut client {
                let outcome = run_transaction(open, number);
                if outcome.is_err() {
                    client = None;
                }
                self.count("checks its connection", outcome);
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn start_pooler(more: &[&str]) -> Bouncer {
    let settings =
        ["default_pool_size = 4", "http_port = auto", "drain_min_seconds = 2", "drain_max_seconds = 6"];
    let pooler = Bouncer::in_front_of(postgres(), &[&settings, more].concat());
    // No client has connected, so the first request causes the first login.
    eventually("ready", || http::get(pooler.http_port(), "/readiness").status == 200);
    pooler
}

#[test]
fn no_query_fails_while_poolers_behind_a_balancer_are_replaced() {
    replace_under_load(2, &[]);
}

#[test]
fn no_query_fails_while_replicas_that_know_each_other_are_replaced() {
    // The port stays open during a drain, for cancel requests.
    replace_under_load(1, &["peer_host = localhost", "peer_port = 6432", "workers = 2"]);
}

fn replace_under_load(rounds: usize, settings: &[&str]) {
    let balancer = Arc::new(Balancer::default());
    let port = balancer.start();
    let mut poolers: Vec<Bouncer> = (0..POOLERS).map(|_| start_pooler(settings)).collect();
    poolers.iter().for_each(|pooler| balancer.add(pooler));
    let counts = UpdateCounts::default();
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTING)
            .map(|_| scope.spawn(|| counts.run_connecting(port)))
            .chain((0..CHECKING).map(|_| scope.spawn(|| counts.run_checking(port))))
            .collect();
        for n in 0..POOLERS * rounds {
            let before = counts.transactions.load(Ordering::Relaxed);
            let mut old = poolers.remove(0);
            let signaled = Instant::now();
            old.signal(Signal::TERM);
            let new = start_pooler(settings);
            balancer.add(&new);
            poolers.push(new);
            assert_eq!(old.wait_for_end().code(), Some(0), "pooler {n}");
            balancer.remove(old.port);
            longest = longest.max(signaled.elapsed());
            assert!(counts.transactions.load(Ordering::Relaxed) > before, "the others serve");
        }
        counts.is_over.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    balancer.is_over.store(true, Ordering::Relaxed);
    let _ = TcpStream::connect(("127.0.0.1", port));
    println!(
        "{} replacements in {:?} (longest {longest:?}), {} transactions, {} connections of checking clients",
        POOLERS * rounds,
        began.elapsed(),
        counts.transactions.load(Ordering::Relaxed),
        counts.reconnects.load(Ordering::Relaxed),
    );
    let failures = counts.failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} failures: {failures:?}", failures.len());
    let reconnects = counts.reconnects.load(Ordering::Relaxed) as usize;
    assert!(reconnects > CHECKING, "{reconnects}");
}
