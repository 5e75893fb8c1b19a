//! Servers that follow ageing ones. Owns when a successor logs in: before its predecessor ends, so that a login, slow as
//! IAM's are, does not sit on a client's request. A full pool has one server more for that moment. Where the limits of
//! database or user have no room for it, the successor logs in when its predecessor has ended.

use super::acquire::Pool;
use super::places::{Eviction, Full};
use crate::config::PoolMode;
use crate::limits::Permit;
use crate::server::{Activity, ServerInfo};
use crate::worker;
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// A successor begins at least so long before its predecessor ends, …
const MIN_LEAD: Duration = Duration::from_secs(5);
/// … at most so long, …
const MAX_LEAD: Duration = Duration::from_secs(30);
/// … and else so many times as long as the last login took.
const LOGINS_AHEAD: u32 = 3;
/// No lead is longer than this part of a server's life.
const LEAD_PART_OF_LIFE: u32 = 4;
/// Servers that a pool may have above its size while one takes over from another.
const MAX_OVERLAPPING: u32 = 1;

/// A login in place of another server.
pub(super) struct Replacement {
    /// When the other was used last.
    touched_at: Rc<Cell<Instant>>,
    overlap: Option<Overlap>,
}

/// The place of a server that serves until its successor is in.
struct Overlap {
    /// Gone if the server has gone by itself.
    predecessor: Weak<ServerInfo>,
    /// The place above the pool's size, until the predecessor has it.
    overlap: Option<Permit>,
}

impl Replacement {
    fn of(predecessor: &ServerInfo) -> Self {
        Self { touched_at: predecessor.touched_at.clone(), overlap: None }
    }

    /// When the other was used last, for the new one to go on with.
    pub(super) fn touched_at(&self) -> Rc<Cell<Instant>> {
        self.touched_at.clone()
    }
}

impl Drop for Overlap {
    fn drop(&mut self) {
        if let Some(predecessor) = self.predecessor.upgrade() {
            predecessor.overlaps.set(false);
        }
    }
}

impl Pool {
    /// Starts the logins of successors for which there is room.
    pub(super) fn start_replacements(self: &Rc<Self>) {
        let lifetime = self.rules.borrow().server_lifetime;
        if lifetime.is_zero() || self.database.paused.get() || self.database.disabled.get() {
            return;
        }
        let lead = lead(self.last_login.get(), lifetime);
        for info in self.table.list() {
            let is_due = info.retire_at.is_some_and(|at| at <= worker::now() + lead);
            if is_due
                && info.activity.get() != Activity::Ending
                && !info.has_replacement.get()
                && self.is_in_use(&info)
            {
                info.has_replacement.set(match self.log_in_replacement(&info) {
                    Ok(()) => true,
                    // The other limits hold, and logins that are not to be tried are not tried this way either.
                    Err(full) => full == Some(Full::Pool) && self.log_in_overlapping(&info, lead),
                });
            }
        }
    }

    /// A server has ended by age: its place is taken at once, if that has not happened yet.
    pub(super) fn replace(self: &Rc<Self>, ended: &ServerInfo) {
        let is_wanted = !ended.has_replacement.get() && self.is_in_use(ended);
        if is_wanted && !self.database.paused.get() && !self.uses_once.get() {
            // If there is no room, whoever waits for a server makes it log in.
            let _begun = self.log_in_replacement(ended);
        }
    }

    /// The logins have failed: whoever counted on one of them tries again.
    pub(super) fn forget_replacements(&self) {
        for info in self.table.list() {
            info.has_replacement.set(false);
        }
    }

    /// Starts a login within the pool's size.
    ///
    /// # Errors
    /// The limit that is full; `None` while no login is to be tried.
    fn log_in_replacement(self: &Rc<Self>, predecessor: &ServerInfo) -> Result<(), Option<Full>> {
        if self.is_backing_off() || self.logins_are_many() {
            return Err(None);
        }
        let size = self.rules.borrow().pool_size;
        let permits = self.take_permits(size, Eviction::Forbidden).map_err(Some)?;
        self.start_login_for(permits, Some(Replacement::of(predecessor)));
        Ok(())
    }

    /// One above the size of a pool that is full, which the predecessor gives back as soon as the successor is in. Not for
    /// one that may be with its client for hours: it would keep the place all the time.
    fn log_in_overlapping(self: &Rc<Self>, predecessor: &Rc<ServerInfo>, lead: Duration) -> bool {
        let is_held = predecessor.activity.get() == Activity::Active
            && worker::now().saturating_duration_since(predecessor.touched_at.get()) > lead;
        if is_held || self.rules.borrow().pool_mode == PoolMode::Session {
            return false;
        }
        let Some(overlap) = self.shared.overlapping.take(Some(MAX_OVERLAPPING)) else { return false };
        let size = self.rules.borrow().pool_size;
        // Nor beside a reserve that is open: then this is not enough.
        let Ok(permits) = self.take_permits(size + MAX_OVERLAPPING, Eviction::Forbidden) else {
            return false;
        };
        predecessor.overlaps.set(true);
        let overlap = Overlap { predecessor: Rc::downgrade(predecessor), overlap: Some(overlap) };
        let replacement = Replacement { overlap: Some(overlap), ..Replacement::of(predecessor) };
        self.start_login_for(permits, Some(replacement));
        true
    }

    /// The successor is in: the predecessor goes now, or as soon as its client has done with it.
    pub(super) fn finish_replacement(self: &Rc<Self>, replacement: Replacement) {
        let Some(mut overlap) = replacement.overlap else { return };
        let Some(predecessor) = overlap.predecessor.upgrade() else { return };
        predecessor.close_needed.set(true);
        match self.idle.take(predecessor.id) {
            Some(server) => self.close(server),
            None => *predecessor.overlap.borrow_mut() = overlap.overlap.take(),
        }
    }

    /// A server that nobody has used for `server_idle_timeout` demands no successor; without that limit, one that nobody
    /// has used in its life.
    fn is_in_use(&self, info: &ServerInfo) -> bool {
        let idle_timeout = self.context.config().settings.server_idle_timeout;
        let touched_at = info.touched_at.get();
        info.activity.get() == Activity::Active
            || if idle_timeout.is_zero() {
                touched_at > info.logged_in_at
            } else {
                worker::now().saturating_duration_since(touched_at) < idle_timeout
            }
    }
}

fn lead(last_login: Duration, lifetime: Duration) -> Duration {
    (last_login * LOGINS_AHEAD).clamp(MIN_LEAD, MAX_LEAD).min(lifetime / LEAD_PART_OF_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_logins_begin_earlier_and_short_lives_bound_it() {
        let hour = Duration::from_secs(3600);
        assert_eq!(lead(Duration::from_millis(20), hour), MIN_LEAD);
        assert_eq!(lead(Duration::from_secs(4), hour), Duration::from_secs(12));
        assert_eq!(lead(Duration::from_secs(60), hour), MAX_LEAD);
        assert_eq!(lead(Duration::ZERO, Duration::from_secs(8)), Duration::from_secs(2));
    }
}
