//! Clients that their cancel keys do not lead to: those that were moved to this worker, and those whose key has the process
//! ID of their server. Owns the look-up of them by that process ID, which several clients may share; a key is compared as a
//! whole.

use super::{CancelKey, ClientInfo, ClientTable, KeyForm};
use std::rc::Rc;

impl ClientTable {
    /// Gives a client a cancel key with the process ID of its server, as on a direct connection; the secret remains. With
    /// peers the key has to name this process, so it remains as it is. True if it has changed.
    pub fn adopt_server_pid(&self, client: &ClientInfo, pid: u32) -> bool {
        // A server that has sent no key has no process ID.
        if self.key_form != KeyForm::Alone || pid == 0 {
            return false;
        }
        self.forget_key(client);
        client.cancel_key.set(client.cancel_key.get().with_pid(pid));
        self.add_misleading(client);
        true
    }

    /// The key of a client does not lead to it.
    pub(super) fn add_misleading(&self, client: &ClientInfo) {
        self.misleading.borrow_mut().insert((client.cancel_key.get().pid(), client.slot));
    }

    /// A client leaves, or gets another key.
    pub(super) fn forget_key(&self, client: &ClientInfo) {
        self.misleading.borrow_mut().remove(&(client.cancel_key.get().pid(), client.slot));
    }

    /// The client of a cancel key that does not lead to it.
    pub(super) fn misleading_with_key(&self, key: &CancelKey) -> Option<Rc<ClientInfo>> {
        let misleading = self.misleading.borrow();
        let of_pid = misleading.range((key.pid(), 0)..=(key.pid(), u32::MAX));
        of_pid.filter_map(|(_, slot)| self.at(*slot)).find(|client| self.has_key(client, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Endpoint;
    use std::time::Instant;

    fn end() -> Endpoint {
        Endpoint::Unix("/run/.s.PGSQL.6432".into())
    }

    fn add(table: &ClientTable) -> Rc<ClientInfo> {
        table.add(end(), Some(end()), 77, Instant::now()).unwrap()
    }

    fn moved(from: &ClientTable, before: &Rc<ClientInfo>, to: &ClientTable) -> Rc<ClientInfo> {
        let after = to.adopt(before.pack(), before.identity()).unwrap();
        from.remove(before);
        after
    }

    #[test]
    fn a_client_that_has_moved_is_found_by_its_cancel_key() {
        for (form, has_server_pid) in
            [(KeyForm::Alone, false), (KeyForm::Alone, true), (KeyForm::of(5, 2), true)]
        {
            let (one, other) = (ClientTable::new(0, form), ClientTable::new(1, form));
            let client = add(&one);
            if has_server_pid {
                one.adopt_server_pid(&client, 4711);
            }
            let there = moved(&one, &client, &other);
            let key = there.cancel_key.get();
            assert!(one.by_cancel_key(&key).is_none());
            assert_eq!(other.by_cancel_key(&key).map(|client| client.id), Some(there.id));
            // And back, to another slot.
            let back = moved(&other, &there, &one);
            assert!(other.by_cancel_key(&key).is_none() && other.misleading.borrow().is_empty());
            assert_eq!(one.by_cancel_key(&key).map(|client| client.slot), Some(back.slot));
            one.remove(&back);
            assert!(one.by_cancel_key(&key).is_none() && one.misleading.borrow().is_empty());
        }
    }

    #[test]
    fn clients_of_servers_with_the_same_process_id_have_different_keys() {
        let table = ClientTable::new(0, KeyForm::Alone);
        let clients: Vec<_> = (0..3).map(|_| add(&table)).collect();
        let before: Vec<_> = clients.iter().map(|client| client.cancel_key.get()).collect();
        for client in &clients {
            assert!(table.adopt_server_pid(client, 4711));
        }
        for client in &clients {
            let key = client.cancel_key.get();
            assert_eq!((key.pid(), key.secret().len()), (4711, 4));
            assert_eq!(table.by_cancel_key(&key).map(|found| found.id), Some(client.id));
        }
        assert!(before.iter().all(|key| table.by_cancel_key(key).is_none()));
        table.remove(&clients[1]);
        assert!(table.by_cancel_key(&clients[1].cancel_key.get()).is_none());
        assert!(table.by_cancel_key(&clients[2].cancel_key.get()).is_some());
    }

    /// A process ID may have the value of a worker's number and a slot.
    #[test]
    fn the_process_id_of_a_server_may_be_what_leads_to_another_client() {
        let table = ClientTable::new(0, KeyForm::Alone);
        let (one, other) = (add(&table), add(&table));
        table.adopt_server_pid(&one, other.cancel_key.get().pid());
        assert_eq!(one.cancel_key.get().pid(), other.cancel_key.get().pid());
        for client in [&one, &other] {
            let found = table.by_cancel_key(&client.cancel_key.get());
            assert_eq!(found.map(|found| found.id), Some(client.id));
        }
    }

    #[test]
    fn a_key_that_names_a_peer_and_one_of_a_server_without_a_process_id_remain() {
        for (form, pid) in [(KeyForm::of(5, 2), 4711), (KeyForm::Alone, 0)] {
            let table = ClientTable::new(0, form);
            let client = add(&table);
            let before = client.cancel_key.get();
            assert!(!table.adopt_server_pid(&client, pid));
            let after = client.cancel_key.get();
            assert_eq!((before.pid(), before.secret()), (after.pid(), after.secret()));
            assert!(table.misleading.borrow().is_empty());
        }
    }
}
