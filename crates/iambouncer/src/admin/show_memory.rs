//! SHOW MEM: the objects and buffers of all workers. Owns its table. Sizes are those of the records themselves, without
//! what the allocator adds.

use super::columns::{ColumnHeader, PendingRows, Row, ShowTable, shown};
use super::console::Console;
use crate::clients::ClientInfo;
use crate::pool::{DatabaseState, Pool};
use crate::server::ServerInfo;
use crate::worker::buffer;
use std::future::ready;
use wire::encode::ColumnType;

/// Objects of one kind: name, size of one in bytes, number in use, number kept for reuse.
type MemoryRecord = (&'static str, usize, usize, usize);

/// The table, whose rows are sums over the workers.
pub(super) struct MemoryTable;

impl ShowTable for MemoryTable {
    fn headers(&self) -> Vec<ColumnHeader> {
        let numbers = ["size", "used", "free", "memtotal"].map(|name| (name, ColumnType::Int4));
        [("name", ColumnType::Text)].into_iter().chain(numbers).collect()
    }

    fn fetch<'a>(&'static self, console: &'a Console) -> PendingRows<'a> {
        Box::pin(async move {
            let parts = console.at_all(|console| ready(records(&console))).await;
            let mut sums: Vec<MemoryRecord> = Vec::new();
            for part in parts {
                if sums.is_empty() {
                    sums = part;
                    continue;
                }
                for (sum, record) in sums.iter_mut().zip(part) {
                    sum.2 += record.2;
                    sum.3 += record.3;
                }
            }
            sums.into_iter().map(row).collect()
        })
    }
}

fn row((name, size, used, free): MemoryRecord) -> Row {
    // The column is an int4, as in PgBouncer.
    let number = |value: usize| shown(value.min(i32::MAX as usize));
    vec![shown(name), number(size), number(used), number(free), number(size * (used + free))]
}

/// What this worker has.
fn records(console: &Console) -> Vec<MemoryRecord> {
    let pools = console.directory.pools();
    let servers: usize = pools.iter().map(|pool| pool.table.count()).sum();
    let [small, large] = buffer::block_counts();
    vec![
        ("client_cache", size_of::<ClientInfo>(), console.clients.count(), 0),
        ("server_cache", size_of::<ServerInfo>(), servers, 0),
        ("db_cache", size_of::<DatabaseState>(), console.directory.databases().len(), 0),
        ("pool_cache", size_of::<Pool>(), pools.len(), 0),
        ("iobuf_cache", small.bytes, small.used, small.free),
        ("large_iobuf_cache", large.bytes, large.used, large.free),
    ]
}
