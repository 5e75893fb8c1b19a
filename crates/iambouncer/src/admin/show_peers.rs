//! SHOW PEERS and SHOW PEER_POOLS: processes that share a port, and cancel requests to them. Owns their tables.

use super::columns::{Records, Table, int4, shown, text};
use super::console::Console;
use crate::config::Peer;
use crate::peer_pools::PeerPool;
use std::sync::Arc;

/// A peer with its number, and the pool size if it has none of its own.
pub(super) struct PeerRecord {
    id: u16,
    peer: Peer,
    default_pool_size: u32,
}

pub(super) static PEERS: Table<PeerRecord> = Table {
    columns: &[
        int4("peer_id", |record| shown(record.id)),
        text("host", |record| record.peer.host.as_ref().and_then(shown)),
        int4("port", |record| shown(record.peer.port)),
        int4("pool_size", |record| shown(record.peer.pool_size.unwrap_or(record.default_pool_size))),
    ],
    records: Records::Here(peers),
};

fn peers(console: &Console) -> Vec<PeerRecord> {
    let config = console.context.config();
    let default_pool_size = config.settings.default_pool_size;
    let record = |(id, peer): (&u16, &Peer)| PeerRecord { id: *id, peer: peer.clone(), default_pool_size };
    config.peers.iter().map(record).collect()
}

/// Cancel requests under way to a peer. Each has a connection of its own.
pub(super) struct PeerPoolRecord {
    id: u16,
    pool: Arc<PeerPool>,
}

impl PeerPoolRecord {
    /// Connections that are being opened.
    fn opening(&self) -> u32 {
        // Two numbers that other workers change meanwhile.
        self.pool.connections.taken().saturating_sub(self.pool.sent.taken())
    }
}

pub(super) static PEER_POOLS: Table<PeerPoolRecord> = Table {
    columns: &[
        int4("peer_id", |record| shown(record.id)),
        int4("cl_active_cancel_req", |record| shown(record.pool.sent.taken())),
        int4("cl_waiting_cancel_req", |record| shown(record.pool.waiting.taken() + record.opening())),
        int4("sv_active_cancel", |record| shown(record.pool.sent.taken())),
        int4("sv_login", |record| shown(record.opening())),
    ],
    records: Records::Here(peer_pools),
};

/// The pools of the peers that can receive requests, which is not this process itself.
pub(super) fn peer_pools(console: &Console) -> Vec<PeerPoolRecord> {
    let config = console.context.config();
    let pools = &console.context.process.peer_pools;
    let form = console.clients.key_form;
    let others = config.peers.keys().filter(|id| form.is_other(**id));
    others.map(|id| PeerPoolRecord { id: *id, pool: pools.of(*id) }).collect()
}
