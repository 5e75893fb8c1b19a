//! The idle servers of a pool, ordered by last use. Owns that list, and the count that other workers see.

use super::shared::SharedPool;
use crate::server::Server;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Idle servers of one pool at one worker.
pub(super) struct IdleServers {
    servers: RefCell<VecDeque<Box<Server>>>,
    shared: Arc<SharedPool>,
    worker: usize,
}

impl IdleServers {
    pub(super) fn new(shared: Arc<SharedPool>, worker: usize) -> Self {
        Self { servers: RefCell::default(), shared, worker }
    }

    fn change<T>(&self, change: impl FnOnce(&mut VecDeque<Box<Server>>) -> T) -> T {
        let mut servers = self.servers.borrow_mut();
        let outcome = change(&mut servers);
        self.shared.demands.set_idle(self.worker, servers.len());
        outcome
    }

    /// Inserts a server by the time of its last use; this is the end of the list unless the server has never been used.
    pub(super) fn push(&self, server: Box<Server>) {
        let last_use = server.info.touched_at.get();
        self.change(|servers| {
            let is_earlier = |other: &Server| other.info.touched_at.get() <= last_use;
            if servers.back().is_none_or(|newest| is_earlier(newest)) {
                return servers.push_back(server);
            }
            let before = servers.iter().rposition(|other| is_earlier(other));
            servers.insert(before.map_or(0, |at| at + 1), server);
        });
    }

    /// Takes the server released last.
    pub(super) fn pop_newest(&self) -> Option<Box<Server>> {
        self.change(VecDeque::pop_back)
    }

    /// Takes the server that has been idle longest.
    pub(super) fn pop_oldest(&self) -> Option<Box<Server>> {
        self.change(VecDeque::pop_front)
    }

    /// Takes the server that has been idle longest, but not the one that this client has had last.
    #[cfg(debug_assertions)]
    pub(super) fn pop_oldest_but_last_of(&self, client_id: u64) -> Option<Box<Server>> {
        self.change(|servers| {
            let last = servers.iter().rposition(|server| server.last_client == client_id);
            servers.remove(if last == Some(0) { 1 } else { 0 })
        })
    }

    /// Since when the first of them has been idle.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        self.servers.borrow().front().map(|server| server.info.touched_at.get())
    }

    /// Takes the server with this id, if it is idle.
    pub(super) fn take(&self, id: u64) -> Option<Box<Server>> {
        self.change(|servers| {
            let at = servers.iter().position(|server| server.info.facts.id == id)?;
            servers.remove(at)
        })
    }

    /// Takes all, in order.
    pub(super) fn take_all(&self) -> VecDeque<Box<Server>> {
        self.change(std::mem::take)
    }

    /// Puts back what [`IdleServers::take_all`] took, ahead of servers released meanwhile.
    pub(super) fn put_back(&self, mut kept: VecDeque<Box<Server>>) {
        self.change(|servers| {
            kept.append(servers);
            *servers = kept;
        });
    }

    pub(super) fn len(&self) -> usize {
        self.servers.borrow().len()
    }
}
