//! SHOW WAITING: the clients that wait for a server, and why. Owns its table.

use super::columns::{Records, Table, int4, int8, shown, text};
use super::console::Console;
use super::show_connections::{link, wait};
use crate::clients::{ClientInfo, ClientState};
use crate::pool::WaitReason;
use std::rc::Rc;
use std::time::Duration;

/// Number of clients shown of each worker: those that have waited longest.
const MAX_SHOWN: usize = 100;

pub(super) struct WaitRecord {
    client: Rc<ClientInfo>,
    wait: Duration,
    reason: WaitReason,
}

pub(super) static WAITING: Table<WaitRecord> = Table {
    columns: &[
        text("database", |record| shown(&record.client.identity().database)),
        text("user", |record| shown(&record.client.identity().user)),
        text("addr", |record| shown(record.client.remote().host_text())),
        int4("port", |record| shown(record.client.remote().port())),
        text("application_name", |record| shown(&record.client.identity().application_name)),
        int4("wait", |record| shown(record.wait.as_secs())),
        int4("wait_us", |record| shown(record.wait.subsec_micros())),
        text("reason", |record| shown(record.reason.as_str())),
        text("detail", |record| shown(&record.reason)),
        text("ptr", |record| shown(link('c', record.client.id))),
        int8("id", |record| shown(record.client.id)),
    ],
    records: Records::EachWorker(waiting),
};

fn waiting(console: &Console) -> Vec<WaitRecord> {
    let mut clients: Vec<(Duration, Rc<ClientInfo>)> = console
        .clients
        .list()
        .into_iter()
        .filter(|client| client.state.get() == ClientState::Waiting)
        .map(|client| (wait(&client), client))
        .collect();
    clients.sort_by_key(|(wait, _)| std::cmp::Reverse(*wait));
    clients.truncate(MAX_SHOWN);
    let record = |(wait, client): (Duration, Rc<ClientInfo>)| {
        let reason = client.pool.get()?.wait_reason();
        Some(WaitRecord { client, wait, reason })
    };
    clients.into_iter().filter_map(record).collect()
}
