//! SHOW PINS: the clients that keep their server outside of transactions, and why. Owns its table.

use super::columns::{PendingRecords, Records, Table, int4, int8, shown, text};
use super::console::Console;
use super::show_connections::link;
use crate::clients::{ClientInfo, Pin};
use crate::worker;
use std::rc::Rc;

pub(super) struct PinRecord {
    client: Rc<ClientInfo>,
    pin: Pin,
}

pub(super) static PINS: Table<PinRecord> = Table {
    columns: &[
        text("database", |record| shown(&record.client.identity().database)),
        text("user", |record| shown(&record.client.identity().user)),
        text("addr", |record| shown(record.client.remote().host_text())),
        int4("port", |record| shown(record.client.remote().port())),
        text("application_name", |record| shown(&record.client.identity().application_name)),
        text("reasons", |record| shown(record.client.pin_reasons())),
        text("statement", |record| shown(&record.pin.statement)),
        int8("seconds", |record| shown(worker::now().saturating_duration_since(record.pin.since).as_secs())),
        text("ptr", |record| shown(link('c', record.client.id))),
        text("link", |record| shown(link('s', record.client.server().map_or(0, |server| server.facts.id)))),
        int8("id", |record| shown(record.client.id)),
    ],
    records: Records::EachWorkerInSteps(pins),
};

fn pins(console: Rc<Console>) -> PendingRecords<'static, PinRecord> {
    Box::pin(async move {
        let mut records = Vec::new();
        let collect = |client: &Rc<ClientInfo>| {
            if let Some(pin) = client.pin() {
                records.push(PinRecord { client: client.clone(), pin });
            }
        };
        console.clients.visit_in_steps(collect).await;
        records
    })
}
