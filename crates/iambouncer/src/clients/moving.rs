//! Moving a client's record to another worker. Owns the form in which it is passed between threads.

use super::{CancelKey, ClientInfo, ClientTable, Departure, Pin};
use crate::client_identity::ClientIdentity;
use crate::net::Endpoint;
use crate::worker::executor::TaskKey;
use sql::Features;
use std::rc::Rc;
use std::time::Instant;

/// The record of a client that belongs to no worker.
pub struct ClientInTransit {
    id: u64,
    cancel_key: CancelKey,
    remote: Endpoint,
    local: Option<Endpoint>,
    pid: u32,
    connected_s: u32,
    /// What it has sent at its login.
    pub identity: ClientIdentity,
    quiet_since: Instant,
    prepared_count: u32,
    departure: Departure,
    pins: Features,
    pin: Option<Pin>,
}

impl ClientInfo {
    /// A copy of the record, for another worker. The client is between two transactions.
    pub fn pack(&self) -> ClientInTransit {
        ClientInTransit {
            id: self.id,
            cancel_key: self.cancel_key.get(),
            remote: self.remote(),
            local: self.local(),
            pid: self.pid(),
            connected_s: self.connected_s,
            identity: (*self.identity()).clone(),
            quiet_since: self.timing.get().quiet_since,
            prepared_count: self.prepared_count.get(),
            departure: self.departure(),
            pins: self.pins(),
            pin: self.pin(),
        }
    }
}

impl ClientTable {
    /// Adds a client that was moved here. Its task is set when its session begins. `None` if no slot is available.
    pub fn adopt(&self, client: ClientInTransit, identity: Rc<ClientIdentity>) -> Option<Rc<ClientInfo>> {
        let slot = self.free_slot()?;
        let ends = self.ends(client.remote, client.local, client.pid);
        let mut info = self.record(client.id, slot, client.cancel_key, ends, client.quiet_since);
        info.task.set(TaskKey::NONE);
        info.connected_s = client.connected_s;
        info.prepared_count.set(client.prepared_count);
        if client.departure != Departure::NotRequested {
            info.request_departure(client.departure);
        }
        info.set_identity(identity);
        if let Some(pin) = client.pin {
            info.set_pins(client.pins, || pin);
        }
        let info = Rc::new(info);
        self.add_misleading(&info);
        self.clients.borrow_mut().insert(slot, info.clone());
        Some(info)
    }
}

#[cfg(test)]
mod tests {
    use super::super::KeyForm;
    use super::*;

    fn moved(from: &ClientTable, to: &ClientTable) -> (Rc<ClientInfo>, Rc<ClientInfo>) {
        let end = || Endpoint::Unix("/run/.s.PGSQL.6432".into());
        let before = from.add(end(), Some(end()), 77, Instant::now()).unwrap();
        let after = to.adopt(before.pack(), before.identity()).unwrap();
        from.remove(&before);
        (before, after)
    }

    #[test]
    fn a_move_changes_nothing_about_a_client_but_its_slot() {
        for form in [KeyForm::Alone, KeyForm::of(5, 2)] {
            let (one, other) = (ClientTable::new(0, form), ClientTable::new(1, form));
            let (before, after) = moved(&one, &other);
            assert_eq!((before.id, before.pid(), before.remote()), (after.id, after.pid(), after.remote()));
            assert_eq!((before.local(), before.connected_s), (after.local(), after.connected_s));
            assert_eq!(before.timing.get().quiet_since, after.timing.get().quiet_since);
            assert_eq!(one.count(), 0);
        }
    }
}
