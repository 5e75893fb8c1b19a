//! A client's cancel request. Owns what it means for a client in each state; the way to the server is
//! [`crate::server::cancel`]'s.

use super::serve::ClientServices;
use crate::clients::{ClientState, worker_of};
use crate::server;
use crate::worker::home;

/// Passes a request on to the worker that knows its client. Returns when the server has accepted it: drivers take the end
/// of the connection as the acknowledgement, and may send the next query right after it.
pub(super) async fn route(services: &ClientServices, pid: u32, key: Vec<u8>) {
    let question = move || async move {
        if let Some(services) = home::get::<ClientServices>() {
            handle(&services, pid, &key).await;
        }
    };
    // A number nobody has is a wrong key like any other.
    let _ = services.context.workers.ask(worker_of(pid), question).await;
}

/// Acts on a request. A wrong key does nothing and is answered by nothing, as in PostgreSQL.
async fn handle(services: &ClientServices, pid: u32, key: &[u8]) {
    let Some(client) = services.clients.by_cancel_key(pid, key) else {
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
    let limit = services.context.config().settings.cancel_wait_timeout;
    server::cancel::send(&services.context, server, client.id, limit).await;
    pool.cancel_ended();
}
