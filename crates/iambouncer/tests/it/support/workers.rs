//! A pooler with several workers, in front of the shared PostgreSQL with its own user. Owns how a test gets
//! clients at particular workers, and the view PostgreSQL has of this pool's servers.

use super::raw::{self, Client};
use super::{Bouncer, bouncer::Start, eventually, postgres};
use iambouncer::clients::{CancelKey, KeyForm, KeyOwner};
use rds_sim::postgres::Postgres;
use std::collections::BTreeSet;

/// Limit of logins, for each client, until one reaches the wanted worker.
const MAX_LOGINS_PER_CLIENT: usize = 40;

/// A pooler and the user of its pool.
pub struct Workers {
    pub bouncer: Bouncer,
    /// No other test in this PostgreSQL uses this user.
    pub user: String,
    postgres_port: u16,
}

/// The number of the worker that serves a client.
pub fn worker_of_client(client: &Client) -> usize {
    let (pid, secret) = client.cancel_key();
    match KeyForm::Alone.owner_of(&CancelKey::of_request(pid, &secret).unwrap()) {
        KeyOwner::Worker(worker) => worker,
        KeyOwner::Peer(id) => panic!("a key of peer {id}"),
    }
}

impl Workers {
    /// A pooler with this number of workers, in front of the shared PostgreSQL. No other test may use `user`.
    pub fn start(user: &str, workers: usize, settings: &[&str]) -> Self {
        Self::in_front_of(postgres(), user, workers, "", settings)
    }

    /// Like `start`, in front of another server with a database `app`; `line` is appended to the database
    /// line.
    pub fn in_front_of(server: &Postgres, user: &str, workers: usize, line: &str, settings: &[&str]) -> Self {
        let databases = format!("app = host=127.0.0.1 port={} dbname=app {line}", server.port());
        Self::with_databases(server, user, workers, &databases, settings)
    }

    /// Like `in_front_of`, with these database lines.
    pub fn with_databases(
        server: &Postgres,
        user: &str,
        workers: usize,
        databases: &str,
        settings: &[&str],
    ) -> Self {
        server.sql(&format!("CREATE ROLE {user} LOGIN")).unwrap();
        let start = Start::databases(databases)
            .users(&format!("\"{user}\" \"\"\n\"other\" \"other\"\n\"postgres\" \"\"\n"))
            .set(&format!("workers = {workers}"));
        let bouncer = settings.iter().fold(start, |start, setting| start.set(setting)).start();
        Self { bouncer, user: user.to_owned(), postgres_port: server.port() }
    }

    /// A client at any worker.
    pub fn client(&self) -> Client {
        Client::log_in(self.bouncer.port, &self.user, "app")
    }

    /// A client at this worker.
    pub fn client_at(&self, worker: usize) -> Client {
        self.clients_at(&[worker]).remove(0)
    }

    /// A client at each of these workers, in this order.
    pub fn clients_at(&self, workers: &[usize]) -> Vec<Client> {
        self.clients_with(&vec![(); workers.len()], workers, |()| self.client())
    }

    /// A client of the user `other` at this worker.
    pub fn other_client_at(&self, worker: usize) -> Client {
        let log_in = |()| Client::log_in(self.bouncer.port, "other", "app");
        self.clients_with(&[()], &[worker], log_in).remove(0)
    }

    /// A client at each of these workers, each logged in with the parameter at the same index.
    pub fn clients_with<T: Copy>(
        &self,
        parameters: &[T],
        workers: &[usize],
        log_in: impl Fn(T) -> Client,
    ) -> Vec<Client> {
        // Keep clients at other workers until all are found: a new client goes to the worker with the fewest.
        let mut elsewhere = Vec::new();
        let mut found = Vec::new();
        for (&parameter, &worker) in parameters.iter().zip(workers) {
            for attempt in 0.. {
                assert!(attempt < MAX_LOGINS_PER_CLIENT, "no client came to worker {worker}");
                let client = log_in(parameter);
                if worker_of_client(&client) == worker {
                    found.push(client);
                    break;
                }
                elsewhere.push(client);
            }
        }
        for mut client in elsewhere {
            client.send(&raw::terminate());
        }
        found
    }

    /// A value of `SHOW POOLS` for this user's pool.
    pub fn in_pools(&self, console: &mut Client, column: &str) -> String {
        let users = console.pools("user");
        let at = users.iter().position(|user| *user == self.user);
        at.map_or_else(|| "no pool".to_owned(), |at| console.pools(column)[at].clone())
    }

    /// Waits until exactly `count` clients wait for a server.
    pub fn wait_for_waiting(&self, count: usize) {
        let mut console = self.bouncer.console();
        eventually(&format!("{count} clients wait"), || {
            self.in_pools(&mut console, "cl_waiting") == count.to_string()
        });
    }

    /// Waits until exactly `count` clients are connected.
    pub fn wait_for_clients(&self, count: usize) {
        let mut console = self.bouncer.console();
        eventually(&format!("{count} clients"), || {
            console.column("SHOW CLIENTS", "user").iter().filter(|user| **user == self.user).count() == count
        });
    }

    /// A direct connection to PostgreSQL, bypassing the pooler.
    pub fn observer(&self) -> Observer {
        Observer {
            direct: Client::log_in(self.postgres_port, "postgres", "postgres"),
            user: self.user.clone(),
        }
    }

    /// Process IDs of this user's servers, as reported by the pooler.
    pub fn servers(&self, console: &mut Client) -> Vec<String> {
        let users = console.column("SHOW SERVERS", "user");
        let pids = console.column("SHOW SERVERS", "remote_pid");
        if users.len() != pids.len() {
            // A server was opened or closed between the two queries.
            return self.servers(console);
        }
        users.into_iter().zip(pids).filter(|(user, _)| *user == self.user).map(|(_, pid)| pid).collect()
    }

    /// Waits until the pooler's servers are exactly those of PostgreSQL, each listed once.
    pub fn servers_agree(&self) {
        let (mut console, mut observer) = (self.bouncer.console(), self.observer());
        let mut last = (Vec::new(), BTreeSet::new());
        for _ in 0..2 {
            // Check twice: no server is moving between workers any longer.
            eventually("SHOW SERVERS and PostgreSQL agree", || {
                last = (self.servers(&mut console), observer.backends());
                last.0.len() == last.1.len() && last.0.iter().all(|pid| last.1.contains(pid))
            });
        }
    }
}

/// PostgreSQL's view of a user's servers.
pub struct Observer {
    direct: Client,
    user: String,
}

impl Observer {
    /// Their process IDs. A backend that is exiting is still listed for a moment.
    pub fn backends(&mut self) -> BTreeSet<String> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{}'", self.user);
        self.direct.column(&sql, "pid").into_iter().collect()
    }

    /// Terminates a backend, as an administrator would.
    pub fn terminate(&mut self, pid: &str) {
        self.direct.query(&format!("SELECT pg_terminate_backend({pid})"));
    }

    /// Waits until there are exactly `count` backends.
    pub fn wait_for_backends(&mut self, count: usize) {
        eventually(&format!("{count} servers at PostgreSQL"), || self.backends().len() == count);
    }

    /// Waits until exactly `count` backends are active.
    pub fn wait_for_active(&mut self, count: usize) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state = 'active'",
            self.user
        );
        eventually(&format!("{count} active servers"), || self.direct.value(&sql) == count.to_string());
    }
}
