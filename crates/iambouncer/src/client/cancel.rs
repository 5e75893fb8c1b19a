//! Cancel requests from clients. Owns what a request does in each client state; sending it to the server is left to
//! [`crate::server::cancel`].

use crate::clients::{ClientState, worker_of};
use crate::server;
use crate::worker_state::Worker;
use std::rc::Rc;

/// Passes a request to the worker that has the client. Returns once the server has accepted it: drivers take the end
/// of the connection as the acknowledgement, and may send the next query right after it.
pub(super) async fn route(worker: &Worker, pid: u32, key: Vec<u8>) {
    let request = move |worker: &Rc<Worker>| {
        let worker = worker.clone();
        async move { handle(&worker, pid, &key).await }
    };
    // An unused process ID is treated like any wrong key.
    let _ = worker.workers.ask(worker_of(pid), request).await;
}

/// Acts on a request. A wrong key is ignored without an answer, as in PostgreSQL.
async fn handle(worker: &Worker, pid: u32, key: &[u8]) {
    let Some(client) = worker.clients.by_cancel_key(pid, key) else {
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
    let limit = worker.context.config().settings.cancel_wait_timeout;
    server::cancel::send(&worker.context, server, client.id, limit).await;
    pool.cancel_ended();
}
