//! Rings of the kernel and the memory they lock.

use crate::support::bouncer::Start;
use crate::support::postgres;

/// Enough for a ring or two; their memory counts for the user, over all processes that have no privilege to lock more.
const LOCKED_BYTES: u32 = 700_000;

/// A start without that privilege: root of a name space has it there, and not on the machine.
fn with_little_locked_memory(workers: usize, engine: &str) -> Start<'static> {
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    Start::databases(String::leak(line))
        .set(&format!("workers = {workers}"))
        .env("IAMBOUNCER_IO_ENGINE", engine)
        .through(&["unshare", "--user", "--map-root-user", "prlimit", &format!("--memlock={LOCKED_BYTES}")])
}

#[test]
fn a_worker_that_gets_no_ring_uses_epoll() {
    const WORKERS: usize = 8;
    let bouncer = with_little_locked_memory(WORKERS, "auto").start();
    let mut clients: Vec<_> = (0..2 * WORKERS).map(|_| bouncer.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("SELECT {n}")), n.to_string());
    }
    let log = bouncer.log();
    // Where not even the first can be had, or the kernel does not count this memory, there is nothing to fall back from.
    let refused = log.matches("uses epoll, since its ring was refused").count();
    assert!(refused <= 1, "{log}");
    if refused == 0 {
        eprintln!("no worker was refused a ring here:\n{log}");
    }
}
