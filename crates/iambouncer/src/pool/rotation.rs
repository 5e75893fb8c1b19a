//! A switch of debug builds: no client gets the server that it has had last. Owns how such a server is chosen; release
//! builds have none of this.

use super::acquire::{Acquired, Pool};
use crate::server::Server;
use std::cell::Cell;
use std::rc::Rc;

/// Makes every acquisition of a debug build take a server that the client has not had last.
const ROTATE: &str = "TEST_ROTATE_SERVERS";

/// Which server the request under way must not get.
pub(super) struct Rotation {
    is_on: bool,
    /// The client that requests a server, if there is one.
    client_id: Cell<Option<u64>>,
}

impl Rotation {
    pub(super) fn new() -> Self {
        Self { is_on: std::env::var_os(ROTATE).is_some(), client_id: Cell::new(None) }
    }
}

impl Pool {
    /// As [`Pool::acquire`], for the client with this id. If only the server that it has had last is idle, another one is
    /// opened. A client that waits behind others gets what is released first.
    pub(super) fn acquire_other(self: &Rc<Self>, client_id: u64) -> Acquired {
        if !self.rotation.is_on || self.database.is_paused() {
            return self.acquire();
        }
        self.rotation.client_id.set(Some(client_id));
        let acquired = self.acquire();
        self.rotation.client_id.set(None);
        let is_expected = self.logins.under_way() + self.checks.under_way() > 0;
        if matches!(&acquired, Acquired::Wait(waiter) if waiter.is_waiting()) && !is_expected {
            // A limit that other pools share is full.
            self.serve_waiters();
        }
        acquired
    }

    /// The idle server for the request under way; `None` if that leaves the choice to the settings, or no server fits.
    pub(super) fn take_other(&self) -> Option<Option<Box<Server>>> {
        if !self.rotation.is_on {
            return None;
        }
        let Some(client_id) = self.rotation.client_id.get() else { return Some(self.idle.pop_oldest()) };
        let other = self.idle.pop_oldest_but_last_of(client_id);
        let may_open = self.full_limit(self.size_now()).is_none() && !self.is_backing_off();
        Some(if may_open { other } else { other.or_else(|| self.idle.pop_oldest()) })
    }
}
