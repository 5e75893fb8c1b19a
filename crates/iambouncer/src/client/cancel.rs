//! Cancel requests from clients. Owns what a request does in each client state; sending it to the server is left to
//! [`crate::server::cancel`], and to another process to [`super::peers`].

use super::peers;
use crate::clients::{CancelKey, ClientState, KeyOwner};
use crate::server;
use crate::worker_state::Worker;
use std::rc::Rc;

/// Passes a request to the worker or the peer that has the client. Returns once the server has accepted it: drivers
/// take the end of the connection as the acknowledgement, and may send the next query right after it.
pub(super) async fn route(worker: &Worker, pid: u32, key: &[u8]) {
    let Some(key) = CancelKey::of_request(pid, key) else {
        tracing::debug!(key_pid = pid, "cancel request with a key of another length");
        return;
    };
    let request = move |worker: &Rc<Worker>| {
        let worker = worker.clone();
        async move { handle(&worker, &key).await }
    };
    match worker.clients.key_form.owner_of(&key) {
        // An unused process ID is treated like any wrong key.
        KeyOwner::Worker(index) => {
            let has_moved = worker.context.process.placement.has_moved();
            let others = (0..worker.workers.count()).filter(|other| has_moved && *other != index);
            let mut is_unknown = false;
            for candidate in std::iter::once(index).chain(others) {
                match worker.workers.ask(candidate, request).await {
                    Some(KeyMatch::Client) => return,
                    answer => is_unknown |= answer == Some(KeyMatch::None),
                }
            }
            if is_unknown {
                peers::forward_namesake(worker, key).await;
            }
        }
        KeyOwner::Peer(id) => peers::forward(worker, id, key).await,
    }
}

/// Whether a client of this process has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyMatch {
    Client,
    None,
}

/// Acts on a request. A wrong key is ignored without an answer, as in PostgreSQL.
async fn handle(worker: &Worker, key: &CancelKey) -> KeyMatch {
    let Some(client) = worker.clients.by_cancel_key(key) else {
        tracing::debug!(key_pid = key.pid(), "cancel request with an unknown key");
        return KeyMatch::None;
    };
    if client.state.get() == ClientState::Waiting {
        client.cancel_wait();
        return KeyMatch::Client;
    }
    let linked = client.server();
    let pool = client.pool.get().cloned();
    let (Some(server), Some(pool)) = (linked, pool) else { return KeyMatch::Client };
    let limit = worker.context.config().settings.cancel_wait_timeout;
    server::cancel::send(&worker.context, server, client.id, limit).await;
    pool.cancel_ended();
    KeyMatch::Client
}
