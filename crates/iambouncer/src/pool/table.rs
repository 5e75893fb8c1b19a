//! The list of a pool's open servers, wherever they are: idle, linked, being reset. Owns only what the console and the
//! janitor read, and which servers must not be used again; the servers belong to their users.

use crate::config::TargetSessionAttrs;
use crate::net::Endpoint;
use crate::server::ServerInfo;
use crate::server_roles::RequiredRole;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Servers of one pool.
#[derive(Default)]
pub struct ServerTable {
    servers: RefCell<Vec<Weak<ServerInfo>>>,
    /// The generation of host addresses that the servers were checked against.
    address_changes: Cell<u64>,
    /// The same for roles of hosts.
    role_changes: Cell<u64>,
}

impl ServerTable {
    /// Adds a server, until it is dropped.
    pub fn add(&self, info: &Rc<ServerInfo>) {
        let mut list = self.servers.borrow_mut();
        list.retain(|weak| weak.strong_count() > 0);
        list.push(Rc::downgrade(info));
    }

    /// Number of servers open now.
    pub fn count(&self) -> usize {
        self.servers.borrow().iter().filter(|weak| weak.strong_count() > 0).count()
    }

    /// All servers open now.
    pub fn list(&self) -> Vec<Rc<ServerInfo>> {
        self.servers.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Marks servers, so that they are not used again. True if one was not marked before.
    fn mark(&self, is_marked: impl Fn(&ServerInfo) -> bool) -> bool {
        let servers = self.list();
        let is_new = |info: &&Rc<ServerInfo>| is_marked(info) && !info.close_needed.replace(true);
        servers.iter().filter(is_new).count() > 0
    }

    /// Marks servers that were required to be something.
    fn mark_required(&self, is_marked: impl Fn(&ServerInfo, &RequiredRole) -> bool) {
        self.mark(|info| info.facts.required.as_ref().is_some_and(|required| is_marked(info, required)));
    }

    /// Marks all servers, so that none is used again.
    pub(super) fn mark_all(&self) {
        self.mark(|_| true);
    }

    /// Marks servers at addresses that their host name no longer resolves to, if addresses have changed. True if there
    /// was one.
    pub(super) fn mark_outdated(&self, changes: u64) -> bool {
        self.address_changes.replace(changes) != changes && self.mark(|info| info.facts.route.is_outdated())
    }

    /// Marks servers that are not as required any more, if roles of hosts have changed.
    pub(super) fn mark_unfit(&self, changes: u64, fits: impl Fn(&RequiredRole) -> bool) {
        if self.role_changes.replace(changes) != changes {
            self.mark_required(|_, required| !fits(required));
        }
    }

    /// Marks servers at an address that has refused to be what was required of them: for this role and database, it is not.
    pub(super) fn mark_at(&self, address: &Endpoint, wanted: TargetSessionAttrs) {
        self.mark_required(|info, required| {
            required.wanted == wanted && info.facts.route.endpoint == *address
        });
    }

    /// Marks servers that were the writer at other hosts.
    pub(super) fn mark_others(&self, writer: &str) {
        self.mark_required(|_, required| required.wanted.is_writer() && *required.host != *writer);
    }
}
