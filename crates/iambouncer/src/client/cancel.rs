//! Cancel requests from clients. Owns what a request does in each client state; sending it to the server is left to
//! [`crate::server::cancel`].

use super::serve::ClientServices;
use crate::clients::{ClientState, worker_of};
use crate::server;
use crate::worker::home;

/// Passes a request to the worker that has the client. Returns once the server has accepted it: drivers take the end
/// of the connection as the acknowledgement, and may send the next query right after it.
pub(super) async fn route(services: &ClientServices, pid: u32, key: Vec<u8>) {
    let request = move || async move {
        if let Some(services) = home::get::<ClientServices>() {
            handle(&services, pid, &key).await;
        }
    };
    // An unused process ID is treated like any wrong key.
    let _ = services.context.workers.ask(worker_of(pid), request).await;
}

/// Acts on a request. A wrong key is ignored without an answer, as in PostgreSQL.
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
