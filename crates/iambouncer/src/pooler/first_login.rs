//! The one login at start that readiness waits for. Without it there would be none before the first client, and a
//! client that is only sent to a ready pooler would never come. Owns where it is tried; the login is the pool's.

use crate::client::ClientServices;
use crate::health_state::FirstLogin;

/// Databases tried at a time. One of them has to let us in; those that do not make room for the next ones, until they
/// may be tried again.
const MAX_TRIED: usize = 8;

/// Looks after it, at every sweep of the first worker until any login has succeeded. A failed one is tried again as all
/// are, after `server_login_retry`.
pub(super) fn seek(services: &ClientServices) {
    let health = &services.context.process.health;
    if services.context.workers.index() != 0 || health.first_login() != FirstLogin::Awaited {
        return;
    }
    let pools = services.directory.pools_without_clients();
    if pools.is_empty() {
        return health.settle_first_login(FirstLogin::NotNeeded);
    }
    for pool in pools.iter().filter(|pool| !pool.is_backing_off()).take(MAX_TRIED) {
        pool.connect_one();
    }
}
