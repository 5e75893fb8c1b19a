//! Cancel requests from clients. Owns what a request does in each client state; sending it to the server is left to
//! [`crate::server::cancel`], and to another process to [`super::peers`].

use super::peers;
use crate::cancel_requests::CancelSource;
use crate::clients::{CancelKey, ClientState, KeyForm, KeyOwner};
use crate::log_limit::warn_unauthenticated;
use crate::net::{Endpoint, Stream};
use crate::pending_logins::AddressGroup;
use crate::server;
use crate::worker;
use crate::worker_state::Worker;
use std::rc::Rc;

/// Passes a request to the worker or the peer that has the client. Returns once the server has accepted it: drivers
/// take the end of the connection as the acknowledgement, and may send the next query right after it.
pub(super) async fn route(worker: &Worker, sender: &Sender, pid: u32, key: &[u8]) {
    let Some(key) = CancelKey::of_request(pid, key) else {
        tracing::debug!(key_pid = pid, "cancel request with a key of another length");
        return;
    };
    match worker.clients.key_form.owner_of(&key) {
        KeyOwner::Worker(index) => find(worker, sender, index, key).await,
        KeyOwner::Peer(id) => peers::forward(worker, id, key).await,
    }
}

/// The sender of a request.
pub(super) struct Sender {
    remote: Endpoint,
    source: CancelSource,
}

impl Sender {
    /// The sender at the other end of this connection.
    pub(super) fn of(remote: Endpoint, stream: &Stream) -> Self {
        let source = match (&remote, stream.unix_peer()) {
            (Endpoint::Unix(_), Some(peer)) => CancelSource::Account(peer.uid.as_raw()),
            _ => CancelSource::Remote(AddressGroup::of(&remote)),
        };
        Self { remote, source }
    }
}

/// Passes a request to the worker that has the client, which is usually that with this number.
async fn find(worker: &Worker, sender: &Sender, index: usize, key: CancelKey) {
    let requests = &worker.context.process.cancel_requests;
    // A peer forwards the requests of many clients, and keys of a process with peers have 13 more secret bits.
    let is_limited = worker.clients.key_form == KeyForm::Alone;
    if is_limited && !requests.admits(sender.source, worker::now()) {
        let client = &sender.remote;
        warn_unauthenticated!(worker.context, "cancel", %client, "cancel request ignored: too many wrong keys from this address");
        return;
    }
    let request = move |worker: &Rc<Worker>| {
        let worker = worker.clone();
        async move { handle(&worker, &key).await }
    };
    let is_anywhere = worker.context.process.placement.has_moved() || requests.has_server_pids();
    let others = (0..worker.workers.count()).filter(|other| is_anywhere && *other != index);
    let mut is_unknown = false;
    // An unused process ID is treated like any wrong key.
    for candidate in std::iter::once(index).chain(others) {
        match worker.workers.ask(candidate, request).await {
            Some(KeyMatch::Client) => return,
            answer => is_unknown |= answer == Some(KeyMatch::None),
        }
    }
    if is_limited {
        requests.record_wrong(sender.source, worker::now());
    }
    if is_unknown {
        peers::forward_namesake(worker, key).await;
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
