//! Servers that follow clients to another worker. Owns how many: as large a part of a pool's servers as of its clients,
//! and never more than clients that have moved. A client that keeps a server takes it along itself.

use super::acquire::Pool;
use super::directory::Directory;
use crate::placement::FULL_LOAD;
use crate::server::Server;
use crate::worker;
use std::cell::Cell;
use std::rc::Rc;

/// Pools whose idle servers are sent away in a step.
const POOLS_PER_STEP: usize = 100;

/// The moves of one pool under one order.
#[derive(Debug, Clone, Copy, Default)]
struct Followed {
    order: u32,
    /// The worker that the last client has moved to.
    to: usize,
    clients: u32,
    servers: u32,
}

/// What has moved from a pool at this worker.
#[derive(Default)]
pub(super) struct Following(Cell<Followed>);

impl Pool {
    fn followed(&self) -> Followed {
        let (followed, order) = (self.following.0.get(), self.context.moves.number());
        if followed.order == order { followed } else { Followed { order, ..Followed::default() } }
    }

    /// A client without a server has moved from here to a worker.
    pub fn client_moved(self: &Rc<Self>, to: usize) {
        let followed = self.followed();
        self.following.0.set(Followed { to, clients: followed.clients + 1, ..followed });
        if self.next_to_follow().is_some()
            && let Some(server) = self.take_idle()
            && let Err(server) = self.send_after_clients(server)
        {
            self.keep(server);
        }
    }

    /// The worker that gets the next server; `None` if enough have followed.
    fn next_to_follow(&self) -> Option<usize> {
        let followed = self.followed();
        if self.context.moves.are_for_all() {
            let placement = &self.context.process.placement;
            return Some(placement.for_moved(worker::now()));
        }
        let here = self.table.count() as u32 + followed.servers;
        let part = (here * self.context.moves.share()).div_ceil(FULL_LOAD);
        (followed.servers < part.min(followed.clients)).then_some(followed.to)
    }

    /// Sends a free server after the clients that have moved. Called while clients move.
    ///
    /// # Errors
    /// Returns the server if enough have followed, or if it cannot move now.
    #[cold]
    pub(super) fn send_after_clients(self: &Rc<Self>, server: Box<Server>) -> Result<(), Box<Server>> {
        let is_wanted_here = self.context.moves.are_for_all() && self.queue.has_waiters();
        if is_wanted_here || server.info.overlap.is_login_under_way() || self.database.is_paused() {
            return Err(server);
        }
        match self.next_to_follow() {
            Some(to) if to != self.context.worker.index() => {
                let followed = self.followed();
                self.following.0.set(Followed { servers: followed.servers + 1, ..followed });
                self.send_to(to, server);
                Ok(())
            }
            _ => Err(server),
        }
    }
}

impl Directory {
    /// This worker has left: its idle servers are sent to the others.
    pub async fn send_idle_away(&self) {
        let send = |pool: Rc<Pool>| {
            while let Some(server) = pool.take_idle() {
                if let Err(server) = pool.send_after_clients(server) {
                    return pool.keep(server);
                }
            }
        };
        self.visit_pools(POOLS_PER_STEP, send).await;
    }
}
