//! What the integration tests stand on: a real PostgreSQL, the real binary, and a client that speaks the protocol
//! message by message. Owns starting and ending; every process it starts ends with the test.

pub mod answering;
pub mod bouncer;
pub mod drivers;
pub mod http;
pub mod lambda;
pub mod moto;
pub mod pam;
pub mod postgres;
pub mod program;
pub mod raw;
pub mod scripted;
pub mod sim;
pub mod tls_client;
pub mod workers;

pub use bouncer::Bouncer;
pub use postgres::postgres;
pub use raw::Client;
pub use workers::Workers;

use std::time::{Duration, Instant};

/// Longest time anything in these tests may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; for states that another process reaches in its own time.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::yield_now();
        std::thread::sleep(Duration::from_millis(5));
    }
}
