//! Random sequences of client and administrator actions, with three workers and a pool of two. There must
//! never be more servers than the pool size, none may be lost, and every client is served in the end.

use crate::support::raw::{self, Client, tags};
use crate::support::workers::{Observer, worker_of_client};
use crate::support::{Workers, eventually};
use std::fmt::Write;

const WORKERS: usize = 3;
const POOL_SIZE: usize = 2;
const CLIENTS: usize = 8;
const STEPS: usize = 250;
/// Seeds that are always run; `ITERATIONS` adds more.
const SEEDS: u64 = 4;

/// A small pseudorandom generator: the same seed gives the same steps.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit
    }
}

/// A client that may or may not be connected.
#[derive(Default)]
struct TestClient {
    client: Option<Client>,
    /// The statement whose answer is expected, and its value.
    expected: Option<(&'static str, u64)>,
    in_transaction: bool,
    is_lost: bool,
}

impl TestClient {
    fn ask(&mut self, what: &'static str, value: u64) {
        let sql = if what == "SELECT" { format!("SELECT {value}") } else { what.to_owned() };
        if let Some(client) = &mut self.client {
            client.send_query(&sql);
            self.expected = Some((what, value));
        }
    }

    /// Reads the expected answer, or the end of the stream. True if the client is still connected.
    fn read(&mut self) -> bool {
        let Some(client) = &mut self.client else { return false };
        let messages = client.until_ready();
        if messages.last().is_none_or(|message| message.tag != b'Z') {
            self.client = None;
            self.is_lost = true;
            (self.expected, self.in_transaction) = (None, false);
            return false;
        }
        let (what, value) = self.expected.take().expect("an answer to nothing");
        match what {
            "SELECT" => {
                assert_eq!(messages[1].row(), [Some(value.to_string())], "the answer is this client's")
            }
            _ => assert_eq!(tags(&messages), "CZ", "{what}"),
        }
        self.in_transaction = messages.last().is_some_and(|ready| ready.bytes[5] == b'T');
        true
    }

    fn has_pending_input(&self) -> bool {
        self.client.as_ref().is_some_and(Client::has_pending_input)
    }
}

struct Run {
    workers: Workers,
    console: Client,
    /// The console that waits for PAUSE.
    pauser: Option<Client>,
    observer: Observer,
    clients: Vec<TestClient>,
    random: Random,
    /// Number of events that may disconnect a client.
    disruptions: usize,
    lost: usize,
    queries: u64,
    action_log: String,
}

impl Run {
    fn begin(seed: u64) -> Self {
        let settings = [format!("default_pool_size = {POOL_SIZE}"), "server_login_retry = 0.05".to_owned()];
        let workers = Workers::start(
            &format!("workers_random_{seed}"),
            WORKERS,
            &settings.each_ref().map(|s| s.as_str()),
        );
        let clients = (0..CLIENTS).map(|_| TestClient::default()).collect();
        // The first login needs a server; later ones use its cached parameters and succeed during PAUSE as well.
        assert_eq!(workers.client().value("SELECT 1"), "1");
        Self {
            console: workers.bouncer.console(),
            observer: workers.observer(),
            workers,
            pauser: None,
            clients,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            disruptions: 0,
            lost: 0,
            queries: 0,
            action_log: String::new(),
        }
    }

    fn log_action(&mut self, what: &str) {
        let _ = writeln!(self.action_log, "{what}");
    }

    fn read_pending(&mut self) {
        for client in &mut self.clients {
            while client.has_pending_input() && client.read() {}
            self.lost += usize::from(std::mem::take(&mut client.is_lost));
        }
        assert!(self.lost <= self.disruptions, "{} clients lost by {} events", self.lost, self.disruptions);
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0 => self.kill_client(),
            1 => self.pause(),
            2..=4 => self.resume(),
            5 => {
                self.log_action("RECONNECT");
                assert_eq!(tags(&self.console.query("RECONNECT")), "CZ");
            }
            6 => self.terminate_backend(),
            7 => self.check_limit(),
            _ => self.client_step(),
        }
        self.read_pending();
    }

    fn client_step(&mut self) {
        let at = self.random.below(CLIENTS);
        let choice = self.random.below(12);
        let slot = &mut self.clients[at];
        let Some(client) = &mut slot.client else {
            let client = self.workers.client();
            let worker = worker_of_client(&client);
            slot.client = Some(client);
            return self.log_action(&format!("{at} comes to worker {worker}"));
        };
        let what = match (choice, slot.expected.is_some(), slot.in_transaction) {
            (0, false, _) => {
                client.send(&raw::terminate());
                *slot = TestClient::default();
                "leaves"
            }
            (1, ..) => {
                *slot = TestClient::default();
                "is gone"
            }
            // The client still waits for its answer.
            (_, true, _) => return,
            (2..=4, false, false) => {
                slot.ask("BEGIN", 0);
                "BEGIN"
            }
            (2..=7, false, true) => {
                slot.ask("COMMIT", 0);
                "COMMIT"
            }
            (_, false, _) => {
                self.queries += 1;
                slot.ask("SELECT", self.queries);
                "SELECT"
            }
        };
        self.log_action(&format!("{at} {what}"));
    }

    fn kill_client(&mut self) {
        let users = self.console.column("SHOW CLIENTS", "user");
        let ids = self.console.column("SHOW CLIENTS", "id");
        let ours: Vec<_> = users.iter().zip(&ids).filter(|(user, _)| **user == self.workers.user).collect();
        if users.len() != ids.len() || ours.is_empty() {
            return;
        }
        let id = ours[self.random.below(ours.len())].1;
        self.disruptions += 1;
        let what = format!("KILL_CLIENT {id}");
        // The client may have disconnected meanwhile, which is an error.
        self.console.query(&what);
        self.log_action(&what);
    }

    fn pause(&mut self) {
        if self.pauser.is_none() {
            let mut pauser = self.workers.bouncer.console();
            pauser.send_query("PAUSE");
            self.pauser = Some(pauser);
            self.log_action("PAUSE");
        }
    }

    /// Also cancels a PAUSE that still waits.
    fn resume(&mut self) {
        let Some(mut pauser) = self.pauser.take() else { return };
        eventually("PAUSE is in force", || self.console.sees_pause());
        assert_eq!(tags(&self.console.query("RESUME")), "CZ");
        pauser.until_ready();
        self.log_action("RESUME");
    }

    fn terminate_backend(&mut self) {
        let backends: Vec<String> = self.observer.backends().into_iter().collect();
        if backends.is_empty() {
            return;
        }
        let pid = &backends[self.random.below(backends.len())];
        self.disruptions += 1;
        self.observer.terminate(pid);
        self.log_action(&format!("pg_terminate_backend {pid}"));
    }

    /// A closed server is listed by PostgreSQL for a moment longer, so of the backends seen at one time all
    /// but POOL_SIZE must disappear.
    fn check_limit(&mut self) {
        let seen = self.observer.backends();
        let observer = &mut self.observer;
        eventually("no more servers than the pool may have", || {
            observer.backends().intersection(&seen).count() <= POOL_SIZE
        });
        let open: usize = self.console.column("SHOW DATABASES", "current_connections")[0].parse().unwrap();
        assert!(open <= POOL_SIZE, "{open} servers");
    }

    /// Every client receives its expected answer and ends its transaction.
    fn settle(&mut self) {
        self.resume();
        eventually("all clients are idle", || {
            self.read_pending();
            for client in
                self.clients.iter_mut().filter(|client| client.in_transaction && client.expected.is_none())
            {
                client.ask("COMMIT", 0);
            }
            self.clients.iter().all(|client| client.expected.is_none() && !client.in_transaction)
        });
    }

    fn end(&mut self) {
        self.settle();
        self.check_limit();
        eventually("no client waits", || self.workers.in_pools(&mut self.console, "cl_waiting") == "0");
        self.workers.servers_agree();
        for client in &mut self.clients {
            client.ask("SELECT", 7);
            if client.client.is_some() {
                // A client that was killed last may only receive the error now.
                client.read();
            }
            self.lost += usize::from(std::mem::take(&mut client.is_lost));
        }
        assert!(self.lost <= self.disruptions, "{} clients lost by {} events", self.lost, self.disruptions);
        // All servers of the pool can be used at any worker.
        for workers in [[0, 1], [1, 2], [2, 2], [0, 0]] {
            let mut clients = self.workers.clients_at(&workers);
            super::moving::begin_all(&mut clients);
            super::moving::commit_all(&mut clients);
        }
        self.workers.servers_agree();
    }
}

/// Prints the sequence of actions if the test fails.
struct PrintOnFailure(u64, Run);

impl Drop for PrintOnFailure {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}:\n{}", self.0, self.1.action_log);
        }
    }
}

#[test]
fn no_server_is_lost_and_every_client_is_served() {
    let more = std::env::var("ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in 1..=SEEDS.max(more) {
        eprintln!("seed {seed}");
        let mut guard = PrintOnFailure(seed, Run::begin(seed));
        let run = &mut guard.1;
        for _ in 0..STEPS {
            run.step();
        }
        run.end();
    }
}
