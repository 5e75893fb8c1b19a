//! Cancel requests to the addresses of `peer_host`, which are those of all replicas. Owns which of them receive a request,
//! and for how many there is room; the key says only which replica has the client, not where that is.

use super::peers::{Forwarded, PlaceRequest, WhenFull, all, connect_in_time, send_in_time};
use crate::clients::CancelKey;
use crate::config::Config;
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::net::Socket;
use crate::peer_pools::{PeerKey, discovered_places};
use crate::server::connect::is_own_address;
use crate::worker_state::Worker;
use std::io;
use std::net::SocketAddr;

/// Sends the request to all addresses but those of this process, at the same time. The key must be one that is not
/// forwarded again.
pub(super) async fn send_to_all(worker: &Worker, config: &Config, key: &CancelKey) {
    let Some((name, port)) = config.settings.peers_by_name() else { return };
    let context = &worker.context;
    let process = &context.process;
    let found = process.peer_addresses.current(&process.control, &context.name_sources(), name).await;
    let ips = match found {
        Ok(ips) => ips,
        Err(error) => {
            warn_unauthenticated!(context, "peer", peer = name, error, "cancel request not forwarded");
            return;
        }
    };
    let mut addresses: Vec<SocketAddr> = ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
    process.peer_pools.keep_addresses(&addresses);
    addresses.retain(|address| !is_own_address(process, *address));
    let size = discovered_places(config.settings.default_pool_size, addresses.len());
    let mut requests: Vec<Forwarded<'_>> = Vec::new();
    for address in &addresses {
        let place = PlaceRequest { peer: PeerKey::Address(*address), size, when_full: WhenFull::Wait };
        requests.push(Box::pin(send_in_time(worker, config, (place, address), key, open(context, *address))));
    }
    all(requests).await;
}

async fn open(context: &Context, address: SocketAddr) -> io::Result<Socket> {
    let result = connect_in_time(context, address).await;
    context.process.peer_pools.of(PeerKey::Address(address)).note_connection(result.is_ok());
    result
}
