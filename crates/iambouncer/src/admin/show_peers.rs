//! SHOW PEERS and SHOW PEER_POOLS: processes that share a port, and cancel requests to them. Owns their tables.

use super::columns::{Records, Table, int4, shown, text};
use super::console::Console;
use crate::config::Peer;

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

/// Cancel requests under way to a peer. None is sent yet.
pub(super) struct PeerPoolRecord(u16);

pub(super) static PEER_POOLS: Table<PeerPoolRecord> = Table {
    columns: &[
        int4("peer_id", |pool| shown(pool.0)),
        int4("cl_active_cancel_req", |_| shown(0)),
        int4("cl_waiting_cancel_req", |_| shown(0)),
        int4("sv_active_cancel", |_| shown(0)),
        int4("sv_login", |_| shown(0)),
    ],
    records: Records::Here(|_| Vec::new()),
};
