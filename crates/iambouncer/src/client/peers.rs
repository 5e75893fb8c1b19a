//! Cancel requests for clients of other processes, the peers. Owns which peers receive a request, and sending it;
//! the number of connections is limited in [`crate::peer_pools`].
//!
//! As in PgBouncer, the connection to a peer is not encrypted: a cancel request has no answer, and its key is worth no
//! more than the cancellation of one query.

use crate::clients::CancelKey;
use crate::config::{Config, Host, Peer};
use crate::log_limit::warn_unauthenticated;
use crate::net::{Inbound, Socket, Stream, unix_socket_path};
use crate::peer_pools::PeerPlace;
use crate::server::connect::ServerAddress;
use crate::worker::timers;
use crate::worker_state::Worker;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// Time limit for a connection to one of several addresses.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest time for which a peer may handle a request if `cancel_wait_timeout` has no limit.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Sends the request to the peer that the key names. A key that names no known peer is sent to all of them, which must
/// not forward it: one of them may know more peers. Returns when the peers have handled it.
pub(super) async fn forward(worker: &Worker, owner: u16, key: CancelKey) {
    let config = worker.context.config();
    if let Some(peer) = config.peers.get(&owner) {
        let Some(key) = key.for_owner() else { return log_exhausted() };
        return send_in_time(worker, &config, (owner, peer), &key, WhenFull::Wait).await;
    }
    let Some(key) = key.for_the_last_peer() else { return log_exhausted() };
    let others = config.peers.iter().filter(|(id, _)| worker.clients.key_form.is_other(**id));
    let requests: Vec<_> = others
        // Anyone can make up such a key, so it must not delay those that name their peer.
        .map(|(id, peer)| Box::pin(send_in_time(worker, &config, (*id, peer), &key, WhenFull::GiveUp)))
        .collect();
    all(requests).await;
}

fn log_exhausted() {
    tracing::debug!("cancel request dropped: it was forwarded too often");
}

/// Runs all futures to completion.
async fn all<F: Future<Output = ()>>(mut futures: Vec<Pin<Box<F>>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What a request does if `pool_size` requests to the peer are under way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenFull {
    Wait,
    GiveUp,
}

async fn send_in_time(
    worker: &Worker,
    config: &Config,
    (id, peer): (u16, &Peer),
    key: &CancelKey,
    when_full: WhenFull,
) {
    let size = peer.pool_size.unwrap_or(config.settings.default_pool_size).max(1);
    let limit = match config.settings.cancel_wait_timeout {
        Duration::ZERO => MAX_WAIT,
        limit => limit.min(MAX_WAIT),
    };
    let pool = worker.context.process.peer_pools.of(id);
    let sending = async {
        let place = match when_full {
            WhenFull::Wait => pool.wait(size).await,
            WhenFull::GiveUp => pool.take(size),
        };
        let place = place.ok_or_else(|| io::Error::other("too many cancel requests are under way to it"))?;
        send(worker, peer, key, &place).await
    };
    let outcome = timers::timeout(limit, sending).await;
    let error = match outcome {
        Some(Ok(())) => return,
        Some(Err(error)) => error.to_string(),
        None => "timed out".to_owned(),
    };
    warn_unauthenticated!(worker.context, "peer", peer = id, %error, "cancel request not forwarded");
}

/// Sends a request, and waits until the peer closes the connection: it has then acted on the request.
async fn send(worker: &Worker, peer: &Peer, key: &CancelKey, place: &PeerPlace) -> io::Result<()> {
    let mut stream = Stream::Plain(open(worker, peer).await?);
    let mut message = Vec::new();
    wire::encode::cancel_request(&mut message, key.pid(), key.secret());
    stream.send_all(&message).await?;
    let _sent = place.count_sent();
    match stream.recv(&mut Inbound::default()).await? {
        0 => Ok(()),
        // A request has no answer, so this is an error: the peer has no room for it.
        _ => Err(io::Error::other("it refused the connection")),
    }
}

async fn open(worker: &Worker, peer: &Peer) -> io::Result<Socket> {
    let context = &worker.context;
    let name = match &peer.host {
        Some(Host::Unix(dir)) => {
            return Socket::connect_unix(&unix_socket_path(dir.display(), peer.port)).await;
        }
        Some(Host::Tcp(name)) => name,
        None => return Err(io::Error::other("it has no host")),
    };
    let found = ServerAddress::find_tcp(context, name, peer.port, false).await.map_err(io::Error::other)?;
    let mut failure = io::Error::other("its name has no address");
    for address in found.addresses() {
        let connecting = Socket::connect_tcp(*address, context.tcp_options());
        match timers::timeout(CONNECT_LIMIT, connecting).await {
            Some(Ok(socket)) => return Ok(socket),
            Some(Err(error)) => failure = error,
            None => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}
