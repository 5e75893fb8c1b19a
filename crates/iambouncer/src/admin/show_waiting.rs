//! SHOW WAITING: the clients that wait for a server, and why. Owns its table.

use super::columns::{PendingRecords, Records, Table, int4, int8, shown, text};
use super::console::Console;
use super::show_connections::{link, wait};
use crate::clients::{ClientInfo, ClientState};
use crate::pool::WaitReason;
use std::cmp::Reverse;
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
    records: Records::EachWorkerInSteps(waiting),
};

fn waiting(console: Rc<Console>) -> PendingRecords<'static, WaitRecord> {
    Box::pin(async move {
        let mut longest: Vec<(Duration, Rc<ClientInfo>)> = Vec::new();
        let keep = |clients: &mut Vec<(Duration, Rc<ClientInfo>)>| {
            clients.sort_by_key(|(wait, _)| Reverse(*wait));
            clients.truncate(MAX_SHOWN);
        };
        let collect = |client: &Rc<ClientInfo>| {
            if client.state.get() == ClientState::Waiting {
                longest.push((wait(client), client.clone()));
                if longest.len() >= 2 * MAX_SHOWN {
                    keep(&mut longest);
                }
            }
        };
        console.clients.visit_in_steps(collect).await;
        keep(&mut longest);
        let record = |(wait, client): (Duration, Rc<ClientInfo>)| {
            let reason = client.pool.get()?.wait_reason();
            Some(WaitRecord { client, wait, reason })
        };
        longest.into_iter().filter_map(record).collect()
    })
}
