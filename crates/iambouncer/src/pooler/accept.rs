//! Accepting clients, on the first worker. Owns which pending login is evicted for a new connection; [`super::members`]
//! chooses the worker that gets it.

use super::members;
use crate::client;
use crate::files::PermittedUse;
use crate::lifecycle::Phase;
use crate::log_limit::warn_unauthenticated;
use crate::net::Endpoint;
use crate::net::listener::Listener;
use crate::pending_logins::{AddressGroup, UNAUTHENTICATED_SPARE};
use crate::worker::{either, executor, timers};
use crate::worker_state::Worker;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// Connections accepted before other tasks of the first worker get their turn: about as many as can log in in a turn.
const MAX_ACCEPTED_PER_TURN: u32 = 16;
/// Pause after accept(2) failed, which means that files or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause after a login was evicted because files are scarce: its file is available once the login has been closed.
const EVICTION_PAUSE: Duration = Duration::from_millis(5);

/// True if the listener accepts connections in this phase. The UNIX socket stays open for the console. During a drain, the
/// port stays open for cancel requests of other replicas (`peer_host`), but not with `[peers]`: they may share the port, and
/// its new connections are to reach the others.
fn is_open(worker: &Worker, listener: &Endpoint) -> bool {
    let has_replicas = || {
        let config = worker.context.config();
        config.settings.peers_by_name().is_some() && config.peers.is_empty()
    };
    match (worker.lifecycle.phase(), listener) {
        (Phase::Running | Phase::DrainAnnounced(_), _) => true,
        (Phase::Draining(_), _) if has_replicas() => true,
        (Phase::WaitForClients | Phase::Draining(_) | Phase::WaitForServers, listener) => {
            matches!(listener, Endpoint::Unix(_))
        }
        (Phase::Now, _) => false,
    }
}

/// Accepts connections until the listener closes.
pub(super) async fn run(worker: Rc<Worker>, listener: Listener) {
    let lifecycle = worker.lifecycle.clone();
    let mut accepted_in_turn = 0;
    let mut is_for_cancels = false;
    while is_open(&worker, listener.endpoint()) {
        if !is_for_cancels && is_draining_port(lifecycle.phase(), listener.endpoint()) {
            take_queue(&worker, &listener);
            is_for_cancels = true;
        }
        let accepted = listener.accept(worker.context.tcp_options());
        let Some(accepted) = either(accepted, lifecycle.changed.wait()).await else { continue };
        match accepted {
            Ok((socket, remote)) => {
                let permitted = match PermittedUse::of(&socket) {
                    PermittedUse::Any if is_for_cancels => PermittedUse::CancelRequest,
                    permitted => permitted,
                };
                admit(&worker, socket, permitted, remote, listener.endpoint());
                if permitted.is_scarce() {
                    timers::sleep(EVICTION_PAUSE).await;
                }
                accepted_in_turn += 1;
                if accepted_in_turn == MAX_ACCEPTED_PER_TURN {
                    accepted_in_turn = 0;
                    executor::yield_now().await;
                }
            }
            Err(error) => {
                warn_unauthenticated!(worker.context, "accept", %error, "cannot accept connections");
                timers::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if !is_for_cancels && matches!(lifecycle.phase(), Phase::WaitForClients | Phase::Draining(_)) {
        take_queue(&worker, &listener);
    }
}

fn is_draining_port(phase: Phase, listener: &Endpoint) -> bool {
    matches!((phase, listener), (Phase::Draining(_), Endpoint::Tcp(_)))
}

/// Accepts what the kernel has queued: it resets the connections of a queue whose listener closes, and to their clients
/// the pooler was there.
fn take_queue(worker: &Rc<Worker>, listener: &Listener) {
    for _ in 0..worker.context.config().settings.listen_backlog {
        let Ok(Some((socket, remote))) = listener.accept_queued() else { return };
        let permitted = PermittedUse::of(&socket);
        admit(worker, socket, permitted, remote, listener.endpoint());
    }
}

/// Finds a place for a new connection, evicting the oldest pending login if necessary.
fn admit(
    worker: &Rc<Worker>,
    socket: OwnedFd,
    permitted: PermittedUse,
    remote: Endpoint,
    listener: &Endpoint,
) {
    let context = &worker.context;
    let max_client_conn = context.config().settings.max_client_conn;
    let max_open = max_client_conn.saturating_add(UNAUTHENTICATED_SPARE);
    let taken = context.process.limits.clients.taken();
    let origin = AddressGroup::of(&remote);
    if permitted == PermittedUse::Probe {
        warn_unauthenticated!(context, "files", client = %remote, "connection dropped: all open files are in use");
        if let Some(evicted) = context.process.pending_logins.evict_oldest() {
            client::close_evicted(worker, evicted);
        }
        return;
    }
    let mut evicted = context.process.pending_logins.evict_of(
        origin,
        max_client_conn,
        context.process.limits.sessions.taken(),
    );
    if evicted.is_none() && taken >= max_open {
        evicted = context.process.pending_logins.evict_oldest();
        // Evicted connections are not closed yet, or all places are taken by clients.
        if evicted.is_none() || taken >= max_open.saturating_add(UNAUTHENTICATED_SPARE) {
            warn_unauthenticated!(context, "full", client = %remote, "connection dropped: too many connections");
            return;
        }
    }
    if evicted.is_none() && permitted.is_scarce() {
        evicted = context.process.pending_logins.evict_oldest();
    }
    if let Some(evicted) = evicted {
        client::close_evicted(worker, evicted);
    }
    members::assign_client(worker, socket, permitted, remote, listener.clone());
}
