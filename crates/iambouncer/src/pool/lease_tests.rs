//! However a lease or a place in the queue ends, its server is idle again or closed. Owns a pool without a server
//! process.

use super::lease::Lease;
use super::{Acquired, Pool, UnfinishedWork, sample_directory};
use crate::server::{Activity, sample};
use crate::worker::{self, executor};
use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

const INI: &str =
    "[databases]\napp = host=/nowhere user=app\n[pgbouncer]\nauth_type = any\nserver_check_query =\n";

/// Runs a test on a worker with a pool that has one idle server.
fn with_one_server<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Pool>) -> F + 'static) {
    sample_directory::run(INI, async move |directory| {
        let pool = directory.pool(&directory.database("app").unwrap(), "app");
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = sample::server(ours, pool.shared.open.take(None).into_iter().collect(), worker::now());
        pool.table.add(&server.info);
        pool.admit(Box::new(server), worker::now());
        assert_eq!(pool.idle_count(), 1);
        test(pool).await;
        drop(theirs);
    });
}

fn acquire(pool: &Rc<Pool>) -> Lease {
    match pool.acquire() {
        Acquired::Server(lease) => lease,
        _ => panic!("no server"),
    }
}

/// What a session does with a server that it has acquired.
fn link(lease: &Lease) {
    lease.info.client_id.set(1);
    lease.info.activity.set(Activity::Active);
}

async fn until_closed(pool: &Pool) {
    assert_eq!((pool.idle_count(), pool.lingering_servers()), (0, 1));
    while pool.shared.open.taken() > 0 {
        pool.changed.wait().await;
    }
    assert_eq!((pool.table.count(), pool.lingering_servers()), (0, 0));
}

#[test]
fn a_lease_that_is_dropped_unused_returns_its_server() {
    with_one_server(|pool| async move {
        drop(acquire(&pool));
        assert_eq!((pool.idle_count(), pool.table.count()), (1, 1));
    });
}

#[test]
fn a_lease_that_is_dropped_in_use_closes_its_server() {
    with_one_server(|pool| async move {
        let lease = acquire(&pool);
        link(&lease);
        drop(lease);
        until_closed(&pool).await;
    });
}

#[test]
fn a_lease_ends_once() {
    with_one_server(|pool| async move {
        let lease = acquire(&pool);
        link(&lease);
        lease.release();
        assert_eq!(pool.idle_count(), 1);
        let lease = acquire(&pool);
        link(&lease);
        lease.abandon(UnfinishedWork { owes_answers: false, between_messages: true });
        until_closed(&pool).await;
    });
}

#[test]
fn a_task_that_ends_cannot_forget_its_server() {
    with_one_server(|pool| async move {
        let lease = acquire(&pool);
        link(&lease);
        executor::spawn(async move {
            let _lease = lease;
        });
        pool.changed.wait().await;
        assert_eq!((pool.table.count(), pool.idle_count(), pool.shared.open.taken()), (0, 0, 0));
    });
}

#[test]
fn a_worker_that_ends_closes_the_servers_in_use() {
    let shared = Rc::new(RefCell::new(None));
    let kept = shared.clone();
    with_one_server(|pool| async move {
        kept.replace(Some(pool.shared.clone()));
        let lease = acquire(&pool);
        link(&lease);
        executor::spawn(async move {
            let _lease = lease;
            std::future::pending().await
        });
        executor::yield_now().await;
    });
    assert_eq!(shared.take().unwrap().open.taken(), 0);
}

#[test]
fn a_waiter_that_is_dropped_returns_what_it_was_granted() {
    with_one_server(|pool| async move {
        let lease = acquire(&pool);
        link(&lease);
        pool.database.paused.set(true);
        let (Acquired::Wait(first), Acquired::Wait(second)) = (pool.acquire(), pool.acquire()) else {
            panic!("the pool is paused");
        };
        pool.database.paused.set(false);
        lease.release();
        assert!(!first.is_waiting() && second.is_waiting());
        drop(first);
        assert!(!second.is_waiting(), "the next waiter has it");
        assert_eq!(pool.queue.waiting().0, 0);
        drop(second);
        assert_eq!(pool.idle_count(), 1);
    });
}

#[test]
fn a_waiter_that_is_dropped_leaves_the_queue() {
    with_one_server(|pool| async move {
        pool.database.paused.set(true);
        let Acquired::Wait(waiter) = pool.acquire() else { panic!("the pool is paused") };
        assert_eq!(pool.queue.waiting().0, 1);
        drop(waiter);
        assert_eq!(pool.queue.waiting().0, 0);
    });
}
