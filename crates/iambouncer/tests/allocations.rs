//! Memory budgets: no allocation per query, few bytes per idle client. Runs the pooler in this process with
//! an allocator that counts the allocations of its worker thread. Owns that allocator and is therefore a test
//! binary of its own.

#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

#[expect(unreachable_pub, reason = "a support library inside a test binary")]
mod in_process;

use in_process::{framed, log_in, until_ready};
use rds_sim::postgres::{Postgres, PostgresOptions};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Allocated and not yet freed.
static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);
/// The counters cover all poolers in this process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call is forwarded to the system allocator unchanged.
#[allow(unsafe_code, reason = "GlobalAlloc is an unsafe trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            LIVE_BYTES.fetch_add(layout.size() as i64, Ordering::Relaxed);
        }
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if COUNTED.try_with(Cell::get).unwrap_or(false) {
            LIVE_BYTES.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        }
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Queries per measurement.
const QUERIES: u64 = 4000;
/// The janitor makes a few allocations per second regardless of load; this limit is far below one per query.
const MAX_ALLOCATIONS: u64 = QUERIES / 20;

/// Clients that connect, run one query and stay connected.
const IDLE_CLIENTS: i64 = 200;
/// Bytes per idle client, without malloc's own overhead. ARCHITECTURE.md lists what they are used for.
const MAX_BYTES_PER_IDLE_CLIENT: i64 = 512;
/// Time limit for the buffers of the last answer to be freed.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

fn start_pooler(server: &Postgres) -> u16 {
    in_process::start_pooler(server, "workers = 1", || COUNTED.set(true))
}

#[test]
fn an_idle_client_keeps_few_bytes() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Postgres::start(&PostgresOptions::default()).unwrap();
    let port = start_pooler(&server);
    let open = || {
        let mut stream = log_in(port);
        stream.write_all(&framed(b'Q', b"SELECT 1\0")).unwrap();
        until_ready(&mut stream);
        stream
    };
    // The one-time cost of the first client (a server, blocks, tables) is not counted.
    let first = open();
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let clients: Vec<TcpStream> = (0..IDLE_CLIENTS).map(|_| open()).collect();
    let per_client = || (LIVE_BYTES.load(Ordering::Relaxed) - before) / IDLE_CLIENTS;
    let deadline = Instant::now() + SETTLE_LIMIT;
    while per_client() > MAX_BYTES_PER_IDLE_CLIENT && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(per_client() <= MAX_BYTES_PER_IDLE_CLIENT, "{} bytes", per_client());
    drop((first, clients));
}

#[test]
fn no_query_allocates() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let server = Postgres::start(&PostgresOptions::default()).unwrap();
    let port = start_pooler(&server);
    let mut stream = log_in(port);
    let sync = framed(b'S', b"");
    stream.write_all(&[framed(b'P', b"s\0SELECT 1\0\0\0"), sync.clone()].concat()).unwrap();
    until_ready(&mut stream);

    let execute = [framed(b'B', b"\0s\0\0\0\0\0\0\0"), framed(b'E', b"\0\0\0\0\0"), sync.clone()].concat();
    let unnamed = [
        framed(b'P', b"\0SELECT 1\0\0\0"),
        framed(b'B', b"\0\0\0\0\0\0\0\0"),
        framed(b'E', b"\0\0\0\0\0"),
        sync,
    ];
    let requests =
        [("simple", framed(b'Q', b"SELECT 1\0")), ("prepared", execute), ("extended", unnamed.concat())];
    for (name, request) in requests {
        for _ in 0..100 {
            stream.write_all(&request).unwrap();
            until_ready(&mut stream);
        }
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        for _ in 0..QUERIES {
            stream.write_all(&request).unwrap();
            until_ready(&mut stream);
        }
        let made = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert!(made <= MAX_ALLOCATIONS, "{name}: {made} allocations in {QUERIES} queries");
    }
}
