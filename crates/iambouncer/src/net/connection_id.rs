//! Numbers of connections: one sequence for clients and servers, as in PgBouncer. Owns the last number.

use std::sync::atomic::{AtomicU64, Ordering};

/// The console shows numbers as `int4`.
const MAX_ID: u64 = i32::MAX as u64;

static TAKEN: AtomicU64 = AtomicU64::new(0);

/// The number of a new connection: from 1, one after the other. After two billion connections numbers are used again.
pub fn next() -> u64 {
    TAKEN.fetch_add(1, Ordering::Relaxed) % MAX_ID + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow() {
        let first = next();
        assert!(first > 0 && next() > first);
    }
}
