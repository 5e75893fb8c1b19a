//! Cancel requests for clients of other processes, the peers. Owns which peers receive a request, and sending it to those
//! of `[peers]`, the others are in [`super::peer_host`]; the number of connections is limited in [`crate::peer_pools`].
//!
//! As in PgBouncer, the connection to a peer is not encrypted: a cancel request has no answer, and its key is worth no
//! more than the cancellation of one query.

use super::peer_host;
use crate::clients::CancelKey;
use crate::config::{Config, Host, Peer};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::net::{Inbound, Socket, Stream, unix_socket_path};
use crate::peer_pools::{PeerKey, PeerPlace};
use crate::server::connect::ServerAddress;
use crate::worker::timers;
use crate::worker_state::Worker;
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// Time limit for a connection to one of several addresses.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Longest time for which a peer may handle a request if `cancel_wait_timeout` has no limit.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// A request that is being sent to peers.
pub(super) type Forwarded<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Sends the request to the peer that the key names. A key that names no known peer is sent to all of them, which must
/// not forward it: one of them may know more peers, or have the address of `peer_host` at which the client is. Returns
/// when the peers have handled it.
pub(super) async fn forward(worker: &Worker, owner: u16, key: CancelKey) {
    let config = worker.context.config();
    if let Some(peer) = config.peers.get(&owner) {
        let Some(key) = key.for_owner() else { return log_exhausted() };
        return send_to_listed(worker, &config, (owner, peer), &key, WhenFull::Wait).await;
    }
    let Some(key) = key.for_the_last_peer() else { return log_exhausted() };
    let others = config.peers.iter().filter(|(id, _)| worker.clients.key_form.is_other(**id));
    // Anyone can make up such a key, so it must not delay those that name their peer.
    let mut requests: Vec<Forwarded<'_>> = Vec::new();
    for (id, peer) in others {
        requests.push(Box::pin(send_to_listed(worker, &config, (*id, peer), &key, WhenFull::GiveUp)));
    }
    requests.push(Box::pin(peer_host::send_to_all(worker, &config, &key)));
    all(requests).await;
}

/// Sends a request whose key names this process, which does not have the client, to the addresses of `peer_host`: two
/// processes may have chosen the same number.
pub(super) async fn forward_namesake(worker: &Worker, key: CancelKey) {
    let config = worker.context.config();
    if config.settings.peers_by_name().is_none() {
        return;
    }
    let Some(key) = key.for_the_last_peer() else { return log_exhausted() };
    peer_host::send_to_all(worker, &config, &key).await;
}

fn log_exhausted() {
    tracing::debug!("cancel request dropped: it was forwarded too often");
}

/// Runs all futures to completion.
pub(super) async fn all(mut futures: Vec<Forwarded<'_>>) {
    poll_fn(|cx| {
        futures.retain_mut(|future| future.as_mut().poll(cx).is_pending());
        if futures.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// What a request does if all places at the peer are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenFull {
    Wait,
    GiveUp,
}

/// The place that a request needs.
#[derive(Clone, Copy)]
pub(super) struct PlaceRequest {
    pub(super) peer: PeerKey,
    /// Number of places at this peer.
    pub(super) size: u32,
    pub(super) when_full: WhenFull,
}

async fn send_to_listed(
    worker: &Worker,
    config: &Config,
    (id, peer): (u16, &Peer),
    key: &CancelKey,
    when_full: WhenFull,
) {
    let size = peer.pool_size.unwrap_or(config.settings.default_pool_size).max(1);
    let place = PlaceRequest { peer: PeerKey::Id(id), size, when_full };
    send_in_time(worker, config, (place, &id), key, open(worker, peer)).await;
}

/// Sends the request on the connection that `open` makes once there is a place.
pub(super) async fn send_in_time(
    worker: &Worker,
    config: &Config,
    (place, peer): (PlaceRequest, &dyn Display),
    key: &CancelKey,
    open: impl Future<Output = io::Result<Socket>>,
) {
    let limit = match config.settings.cancel_wait_timeout {
        Duration::ZERO => MAX_WAIT,
        limit => limit.min(MAX_WAIT),
    };
    let pool = worker.context.process.peer_pools.of(place.peer);
    let sending = async {
        let place = match place.when_full {
            WhenFull::Wait => pool.wait(place.size).await,
            WhenFull::GiveUp => pool.take(place.size),
        };
        let place = place.ok_or_else(|| io::Error::other("too many cancel requests are under way to it"))?;
        send(open.await?, key, &place).await
    };
    let outcome = timers::timeout(limit, sending).await;
    let error = match outcome {
        Some(Ok(())) => return,
        Some(Err(error)) => error.to_string(),
        None => "timed out".to_owned(),
    };
    warn_unauthenticated!(worker.context, "peer", %peer, %error, "cancel request not forwarded");
}

/// Sends a request, and waits until the peer closes the connection: it has then acted on the request.
async fn send(socket: Socket, key: &CancelKey, place: &PeerPlace) -> io::Result<()> {
    let mut stream = Stream::Plain(socket);
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
        match connect_in_time(context, *address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects to one of several addresses.
pub(super) async fn connect_in_time(context: &Context, address: SocketAddr) -> io::Result<Socket> {
    let connecting = Socket::connect_tcp(address, context.tcp_options());
    timers::timeout(CONNECT_LIMIT, connecting).await.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}
