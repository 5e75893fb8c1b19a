//! A client's cancel request. Owns what it means for a client in each state; the way to the server is
//! [`crate::server::cancel`]'s.

use super::serve::Door;
use crate::clients::{ClientState, worker_of};
use crate::server;
use crate::worker::{executor, home};

/// Passes a request on to the worker that knows its client.
pub(super) fn route(door: &Door, pid: u32, key: Vec<u8>) {
    let errand = move || {
        if let Some(door) = home::get::<Door>() {
            handle(&door, pid, &key);
        }
    };
    // A number nobody has is a wrong key like any other.
    drop(door.context.team.tell(worker_of(pid), Box::new(errand)));
}

/// Acts on a request. A wrong key does nothing and is answered by nothing, as in PostgreSQL.
fn handle(door: &Door, pid: u32, key: &[u8]) {
    let Some(client) = door.clients.by_cancel_key(pid, key) else {
        tracing::debug!(pid, "cancel request with an unknown key");
        return;
    };
    if client.state.get() == ClientState::Waiting {
        client.cancel_wait();
        return;
    }
    let linked = client.server();
    let pool = client.pool.get().cloned();
    let (Some(server), Some(pool)) = (linked, pool) else { return };
    let context = door.context.clone();
    let limit = context.config().settings.cancel_wait_timeout;
    executor::spawn(async move {
        server::cancel::send(&context, server, client.id, limit).await;
        pool.cancel_ended();
    });
}
