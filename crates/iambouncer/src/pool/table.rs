//! The list of a pool's open servers, wherever they are: idle, linked, being reset. Owns only what the console and the
//! janitor read; the servers belong to their users.

use crate::server::ServerInfo;
use std::cell::RefCell;
use std::rc::{Rc, Weak};

/// Servers of one pool.
#[derive(Default)]
pub struct ServerTable(RefCell<Vec<Weak<ServerInfo>>>);

impl ServerTable {
    /// Adds a server, until it is dropped.
    pub fn add(&self, info: &Rc<ServerInfo>) {
        let mut list = self.0.borrow_mut();
        list.retain(|weak| weak.strong_count() > 0);
        list.push(Rc::downgrade(info));
    }

    /// Number of servers open now.
    pub fn count(&self) -> usize {
        self.0.borrow().iter().filter(|weak| weak.strong_count() > 0).count()
    }

    /// All servers open now.
    pub fn list(&self) -> Vec<Rc<ServerInfo>> {
        self.0.borrow().iter().filter_map(Weak::upgrade).collect()
    }
}
