//! Several poolers that share a port and are each other's peers. Owns the port, the directories of their UNIX sockets and
//! their configuration; stops them with the test.

use super::bouncer::Start;
use super::raw::Client;
use super::{Bouncer, TIMEOUT, postgres};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// Logins until one reaches the wanted process.
const MAX_LOGINS: usize = 200;

/// Keeps a port for sockets with SO_REUSEPORT. It does not listen, so the kernel gives it no connection.
pub struct KeptPort(socket2::Socket);

impl KeptPort {
    /// A free port.
    pub fn choose() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        Self(socket)
    }

    pub fn number(&self) -> u16 {
        self.0.local_addr().unwrap().as_socket().unwrap().port()
    }
}

/// The peer ID in the cancel key of a client.
pub fn peer_id_of(client: &Client) -> u16 {
    let [_, low, high, _] = client.cancel_key().0.to_be_bytes();
    u16::from_le_bytes([low, high])
}

/// Poolers with the peer IDs 1, 2, … on one port.
pub struct Fleet {
    /// The running ones, in the order of their numbers.
    pub members: Vec<Option<Bouncer>>,
    kept: KeptPort,
    dir: tempfile::TempDir,
    settings: Vec<String>,
    /// Lines of `[peers]` in addition to those of the members.
    strangers: Vec<String>,
}

impl Fleet {
    /// Starts `count` poolers with these settings; `strangers` are further lines of `[peers]`.
    pub fn start(count: usize, settings: &[&str], strangers: &[&str]) -> Self {
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let mut fleet = Self {
            members: (0..count).map(|_| None).collect(),
            kept: KeptPort::choose(),
            dir: tempfile::tempdir().unwrap(),
            settings: owned(settings),
            strangers: owned(strangers),
        };
        for id in 1..=count {
            std::fs::create_dir(fleet.socket_dir(id)).unwrap();
            fleet.start_member(id);
        }
        fleet
    }

    /// Starts the member with this number.
    pub fn start_member(&mut self, id: usize) {
        let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
        let mut start = Start::databases(&databases)
            .set("so_reuseport = 1")
            .set(&format!("listen_port = {}", self.port()))
            .set(&format!("unix_socket_dir = {}", self.socket_dir(id).display()))
            .set(&format!("peer_id = {id}"));
        for line in &self.settings {
            start = start.set(line);
        }
        // Every member has the same list, which includes itself.
        start = start.set("[peers]");
        for id in 1..=self.members.len() {
            start = start.set(&format!("{id} = host={} port={}", self.socket_dir(id).display(), self.port()));
        }
        for line in &self.strangers {
            start = start.set(line);
        }
        self.members[id - 1] = Some(start.start());
    }

    /// The shared port.
    pub fn port(&self) -> u16 {
        self.kept.number()
    }

    /// The member with this number.
    pub fn member(&self, id: usize) -> &Bouncer {
        self.members[id - 1].as_ref().unwrap()
    }

    fn socket_dir(&self, id: usize) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// A client of this member.
    pub fn client_at(&self, id: usize) -> Client {
        for _ in 0..MAX_LOGINS {
            let client = Client::log_in(self.port(), "app", "app");
            if usize::from(peer_id_of(&client)) == id {
                return client;
            }
        }
        panic!("no client reached member {id}");
    }

    /// The console of this member.
    pub fn console_at(&self, id: usize) -> Client {
        for _ in 0..MAX_LOGINS {
            let client = Client::log_in(self.port(), "postgres", "pgbouncer");
            if usize::from(peer_id_of(&client)) == id {
                return client;
            }
        }
        panic!("no console of member {id}");
    }

    /// Sends a cancel request to this member, without waiting for its end.
    pub fn start_cancel_at(&self, id: usize, pid: u32, key: &[u8]) -> UnixStream {
        let path = self.socket_dir(id).join(format!(".s.PGSQL.{}", self.port()));
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let mut request = Vec::new();
        wire::encode::cancel_request(&mut request, pid, key);
        stream.write_all(&request).unwrap();
        stream
    }

    /// Sends a cancel request to this member and waits until it has acted on it.
    pub fn cancel_at(&self, id: usize, pid: u32, key: &[u8]) {
        let mut stream = self.start_cancel_at(id, pid, key);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}
