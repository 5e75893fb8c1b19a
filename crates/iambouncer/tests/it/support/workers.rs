//! A pooler with several workers, in front of the shared PostgreSQL as a user of its own. Owns how a test gets clients
//! at the workers it names, and what PostgreSQL itself says about this pool's servers.

use super::raw::{self, Client};
use super::{Bouncer, bouncer::Start, eventually, postgres};
use iambouncer::clients::worker_of;
use rds_sim::postgres::Postgres;
use std::collections::BTreeSet;

/// Logins after which a worker has to have come up, for each client wanted.
const MAX_LOGINS_PER_CLIENT: usize = 40;

/// A pooler and the user whose pool it is.
pub struct Workers {
    pub bouncer: Bouncer,
    /// Nobody else in this PostgreSQL has this user's servers.
    pub user: String,
    postgres_port: u16,
}

/// The number of the worker that serves a client.
pub fn worker_of_client(client: &Client) -> usize {
    worker_of(client.cancel_key().0)
}

impl Workers {
    /// As many workers, in front of the shared PostgreSQL. `user` has to be this test's only.
    pub fn start(user: &str, workers: usize, settings: &[&str]) -> Self {
        Self::in_front_of(postgres(), user, workers, "", settings)
    }

    /// The same in front of another server with a database `app`; `line` is added to the database's line.
    pub fn in_front_of(server: &Postgres, user: &str, workers: usize, line: &str, settings: &[&str]) -> Self {
        let databases = format!("app = host=127.0.0.1 port={} dbname=app {line}", server.port());
        Self::with_databases(server, user, workers, &databases, settings)
    }

    /// The same with lines of the test's own.
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

    /// A client at whatever worker.
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

    /// A client at each of these workers, logged in with the parameters that stand at the same place.
    pub fn clients_with<T: Copy>(
        &self,
        parameters: &[T],
        workers: &[usize],
        log_in: impl Fn(T) -> Client,
    ) -> Vec<Client> {
        // Those at other workers stay until all are found: a new client goes to the worker with the fewest.
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

    /// One value of `SHOW POOLS`, for this user's pool.
    pub fn in_pools(&self, console: &mut Client, column: &str) -> String {
        let users = console.column("SHOW POOLS", "user");
        let at = users.iter().position(|user| *user == self.user);
        at.map_or_else(|| "no pool".to_owned(), |at| console.column("SHOW POOLS", column)[at].clone())
    }

    /// Waits until as many clients wait for a server.
    pub fn wait_for_waiting(&self, count: usize) {
        let mut console = self.bouncer.console();
        eventually(&format!("{count} clients wait"), || {
            self.in_pools(&mut console, "cl_waiting") == count.to_string()
        });
    }

    /// Waits until as many clients are connected.
    pub fn wait_for_clients(&self, count: usize) {
        let mut console = self.bouncer.console();
        eventually(&format!("{count} clients"), || {
            console.column("SHOW CLIENTS", "user").iter().filter(|user| **user == self.user).count() == count
        });
    }

    /// A direct way to PostgreSQL, past the pooler.
    pub fn observer(&self) -> Observer {
        Observer {
            direct: Client::log_in(self.postgres_port, "postgres", "postgres"),
            user: self.user.clone(),
        }
    }

    /// Process IDs of this user's servers, as the pooler has them.
    pub fn servers(&self, console: &mut Client) -> Vec<String> {
        let users = console.column("SHOW SERVERS", "user");
        let pids = console.column("SHOW SERVERS", "remote_pid");
        if users.len() != pids.len() {
            // One came or went between the two.
            return self.servers(console);
        }
        users.into_iter().zip(pids).filter(|(user, _)| *user == self.user).map(|(_, pid)| pid).collect()
    }

    /// Waits until the pooler's servers are those that PostgreSQL has, each once.
    pub fn servers_agree(&self) {
        let (mut console, mut observer) = (self.bouncer.console(), self.observer());
        let mut last = (Vec::new(), BTreeSet::new());
        for _ in 0..2 {
            // Twice the same: nothing is on its way any more.
            eventually("SHOW SERVERS and PostgreSQL agree", || {
                last = (self.servers(&mut console), observer.backends());
                last.0.len() == last.1.len() && last.0.iter().all(|pid| last.1.contains(pid))
            });
        }
    }
}

/// What PostgreSQL says about the servers of a user.
pub struct Observer {
    direct: Client,
    user: String,
}

impl Observer {
    /// Their process IDs. One that is ending is still there for a moment.
    pub fn backends(&mut self) -> BTreeSet<String> {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{}'", self.user);
        self.direct.column(&sql, "pid").into_iter().collect()
    }

    /// Ends one of them, as an administrator would.
    pub fn terminate(&mut self, pid: &str) {
        self.direct.query(&format!("SELECT pg_terminate_backend({pid})"));
    }

    /// Waits until there are as many.
    pub fn wait_for_backends(&mut self, count: usize) {
        eventually(&format!("{count} servers at PostgreSQL"), || self.backends().len() == count);
    }

    /// Waits until as many of them work for a client.
    pub fn wait_for_active(&mut self, count: usize) {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state = 'active'",
            self.user
        );
        eventually(&format!("{count} active servers"), || self.direct.value(&sql) == count.to_string());
    }
}
