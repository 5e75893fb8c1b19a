//! A PgBouncer as a peer: cancel requests that reach the wrong one of the two are forwarded. `make pgbouncer` runs these
//! tests.

use crate::cancel::cancel;
use crate::peers::{expect_canceled, start_query};
use crate::support::bouncer::Start;
use crate::support::fleet::{KeptPort, peer_id_of};
use crate::support::pgbouncer::PgBouncer;
use crate::support::{Bouncer, Client, postgres};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const OUR_ID: u16 = 1;
const THEIR_ID: u16 = 2;
/// Cancel requests per direction.
const REQUESTS: usize = 20;

#[derive(Clone, Copy)]
enum Transport {
    Tcp,
    Unix,
}

/// This program and a PgBouncer, each with a port of its own. The directory has the UNIX socket of the first.
struct Pair {
    ours: Bouncer,
    theirs: PgBouncer,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn start(transport: Transport, settings: &str) -> Self {
        let kept = KeptPort::choose();
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let peers = |their_port: u16, their_dir: &Path| {
            let hosts = match transport {
                Transport::Tcp => ["127.0.0.1".to_owned(), "127.0.0.1".to_owned()],
                Transport::Unix => [dir.path(), their_dir].map(|path| path.display().to_string()),
            };
            let of_each = [(OUR_ID, kept.number()), (THEIR_ID, their_port)];
            let lines: Vec<String> = of_each
                .iter()
                .zip(hosts)
                .map(|((id, port), host)| format!("{id} = host={host} port={port}"))
                .collect();
            format!("[peers]\n{}", lines.join("\n"))
        };
        let database = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
        let theirs = PgBouncer::start(&database, |at| {
            format!("peer_id = {THEIR_ID}\n{}", peers(at.port, at.socket_dir))
        });
        let peers = peers(theirs.port, theirs.socket_dir());
        let ours = Start::databases(&database)
            .set("so_reuseport = 1")
            .set(&format!("listen_port = {}", kept.number()))
            .set(&format!("unix_socket_dir = {}", dir.path().display()))
            .set(settings)
            .set(&format!("peer_id = {OUR_ID}\n{peers}"))
            .start();
        Self { ours, theirs, _dir: dir }
    }

    /// Cancels queries of clients of each with requests to the other.
    fn exchange_cancel_requests(&self) {
        let ports = [(OUR_ID, self.ours.port), (THEIR_ID, self.theirs.port)];
        let mut clients = ports.map(|(id, port)| {
            let client = Client::log_in(port, "app", "app");
            assert_eq!(peer_id_of(&client), id);
            client
        });
        for _ in 0..REQUESTS {
            for (at, client) in clients.iter_mut().enumerate() {
                let (pid, key) = client.cancel_key();
                start_query(client);
                let (_, other) = ports[1 - at];
                cancel(other, pid, &key);
                expect_canceled(client);
            }
        }
    }
}

#[test]
#[ignore = "needs a PgBouncer: make pgbouncer"]
fn requests_are_forwarded_over_tcp_in_both_directions() {
    Pair::start(Transport::Tcp, "").exchange_cancel_requests();
}

#[test]
#[ignore = "needs a PgBouncer: make pgbouncer"]
fn requests_are_forwarded_over_unix_sockets_in_both_directions() {
    Pair::start(Transport::Unix, "").exchange_cancel_requests();
}

#[test]
#[ignore = "needs a PgBouncer: make pgbouncer"]
fn requests_of_a_pgbouncer_reach_the_worker_that_has_the_client() {
    let pair = Pair::start(Transport::Unix, "workers = 3");
    // Each worker gets one.
    let mut clients: Vec<Client> = (0..3).map(|_| pair.ours.client()).collect();
    for client in &mut clients {
        let (pid, key) = client.cancel_key();
        start_query(client);
        cancel(pair.theirs.port, pid, &key);
        expect_canceled(client);
    }
}
