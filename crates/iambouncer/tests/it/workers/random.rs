//! Random sequences of what clients and administrators do, over three workers and a pool of two. Whatever happens, there
//! are never more servers than the pool may have, none is lost, and everybody is served in the end.

use crate::support::raw::{self, Client, tags};
use crate::support::workers::{Observer, worker_of_client};
use crate::support::{Workers, eventually};
use std::fmt::Write;

const WORKERS: usize = 3;
const POOL_SIZE: usize = 2;
const CLIENTS: usize = 8;
const STEPS: usize = 250;
/// Seeds that are always tried; `ITERATIONS` asks for more.
const SEEDS: u64 = 4;

/// A small generator: the same seed gives the same steps.
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
struct ConnectionPermit {
    client: Option<Client>,
    /// What the answer that is still to come has to begin with.
    owed: Option<(&'static str, u64)>,
    in_transaction: bool,
    is_lost: bool,
}

impl ConnectionPermit {
    fn ask(&mut self, what: &'static str, value: u64) {
        let sql = if what == "SELECT" { format!("SELECT {value}") } else { what.to_owned() };
        if let Some(client) = &mut self.client {
            client.send_query(&sql);
            self.owed = Some((what, value));
        }
    }

    /// Reads the answer that is owed, or the end. True when the client is still there.
    fn read(&mut self) -> bool {
        let Some(client) = &mut self.client else { return false };
        let messages = client.until_ready();
        if messages.last().is_none_or(|message| message.tag != b'Z') {
            self.client = None;
            self.is_lost = true;
            (self.owed, self.in_transaction) = (None, false);
            return false;
        }
        let (what, value) = self.owed.take().expect("an answer to nothing");
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

struct Play {
    workers: Workers,
    console: Client,
    /// Where PAUSE is waited for.
    pauser: Option<Client>,
    observer: Observer,
    seats: Vec<ConnectionPermit>,
    random: Random,
    /// Events that may cost a client its connection.
    violence: usize,
    lost: usize,
    asked: u64,
    story: String,
}

impl Play {
    fn begin(seed: u64) -> Self {
        let settings = [format!("default_pool_size = {POOL_SIZE}"), "server_login_retry = 0.05".to_owned()];
        let workers = Workers::start(
            &format!("workers_random_{seed}"),
            WORKERS,
            &settings.each_ref().map(|s| s.as_str()),
        );
        let seats = (0..CLIENTS).map(|_| ConnectionPermit::default()).collect();
        // The first login needs a server, all later ones know its greeting: they come in during PAUSE as well.
        assert_eq!(workers.client().value("SELECT 1"), "1");
        Self {
            console: workers.bouncer.console(),
            observer: workers.observer(),
            workers,
            pauser: None,
            seats,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            violence: 0,
            lost: 0,
            asked: 0,
            story: String::new(),
        }
    }

    fn tell(&mut self, what: &str) {
        let _ = writeln!(self.story, "{what}");
    }

    fn read_news(&mut self) {
        for seat in &mut self.seats {
            while seat.has_pending_input() && seat.read() {}
            self.lost += usize::from(std::mem::take(&mut seat.is_lost));
        }
        assert!(self.lost <= self.violence, "{} clients lost by {} events", self.lost, self.violence);
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0 => self.kill_client(),
            1 => self.pause(),
            2..=4 => self.resume(),
            5 => {
                self.tell("RECONNECT");
                assert_eq!(tags(&self.console.query("RECONNECT")), "CZ");
            }
            6 => self.terminate_backend(),
            7 => self.check_limit(),
            _ => self.client_step(),
        }
        self.read_news();
    }

    fn client_step(&mut self) {
        let at = self.random.below(CLIENTS);
        let choice = self.random.below(12);
        let seat = &mut self.seats[at];
        let Some(client) = &mut seat.client else {
            let client = self.workers.client();
            let worker = worker_of_client(&client);
            seat.client = Some(client);
            return self.tell(&format!("{at} comes to worker {worker}"));
        };
        let what = match (choice, seat.owed.is_some(), seat.in_transaction) {
            (0, false, _) => {
                client.send(&raw::terminate());
                *seat = ConnectionPermit::default();
                "leaves"
            }
            (1, ..) => {
                *seat = ConnectionPermit::default();
                "is gone"
            }
            // It waits for its answer.
            (_, true, _) => return,
            (2..=4, false, false) => {
                seat.ask("BEGIN", 0);
                "BEGIN"
            }
            (2..=7, false, true) => {
                seat.ask("COMMIT", 0);
                "COMMIT"
            }
            (_, false, _) => {
                self.asked += 1;
                seat.ask("SELECT", self.asked);
                "SELECT"
            }
        };
        self.tell(&format!("{at} {what}"));
    }

    fn kill_client(&mut self) {
        let users = self.console.column("SHOW CLIENTS", "user");
        let ids = self.console.column("SHOW CLIENTS", "id");
        let ours: Vec<_> = users.iter().zip(&ids).filter(|(user, _)| **user == self.workers.user).collect();
        if users.len() != ids.len() || ours.is_empty() {
            return;
        }
        let id = ours[self.random.below(ours.len())].1;
        self.violence += 1;
        let what = format!("KILL_CLIENT {id}");
        // It may have left meanwhile, which is an error.
        self.console.query(&what);
        self.tell(&what);
    }

    fn pause(&mut self) {
        if self.pauser.is_none() {
            let mut pauser = self.workers.bouncer.console();
            pauser.send_query("PAUSE");
            self.pauser = Some(pauser);
            self.tell("PAUSE");
        }
    }

    /// Also undoes a PAUSE that still waits.
    fn resume(&mut self) {
        let Some(mut pauser) = self.pauser.take() else { return };
        eventually("PAUSE is in force", || self.console.column("SHOW DATABASES", "paused")[0] == "1");
        assert_eq!(tags(&self.console.query("RESUME")), "CZ");
        pauser.until_ready();
        self.tell("RESUME");
    }

    fn terminate_backend(&mut self) {
        let backends: Vec<String> = self.observer.backends().into_iter().collect();
        if backends.is_empty() {
            return;
        }
        let pid = &backends[self.random.below(backends.len())];
        self.violence += 1;
        self.observer.terminate(pid);
        self.tell(&format!("pg_terminate_backend {pid}"));
    }

    /// One that was closed is at PostgreSQL for a moment longer. So of those seen at one time, all but as many as the
    /// pool may have are about to go.
    fn check_limit(&mut self) {
        let seen = self.observer.backends();
        let observer = &mut self.observer;
        eventually("no more servers than the pool may have", || {
            observer.backends().intersection(&seen).count() <= POOL_SIZE
        });
        let open: usize = self.console.column("SHOW DATABASES", "current_connections")[0].parse().unwrap();
        assert!(open <= POOL_SIZE, "{open} servers");
    }

    /// Everybody gets what is owed and ends the transaction.
    fn settle(&mut self) {
        self.resume();
        eventually("everybody is quiet", || {
            self.read_news();
            for seat in self.seats.iter_mut().filter(|seat| seat.in_transaction && seat.owed.is_none()) {
                seat.ask("COMMIT", 0);
            }
            self.seats.iter().all(|seat| seat.owed.is_none() && !seat.in_transaction)
        });
    }

    fn end(&mut self) {
        self.settle();
        self.check_limit();
        eventually("nobody waits", || self.workers.in_pools(&mut self.console, "cl_waiting") == "0");
        self.workers.servers_agree();
        for seat in &mut self.seats {
            seat.ask("SELECT", 7);
            if seat.client.is_some() {
                // One that was killed last may only learn it now.
                seat.read();
            }
            self.lost += usize::from(std::mem::take(&mut seat.is_lost));
        }
        assert!(self.lost <= self.violence, "{} clients lost by {} events", self.lost, self.violence);
        // All places of the pool are of use, wherever they are wanted.
        for workers in [[0, 1], [1, 2], [2, 2], [0, 0]] {
            let mut clients = self.workers.clients_at(&workers);
            super::moving::begin_all(&mut clients);
            super::moving::commit_all(&mut clients);
        }
        self.workers.servers_agree();
    }
}

/// Says what was done when a test fails.
struct Teller(u64, Play);

impl Drop for Teller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}:\n{}", self.0, self.1.story);
        }
    }
}

#[test]
fn whatever_happens_no_server_is_lost_and_everybody_is_served() {
    let more = std::env::var("ITERATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in 1..=SEEDS.max(more) {
        eprintln!("seed {seed}");
        let mut teller = Teller(seed, Play::begin(seed));
        let play = &mut teller.1;
        for _ in 0..STEPS {
            play.step();
        }
        play.end();
    }
}
