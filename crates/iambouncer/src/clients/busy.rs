//! The clients of this worker that may exceed a time limit soon: those that have, or wait for, a server. Owns that list, so
//! that idle clients cost nothing. A client is added when it becomes busy, and removed by the janitor once it is idle.

use super::{ClientInfo, ClientState};
use crate::worker::upkeep;
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static BUSY: RefCell<Vec<Rc<ClientInfo>>> = const { RefCell::new(Vec::new()) };
}

impl ClientInfo {
    /// Sets its state to [`ClientState::Waiting`] or [`ClientState::Active`].
    #[inline]
    pub fn begin_busy(self: &Rc<Self>, state: ClientState) {
        self.state.set(state);
        if !self.is_listed.get() {
            self.add_to_busy();
        }
    }

    #[cold]
    fn add_to_busy(self: &Rc<Self>) {
        self.is_listed.set(true);
        let is_first = BUSY.with_borrow_mut(|busy| {
            busy.push(self.clone());
            busy.len() == 1
        });
        if is_first {
            upkeep::request();
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self.state.get(), ClientState::Waiting | ClientState::Active)
    }
}

/// Calls a function for each client that has, or waits for, a server.
pub fn visit_busy(mut each: impl FnMut(&Rc<ClientInfo>)) {
    let listed = BUSY.take();
    let mut kept = Vec::with_capacity(listed.len());
    for client in listed {
        if client.is_busy() {
            each(&client);
            kept.push(client);
        } else {
            client.is_listed.set(false);
        }
    }
    BUSY.with_borrow_mut(|busy| {
        kept.append(busy);
        *busy = kept;
    });
}

/// True if no client is listed.
pub fn none_is_busy() -> bool {
    BUSY.with_borrow(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::super::{ClientTable, KeyForm};
    use super::*;
    use crate::net::Endpoint;
    use std::time::Instant;

    #[test]
    fn a_client_is_listed_while_it_is_busy() {
        let table = ClientTable::new(0, KeyForm::Alone);
        let end = || Endpoint::Unix("".into());
        let client = table.add(end(), Some(end()), 0, Instant::now()).unwrap();
        let visited = || {
            let mut count = 0;
            visit_busy(|_| count += 1);
            count
        };
        assert!(none_is_busy());
        client.begin_busy(ClientState::Waiting);
        client.begin_busy(ClientState::Active);
        assert_eq!(visited(), 1);
        client.state.set(ClientState::Idle);
        // Busy again before the next visit, it is still listed once.
        client.begin_busy(ClientState::Active);
        assert_eq!(visited(), 1);
        client.state.set(ClientState::Idle);
        assert_eq!(visited(), 0);
        assert!(none_is_busy());
    }
}
