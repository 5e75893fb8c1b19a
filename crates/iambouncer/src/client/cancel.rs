//! A client's cancel request. Owns what it means for a client in each state; the way to the server is
//! [`crate::server::cancel`]'s.

use super::serve::Door;
use crate::clients::ClientState;
use crate::server;
use crate::worker::executor;

/// Acts on a request. A wrong key does nothing and is answered by nothing, as in PostgreSQL.
pub(super) fn handle(door: &Door, pid: u32, key: &[u8]) {
    let Some(client) = door.clients.by_cancel_key(pid, key) else {
        tracing::debug!(pid, "cancel request with an unknown key");
        return;
    };
    if client.state.get() == ClientState::Waiting {
        client.cancel_wait();
        return;
    }
    let linked = client.server.borrow().clone();
    let pool = client.pool.borrow().clone();
    let (Some(server), Some(pool)) = (linked, pool) else { return };
    let context = door.context.clone();
    let limit = context.config().settings.cancel_wait_timeout;
    executor::spawn(async move {
        server::cancel::send(&context, server, client.id, limit).await;
        pool.cancel_ended();
    });
}
