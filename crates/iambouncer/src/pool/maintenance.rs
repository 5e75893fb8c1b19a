//! Periodic maintenance of a pool by the janitor: closes old and dead idle servers, keeps `min_pool_size`, opens the
//! reserve. Owns the list of the pools that need it, so that unused pools cost nothing. Owns no timer.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::directory::Directory;
use crate::server::ServerInfo;
use crate::worker::{self, executor, upkeep};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Pools that are maintained before other tasks of the worker run.
const POOLS_PER_STEP: usize = 50;

/// The pools of this worker that are maintained: those with servers, waiting clients, logins, or a minimum of servers.
#[derive(Default)]
pub(super) struct MaintainedPools(RefCell<Vec<Weak<Pool>>>);

/// A pool's side of the list.
#[derive(Default)]
pub(super) struct Maintenance {
    is_listed: Cell<bool>,
}

impl Pool {
    /// Adds the pool to the list, if it is not in it. Called when it gets anything to maintain.
    #[inline]
    pub(super) fn request_maintenance(self: &Rc<Self>) {
        if !self.maintenance.is_listed.get() {
            self.begin_maintenance();
        }
    }

    #[cold]
    fn begin_maintenance(self: &Rc<Self>) {
        self.maintenance.is_listed.set(true);
        self.checks.renew(&self.context.config().settings, worker::now());
        self.shared_limits.maintained().0.borrow_mut().push(Rc::downgrade(self));
        upkeep::request();
    }

    /// True while the pool is in the list.
    pub fn is_maintained(&self) -> bool {
        self.maintenance.is_listed.get()
    }

    /// Adds an open server to the pool's table.
    pub(super) fn add_to_table(self: &Rc<Self>, server: &Rc<ServerInfo>) {
        self.table.add(server);
        self.request_maintenance();
    }

    /// True if a round would do nothing, now and later, unless the pool is used.
    pub(super) fn needs_no_maintenance(&self) -> bool {
        self.table.count() == 0
            && self.queue.is_empty()
            && !self.has_arrivals()
            && self.logins.under_way() == 0
            && self.lingering.taken() == 0
            && (self.rules.current().min_pool_size == 0 || !self.keeps_minimum_here())
    }

    /// False at a worker that has left: its servers have moved to another, which keeps the minimum.
    fn keeps_minimum_here(&self) -> bool {
        self.context.process.placement.is_active(self.context.worker.index())
    }

    /// One round.
    fn maintain(self: &Rc<Self>) {
        self.checks.renew(&self.context.config().settings, worker::now());
        self.look_at_functions(worker::now());
        self.apply_address_changes();
        self.apply_role_changes();
        self.start_replacements();
        self.close_expired();
        // A client may have waited long enough for the reserve, or a shared limit may have room again.
        self.connect_for_waiters();
        self.report_refusals();
        if self.keeps_minimum_here() {
            self.keep_minimum();
        }
    }

    fn close_expired(self: &Rc<Self>) {
        let idle_timeout = self.context.config().settings.server_idle_timeout;
        let minimum = self.rules.current().min_pool_size as usize;
        let now = worker::now();
        let idle = self.idle.take_all();
        let mut left = self.shared.open.taken() as usize;
        let mut kept = std::collections::VecDeque::with_capacity(idle.len());
        for mut server in idle {
            let idle_for = now - server.info.touched_at.get();
            let too_idle = !idle_timeout.is_zero() && idle_for >= idle_timeout && left > minimum;
            let too_old = server.info.facts.retire_at.is_some_and(|at| at <= now);
            let reason = if too_idle {
                Some(ServerCloseReason::Idle)
            } else if too_old {
                Some(ServerCloseReason::Lifetime)
            } else if server.info.close_needed.get() {
                Some(ServerCloseReason::Changed)
            } else {
                (!server.is_fit(&self.context.parameters)).then_some(ServerCloseReason::Died)
            };
            if let Some(reason) = reason {
                left -= 1;
                let info = server.info.clone();
                self.close(server, reason);
                if too_old && !too_idle {
                    self.replace(&info);
                }
            } else {
                kept.push_back(server);
            }
        }
        self.idle.put_back(kept);
    }
}

impl Directory {
    /// One round of maintenance of the pools that need it, in steps between which the worker's other tasks run. Only one
    /// round may run at a time.
    pub async fn maintain(&self) {
        let mut done = 0;
        // Pools are added at the end of the list, and removed only here.
        while let Some(kept) = self.maintain_from(done) {
            done += kept;
            executor::yield_now().await;
        }
    }

    /// Maintains the pools at the next places of the list. Returns how many of them stay in it; `None` at its end.
    fn maintain_from(&self, place: usize) -> Option<usize> {
        let list = &self.shared_limits.maintained().0;
        let places = |list: &[Weak<Pool>]| place..list.len().min(place + POOLS_PER_STEP);
        let step: Vec<_> = {
            let list = list.borrow();
            list[places(&list)].to_vec()
        };
        let mut kept = Vec::with_capacity(step.len());
        for pool in step.iter().filter_map(Weak::upgrade) {
            pool.maintain();
            let is_done = pool.needs_no_maintenance();
            pool.maintenance.is_listed.set(!is_done);
            if !is_done {
                kept.push(Rc::downgrade(&pool));
            }
        }
        let stay = kept.len();
        let mut list = list.borrow_mut();
        list.splice(place..place + step.len(), kept);
        (place + stay < list.len()).then_some(stay)
    }

    /// The pools with servers, waiting clients, logins, or a minimum of servers.
    pub fn maintained_pools(&self) -> Vec<Rc<Pool>> {
        self.shared_limits.maintained().0.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// True if no pool needs maintenance.
    pub fn needs_no_maintenance(&self) -> bool {
        self.shared_limits.maintained().0.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::sample_directory;

    const POOLS: usize = 10 * POOLS_PER_STEP + 1;

    #[test]
    fn a_worker_serves_its_clients_while_thousands_of_pools_are_maintained() {
        sample_directory::run("[databases]\napp = host=/nowhere\n", async |directory| {
            let database = directory.known("app").unwrap();
            for number in 0..POOLS {
                directory.pool(&database, &format!("user{number}")).request_maintenance();
            }
            let turns = sample_directory::count_turns();
            assert_eq!(directory.maintained_pools().len(), POOLS);
            directory.maintain().await;
            assert!(directory.needs_no_maintenance(), "none has anything to maintain");
            assert!(turns.get() >= POOLS / POOLS_PER_STEP, "{}", turns.get());
        });
    }
}
