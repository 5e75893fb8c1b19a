//! SHOW PEERS and SHOW PEER_POOLS: processes that share a port or a name, and cancel requests to them. Owns their tables.

use super::columns::{Records, Table, int4, shown, text};
use super::console::Console;
use crate::config::Peer;
use crate::peer_pools::{PeerKey, PeerPool, discovered_places};
use crate::server::connect::is_own_address;
use std::net::SocketAddr;
use std::sync::Arc;

/// A line of `[peers]` or an address of `peer_host`.
pub(super) struct PeerRecord {
    /// The number, if it is known.
    id: Option<u16>,
    host: Option<String>,
    port: u16,
    pool_size: u32,
}

pub(super) static PEERS: Table<PeerRecord> = Table {
    columns: &[
        int4("peer_id", |record| record.id.and_then(shown)),
        text("host", |record| record.host.clone()),
        int4("port", |record| shown(record.port)),
        int4("pool_size", |record| shown(record.pool_size)),
    ],
    records: Records::Here(peers),
};

/// The listed ones, and then the addresses.
pub(super) fn peers(console: &Console) -> Vec<PeerRecord> {
    let config = console.context.config();
    let default_pool_size = config.settings.default_pool_size;
    let listed = config.peers.iter().map(|(id, peer): (&u16, &Peer)| PeerRecord {
        id: Some(*id),
        host: peer.host.as_ref().and_then(shown),
        port: peer.port,
        pool_size: peer.pool_size.unwrap_or(default_pool_size),
    });
    let mut records: Vec<PeerRecord> = listed.collect();
    let process = &console.context.process;
    let addresses = addresses(console);
    let others = addresses.iter().filter(|(_, is_own)| !is_own).count();
    let pool_size = discovered_places(default_pool_size, others);
    for (address, is_own) in addresses {
        let id = is_own.then_some(process.peer_id);
        records.push(PeerRecord { id, host: shown(address.ip()), port: address.port(), pool_size });
    }
    records
}

/// The last known addresses of `peer_host`, and whether they are those of this process.
fn addresses(console: &Console) -> Vec<(SocketAddr, bool)> {
    let config = console.context.config();
    let process = &console.context.process;
    let Some((_, port)) = config.settings.peers_by_name() else { return Vec::new() };
    let with_port = |ip: &_| SocketAddr::new(*ip, port);
    let known = process.peer_addresses.last();
    known.iter().map(with_port).map(|address| (address, is_own_address(process, address))).collect()
}

/// Cancel requests under way to a peer. Each has a connection of its own.
pub(super) struct PeerPoolRecord {
    key: PeerKey,
    pool: Arc<PeerPool>,
}

impl PeerPoolRecord {
    /// Connections that are being opened.
    fn opening(&self) -> u32 {
        // Two numbers that other workers change meanwhile.
        self.pool.connections.taken().saturating_sub(self.pool.sent.taken())
    }

    fn id(&self) -> Option<u16> {
        match self.key {
            PeerKey::Id(id) => Some(id),
            PeerKey::Address(_) => None,
        }
    }
}

pub(super) static PEER_POOLS: Table<PeerPoolRecord> = Table {
    columns: &[
        int4("peer_id", |record| record.id().and_then(shown)),
        int4("cl_active_cancel_req", |record| shown(record.pool.sent.taken())),
        int4("cl_waiting_cancel_req", |record| shown(record.pool.waiting.taken() + record.opening())),
        int4("sv_active_cancel", |record| shown(record.pool.sent.taken())),
        int4("sv_login", |record| shown(record.opening())),
    ],
    records: Records::Here(peer_pools),
};

/// The pools of the peers that can receive requests, which is not this process itself, in the order of SHOW PEERS.
pub(super) fn peer_pools(console: &Console) -> Vec<PeerPoolRecord> {
    let config = console.context.config();
    let pools = &console.context.process.peer_pools;
    let form = console.clients.key_form;
    let listed = config.peers.keys().filter(|id| form.is_other(**id)).map(|id| PeerKey::Id(*id));
    let others = addresses(console).into_iter().filter(|(_, is_own)| !is_own);
    let keys = listed.chain(others.map(|(address, _)| PeerKey::Address(address)));
    keys.map(|key| PeerPoolRecord { key, pool: pools.of(key) }).collect()
}
