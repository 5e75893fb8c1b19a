//! Support for the integration tests: a real PostgreSQL, the real binary, and a client that sends and reads
//! single protocol messages. Owns starting and stopping them; every process ends with the test.

pub mod answering;
pub mod bouncer;
pub mod browser;
pub mod drivers;
pub mod fleet;
pub mod http;
pub mod lambda;
pub mod moto;
pub mod pam;
pub mod pgbouncer;
pub mod postgres;
pub mod program;
pub mod random;
pub mod raw;
pub mod replicas;
pub mod scripted;
pub mod sim;
pub mod slapd;
pub mod tls_client;
pub mod updated_client;
pub mod workers;

pub use bouncer::Bouncer;
pub use postgres::postgres;
pub use raw::Client;
pub use workers::Workers;

use std::time::{Duration, Instant};

/// Time limit after which anything in these tests counts as hanging.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Waits until `condition` holds, for a state that another process reaches asynchronously.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(5));
    }
}
