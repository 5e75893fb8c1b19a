//! Servers that send a message that no request explains. Owns the counter and the log line; the caller closes the
//! connection.

use super::ServerInfo;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use wire::backend::TxStatus;

static MISMATCHES: AtomicU64 = AtomicU64::new(0);

/// How many servers were out of step since the process started.
pub fn mismatches() -> u64 {
    MISMATCHES.load(Ordering::Relaxed)
}

/// Counts and logs a server that is out of step, and marks it so that it is not used again. `client` is the id of its
/// client, and the transaction status in its last ReadyForQuery. No data of either side is logged.
#[cold]
pub fn report(server: &ServerInfo, mismatch: &dyn Display, client: Option<(u64, TxStatus)>) {
    MISMATCHES.fetch_add(1, Ordering::Relaxed);
    server.close_needed.set(true);
    let (client_id, status) = client.map_or((0, "idle"), |(id, status)| {
        let status = match status {
            TxStatus::Idle => "idle",
            TxStatus::Open => "in transaction",
            TxStatus::Failed => "in failed transaction",
        };
        (id, status)
    });
    tracing::error!(
        event = "out_of_step",
        id = server.facts.id,
        server_pid = server.facts.pid,
        server = %server.facts.route.endpoint,
        client_id,
        status,
        "server out of step, closing it: {mismatch}"
    );
}

/// The same for a server without a client that has sent a message of this type.
#[cold]
pub fn report_message(server: &ServerInfo, tag: u8, when: &str) {
    report(server, &format!("message type \"{}\" {when}", char::from(tag).escape_default()), None);
}
