//! Pools of this worker that share a limit, of their user or of their database. Owns the list of each user's pools, and
//! the claims of pools whose clients wait for a place that another pool has. An idle server is closed at once, a busy
//! one when it is released, if the claiming clients have waited much longer than those that would get it next.

use super::acquire::Pool;
use super::balance::with_pool;
use super::directory::Directory;
use super::maintenance::MaintainedPools;
use super::places::Full;
use super::shared::SharedPools;
use crate::worker::workers::Workers;
use crate::worker::{self, executor};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients get the place of another pool's busy server when they have waited this much longer than that pool's own
/// clients. Each such change costs a login, so this is far longer than a login takes.
const PATIENCE: Duration = Duration::from_secs(1);
/// A claim expires unless it is renewed within this time. The sweep renews it; clients that wait for a startup response
/// do so twice a second.
const CLAIM_TTL: Duration = Duration::from_secs(1);
/// The same for another worker's claim, which is renewed every few milliseconds.
const REMOTE_CLAIM_TTL: Duration = Duration::from_millis(50);

/// A pool of another worker that claims a place.
pub(super) struct Requester {
    pub(super) worker: usize,
    pub(super) database: String,
    pub(super) user: String,
    /// Since when its first client waits.
    pub(super) since: Instant,
}

enum Claimant {
    Here(Weak<Pool>),
    Elsewhere(Requester),
}

/// A claim to a place in limits that are full.
struct Claim {
    claimant: Claimant,
    full: Full,
    /// When it expires.
    until: Instant,
}

impl Claim {
    /// True when a server of `pool` holds a place that is claimed.
    fn competes_with(&self, pool: &Pool) -> bool {
        let competes_with = |database: &str, user: &str| {
            let (same_database, same_user) = (*pool.database.name == *database, *pool.user == *user);
            (self.full.of_user() && same_user && !same_database)
                || (self.full.of_database() && same_database && !same_user)
        };
        match &self.claimant {
            Claimant::Here(claimant) => claimant
                .upgrade()
                .is_some_and(|claimant| competes_with(&claimant.database.name, &claimant.user)),
            Claimant::Elsewhere(requester) => competes_with(&requester.database, &requester.user),
        }
    }

    /// True if the claim precedes the clients of a pool, the first of which has waited since `local`.
    fn is_overdue(&self, local: Option<Instant>) -> bool {
        match &self.claimant {
            Claimant::Here(pool) => {
                let since = pool.upgrade().and_then(|pool| pool.first_waiting_since());
                since.is_some_and(|since| local.is_none_or(|local| has_waited_much_longer(since, local)))
            }
            // Its clients may no longer wait; it asks again in a moment and then takes what is idle.
            Claimant::Elsewhere(requester) => {
                local.is_some_and(|local| has_waited_much_longer(requester.since, local))
            }
        }
    }

    fn since(&self) -> Option<Instant> {
        match &self.claimant {
            Claimant::Here(pool) => pool.upgrade().and_then(|pool| pool.first_waiting_since()),
            Claimant::Elsewhere(requester) => Some(requester.since),
        }
    }
}

fn has_waited_much_longer(claimed: Instant, local: Instant) -> bool {
    claimed + PATIENCE < local
}

/// The pools of a worker, indexed by shared limits.
pub(super) struct SharedLimits {
    by_user: RefCell<HashMap<Rc<str>, Vec<Weak<Pool>>>>,
    claims: RefCell<Vec<Claim>>,
    /// True if there are claims; checked at every release.
    has_claims: Cell<bool>,
    retry_due: Cell<bool>,
    maintained: MaintainedPools,
    /// The state of pools that all workers share.
    shared_pools: Arc<SharedPools>,
    workers: Workers<Directory>,
}

impl SharedLimits {
    /// Creates an empty registry.
    pub(super) fn new(shared_pools: Arc<SharedPools>, workers: Workers<Directory>) -> Self {
        Self {
            by_user: RefCell::default(),
            claims: RefCell::default(),
            has_claims: Cell::new(false),
            retry_due: Cell::new(false),
            maintained: MaintainedPools::default(),
            shared_pools,
            workers,
        }
    }

    /// The pools of this worker that need maintenance.
    pub(super) fn maintained(&self) -> &MaintainedPools {
        &self.maintained
    }

    pub(super) fn shared_pools(&self) -> &SharedPools {
        &self.shared_pools
    }

    /// The directories of all workers.
    pub(super) fn workers(&self) -> &Workers<Directory> {
        &self.workers
    }

    /// Lets a pool of another worker try to get the place that its clients wait for.
    pub(super) fn try_again_at(&self, requester: &Requester) {
        let job = with_pool(&requester.database, &requester.user, Pool::try_again);
        let _ = self.workers.run_on(requester.worker, job);
    }

    /// Adds a pool, until it is dropped.
    pub(super) fn add(&self, pool: &Rc<Pool>) {
        let mut by_user = self.by_user.borrow_mut();
        let pools = by_user.entry(pool.user.clone()).or_default();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Rc::downgrade(pool));
    }

    /// Removes users without pools.
    pub(super) fn forget_gone(&self) {
        self.by_user.borrow_mut().retain(|_, pools| pools.iter().any(|pool| pool.strong_count() > 0));
    }

    /// Of a user's pools other than the one of `database`, the pool whose server has been idle longest.
    pub(super) fn longest_idle_of_user(&self, user: &str, database: &str) -> Option<Rc<Pool>> {
        let by_user = self.by_user.borrow();
        let pools = by_user.get(user)?.iter().filter_map(Weak::upgrade);
        longest_idle(pools.filter(|pool| &*pool.database.name != database))
    }

    fn change_claims(&self, change: impl FnOnce(&mut Vec<Claim>)) {
        let mut claims = self.claims.borrow_mut();
        change(&mut claims);
        self.has_claims.set(!claims.is_empty());
    }

    /// Records that a pool of this worker claims a place that others hold. It renews the claim while it needs the
    /// place.
    pub(super) fn claim(&self, pool: &Rc<Pool>, full: Full) {
        self.withdraw(pool);
        let claimant = Claimant::Here(Rc::downgrade(pool));
        let until = worker::now() + CLAIM_TTL;
        self.change_claims(|claims| claims.push(Claim { claimant, full, until }));
    }

    /// The same for a pool of another worker.
    pub(super) fn claim_elsewhere(&self, requester: Requester, full: Full) {
        let now = worker::now();
        self.change_claims(|claims| {
            claims.retain(|claim| match &claim.claimant {
                Claimant::Here(_) => true,
                Claimant::Elsewhere(known) => {
                    (known.worker, &known.database, &known.user)
                        != (requester.worker, &requester.database, &requester.user)
                }
            });
            let claimant = Claimant::Elsewhere(requester);
            claims.push(Claim { claimant, full, until: now + REMOTE_CLAIM_TTL });
        });
    }

    /// Removes the claim of a pool that has got a place.
    pub(super) fn withdraw(&self, pool: &Rc<Pool>) {
        if self.has_claims.get() {
            let is_from_pool = |claim: &Claim| matches!(&claim.claimant, Claimant::Here(it) if std::ptr::eq(it.as_ptr(), Rc::as_ptr(pool)));
            self.change_claims(|claims| claims.retain(|claim| !is_from_pool(claim)));
        }
    }

    /// The limits in which a claim takes a place of `pool` before its own first client.
    #[inline]
    pub(super) fn claim_with_precedence(
        &self,
        pool: &Pool,
        since: impl FnOnce(&Pool) -> Option<Instant>,
    ) -> Option<Full> {
        if self.has_claims.get() { self.overdue_claim(pool, since(pool)) } else { None }
    }

    fn overdue_claim(&self, pool: &Pool, since: Option<Instant>) -> Option<Full> {
        let now = worker::now();
        self.change_claims(|claims| claims.retain(|claim| claim.until > now));
        let claims = self.claims.borrow();
        let mut overdue = claims.iter().filter(|claim| claim.competes_with(pool) && claim.is_overdue(since));
        overdue.next().map(|claim| claim.full)
    }

    /// A place may be free: claiming pools try again, beginning with the one whose clients have waited longest.
    pub(super) fn retry_claims(self: &Rc<Self>) {
        if !self.has_claims.get() || self.retry_due.replace(true) {
            return;
        }
        let this = self.clone();
        executor::spawn(async move {
            this.retry_due.set(false);
            let mut claims = Vec::new();
            this.change_claims(|all| claims = std::mem::take(all));
            claims.sort_by_key(Claim::since);
            for claim in claims {
                match claim.claimant {
                    Claimant::Here(pool) => {
                        if let Some(pool) = pool.upgrade() {
                            pool.try_again();
                        }
                    }
                    Claimant::Elsewhere(requester) => this.try_again_at(&requester),
                }
            }
        });
    }
}

/// The pool whose server has been idle longest.
pub(super) fn longest_idle(pools: impl Iterator<Item = Rc<Pool>>) -> Option<Rc<Pool>> {
    let with_since = pools.filter_map(|pool| Some((pool.idle.oldest_since()?, pool)));
    with_since.min_by_key(|(since, _)| *since).map(|(_, pool)| pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_is_given_up_only_for_a_much_longer_wait() {
        let now = Instant::now();
        assert!(!has_waited_much_longer(now, now + PATIENCE));
        assert!(has_waited_much_longer(now, now + PATIENCE * 2));
    }
}
