//! Several poolers with an address each and one port, as replicas of a Service are, and the name of all addresses. Owns
//! the addresses, the name server and a load balancer; stops the poolers with the test.

use super::bouncer::Start;
use super::raw::Client;
use super::sim::Sim;
use super::{Bouncer, postgres};
use rds_sim::postgres::Postgres;
use rds_sim::{DnsEntry, DnsServer};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};

/// The name of all replicas.
pub const PEER_HOST: &str = "peers.example";
/// Addresses with the port, for replicas and for what a test puts in their place: 127.0.0.1 to this.
const ADDRESSES: u8 = 5;
/// A TTL longer than any test.
const LONG_TTL: u32 = 3600;
/// Attempts to find a port that is free at all addresses.
const MAX_ATTEMPTS: usize = 100;

/// Poolers at 127.0.0.1, 127.0.0.2, …
pub struct Replicas {
    /// The running ones, by their numbers from 1.
    members: Vec<Option<Bouncer>>,
    /// Bound and not listening, so that the kernel gives the port to no other program.
    kept: Vec<socket2::Socket>,
    databases: String,
    pub dns: DnsServer,
    /// Owns the name server's runtime.
    pub sim: Sim,
}

impl Replicas {
    /// Addresses and a name, which has none of them yet.
    pub fn reserve() -> Self {
        Self::in_front_of(postgres(), "")
    }

    /// As [`reserve`](Self::reserve), for another server; `line` is appended to the database line.
    pub fn in_front_of(server: &Postgres, line: &str) -> Self {
        let sim = Sim::in_front_of(server);
        let dns = sim.dns();
        dns.set_ttl(LONG_TTL);
        Self {
            members: (0..ADDRESSES).map(|_| None).collect(),
            kept: keep_addresses(),
            databases: format!("app = host=127.0.0.1 port={} dbname=app {line}", server.port()),
            dns,
            sim,
        }
    }

    /// Starts replicas 1 to `count` with these settings and announces them.
    pub fn start(count: u8, settings: &[&str]) -> Self {
        let mut replicas = Self::reserve();
        let numbers: Vec<u8> = (1..=count).collect();
        replicas.announce(&numbers);
        for number in numbers {
            replicas.start_member(number, settings);
        }
        replicas
    }

    /// Starts the replica with this number.
    pub fn start_member(&mut self, number: u8, settings: &[&str]) {
        let mut start = Start::databases(&self.databases)
            .set("so_reuseport = 1")
            .set(&format!("listen_addr = {}", self.address(number).ip()))
            .set(&format!("listen_port = {}", self.port()))
            .set(&format!("dns_server = {}", self.dns.address()))
            .set(&format!("peer_host = {PEER_HOST}"));
        for line in settings {
            start = start.set(line);
        }
        self.members[usize::from(number) - 1] = Some(start.start());
    }

    /// Has the name return the addresses with these numbers.
    pub fn announce(&self, numbers: &[u8]) {
        let addresses = numbers.iter().map(|number| self.address(*number).ip()).collect();
        self.dns.set(PEER_HOST, DnsEntry::Addresses(addresses));
    }

    /// The port of all replicas.
    pub fn port(&self) -> u16 {
        self.kept[0].local_addr().unwrap().as_socket().unwrap().port()
    }

    /// An address with the port.
    pub fn address(&self, number: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 0, 0, number), self.port()).into()
    }

    /// Listens at an address without a replica.
    pub fn listen_at(&self, number: u8, backlog: i32) -> TcpListener {
        let socket = reusable_socket();
        socket.bind(&self.address(number).into()).unwrap();
        socket.listen(backlog).unwrap();
        socket.into()
    }

    /// The replica with this number.
    pub fn member(&self, number: u8) -> &Bouncer {
        self.members[usize::from(number) - 1].as_ref().unwrap()
    }

    /// A client of this replica.
    pub fn client_at(&self, number: u8) -> Client {
        Client::log_in_at(self.address(number), "app", "app")
    }

    /// The console of this replica.
    pub fn console_at(&self, number: u8) -> Client {
        Client::log_in_at(self.address(number), "postgres", "pgbouncer")
    }

    /// Sends a cancel request to this replica, without waiting for its end.
    pub fn start_cancel_at(&self, number: u8, (pid, key): (u32, Vec<u8>)) -> Client {
        start_cancel(self.address(number), (pid, key))
    }

    /// Sends a cancel request to this replica and waits until it has acted on it.
    pub fn cancel_at(&self, number: u8, key: (u32, Vec<u8>)) {
        assert_eq!(self.start_cancel_at(number, key).read(), None);
    }

    /// Starts a load balancer that gives each connection to the next of the replicas with these numbers.
    pub fn balancer(&self, numbers: &[u8]) -> SocketAddr {
        let targets: Vec<SocketAddr> = numbers.iter().map(|number| self.address(*number)).collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (accepted, target) in listener.incoming().zip(targets.into_iter().cycle()) {
                let (client, server) = (accepted.unwrap(), TcpStream::connect(target).unwrap());
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                copy_to_end(client.try_clone().unwrap(), server.try_clone().unwrap());
                copy_to_end(server, client);
            }
        });
        address
    }
}

/// Sends a cancel request, without waiting for its end.
pub fn start_cancel(address: SocketAddr, (pid, key): (u32, Vec<u8>)) -> Client {
    let mut request = Vec::new();
    wire::encode::cancel_request(&mut request, pid, &key);
    let mut connection = Client::connect_to(address);
    connection.send(&request);
    connection
}

/// Copies in one direction on a thread of its own, until either side has closed.
fn copy_to_end(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

fn reusable_socket() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket
}

/// One port at all addresses.
fn keep_addresses() -> Vec<socket2::Socket> {
    for _ in 0..MAX_ATTEMPTS {
        let mut kept: Vec<socket2::Socket> = Vec::new();
        for number in 1..=ADDRESSES {
            let port =
                kept.first().map_or(0, |first| first.local_addr().unwrap().as_socket().unwrap().port());
            let socket = reusable_socket();
            if socket.bind(&SocketAddr::from(([127, 0, 0, number], port)).into()).is_err() {
                break;
            }
            kept.push(socket);
        }
        if kept.len() == usize::from(ADDRESSES) {
            return kept;
        }
    }
    panic!("no port is free at all addresses");
}
