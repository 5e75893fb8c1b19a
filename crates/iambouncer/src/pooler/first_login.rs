//! The first login, which readiness waits for. Without it, no login would happen before the first client, and a
//! client that is sent only to a ready pooler would never arrive. Owns where it is attempted; the login belongs to the
//! pool.

use crate::health_state::FirstLogin;
use crate::worker_state::Worker;

/// Databases tried concurrently. One successful login is enough; failed ones make room for others until they may be
/// retried.
const MAX_TRIED: usize = 8;

/// Called at every sweep of the first worker until a login has succeeded. A failed login is retried like any other,
/// after `server_login_retry`.
pub(super) fn try_login(worker: &Worker) {
    let health = &worker.context.process.health;
    if worker.context.worker.index() != 0 {
        return;
    }
    match health.first_login() {
        FirstLogin::Awaited => {}
        FirstLogin::NotRequested if !worker.directory.has_named_user() => {
            return health.settle_first_login(FirstLogin::NotNeeded);
        }
        FirstLogin::NotRequested | FirstLogin::Done | FirstLogin::NotNeeded => return,
    }
    let pools = worker.directory.pools_without_clients();
    if pools.is_empty() {
        return health.settle_first_login(FirstLogin::NotNeeded);
    }
    for pool in pools.iter().filter(|pool| !pool.is_backing_off()).take(MAX_TRIED) {
        pool.connect_one();
    }
}
