//! io_uring rings and the memory limit (RLIMIT_MEMLOCK) they count against.

use crate::support::bouncer::Start;
use crate::support::postgres;

/// Enough for one or two rings; the limit applies to all processes of the user that lack CAP_IPC_LOCK.
const LOCKED_BYTES: u32 = 700_000;

/// Starts without CAP_IPC_LOCK: root of a user namespace does not have it on the host.
fn with_little_locked_memory(workers: usize, engine: &str) -> Start<'static> {
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    Start::databases(String::leak(line))
        .set(&format!("workers = {workers}"))
        .env("IAMBOUNCER_IO_ENGINE", engine)
        .through(&["unshare", "--user", "--map-root-user", "prlimit", &format!("--memlock={LOCKED_BYTES}")])
}

#[test]
fn a_worker_that_is_refused_a_ring_uses_epoll() {
    const WORKERS: usize = 8;
    let bouncer = with_little_locked_memory(WORKERS, "auto").start();
    let mut clients: Vec<_> = (0..2 * WORKERS).map(|_| bouncer.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.value(&format!("SELECT {n}")), n.to_string());
    }
    let log = bouncer.log();
    // If not even the first ring is granted, or the kernel does not account this memory, no worker falls back.
    let refused = log.matches("uses epoll because its ring was refused").count();
    assert!(refused <= 1, "{log}");
    if refused == 0 {
        eprintln!("no worker was refused a ring here:\n{log}");
    }
}
