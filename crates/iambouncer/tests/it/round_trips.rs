//! How often the pooler waits for the server until the first query of its first client has been answered. Round trips are
//! counted, not timed: a relay in front of PostgreSQL counts how often bytes to the server follow bytes from it.

use crate::support::bouncer::Start;
use crate::support::raw::Client;
use crate::support::{eventually, postgres};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The round trips of one connection.
struct RoundTrips {
    count: usize,
    /// True if the last bytes came from the server, or if there were none.
    server_was_last: bool,
}

/// Counts on each connection to PostgreSQL that is made through it.
struct CountingRelay {
    port: u16,
    connections: Arc<Mutex<Vec<Arc<Mutex<RoundTrips>>>>>,
}

impl CountingRelay {
    fn start(server_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections: Arc<Mutex<Vec<_>>> = Arc::default();
        let all = connections.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)) else { return };
                let trips = Arc::new(Mutex::new(RoundTrips { count: 0, server_was_last: true }));
                all.lock().unwrap().push(trips.clone());
                relay(client.try_clone().unwrap(), server.try_clone().unwrap(), trips.clone(), true);
                relay(server, client, trips, false);
            }
        });
        Self { port, connections }
    }

    /// Those of the connection with the most.
    fn most(&self) -> usize {
        let all = self.connections.lock().unwrap();
        all.iter().map(|trips| trips.lock().unwrap().count).max().unwrap_or(0)
    }
}

/// Copies one direction until its end.
fn relay(mut from: TcpStream, mut to: TcpStream, trips: Arc<Mutex<RoundTrips>>, is_to_server: bool) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(bytes @ 1..) = from.read(&mut buffer) {
            {
                let mut trips = trips.lock().unwrap();
                trips.count += usize::from(is_to_server && trips.server_was_last);
                trips.server_was_last = !is_to_server;
            }
            if to.write_all(&buffer[..bytes]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
}

#[test]
fn the_first_query_needs_at_most_one_round_trip_more_than_a_direct_connection() {
    let direct = CountingRelay::start(postgres().port());
    let mut client = Client::log_in(direct.port, "app", "app");
    assert_eq!(client.value("SELECT 1"), "1");
    assert!(direct.most() >= 2, "a login and a query");
    for mode in ["transaction", "session"] {
        let pooled = CountingRelay::start(postgres().port());
        let line = format!("app = host=127.0.0.1 port={}", pooled.port);
        let bouncer = Start::databases(&line).set(&format!("pool_mode = {mode}")).start();
        // It stays: the server is asked to reset the session of one that leaves.
        let mut client = bouncer.client();
        assert_eq!(client.value("SELECT 1"), "1");
        eventually("the query has been counted", || pooled.most() >= direct.most());
        assert!(pooled.most() <= direct.most() + 1, "{mode}: {} and {}", pooled.most(), direct.most());
    }
}
