//! Replacements of ageing servers. Owns when a replacement logs in: before the old server expires, so that no client
//! waits for a login, which is slow with IAM. A full pool may have one extra server meanwhile. If the limits of the
//! database or user have no room for it, the replacement logs in after the old server is closed.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::places::{Eviction, Full};
use crate::config::PoolMode;
use crate::limits::Permit;
use crate::server::{Activity, ServerInfo};
use crate::worker;
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// A replacement starts at least this long before the old server expires, …
const MIN_LEAD: Duration = Duration::from_secs(5);
/// … at most this long, …
const MAX_LEAD: Duration = Duration::from_secs(30);
/// … and otherwise this many times the duration of the last login.
const LOGINS_AHEAD: u32 = 3;
/// The lead is at most the server lifetime divided by this.
const LEAD_PART_OF_LIFE: u32 = 4;
/// A server that was not used for the server lifetime divided by this is not replaced.
const UNUSED_PART_OF_LIFE: u32 = 4;
/// Servers that a pool may have above its size during a replacement.
const MAX_OVERLAPPING: u32 = 1;

/// A login that replaces another server.
pub(super) struct Replacement {
    /// When the old server was last used.
    touched_at: Rc<Cell<Instant>>,
    overlap: Option<OverlappingLogin>,
}

/// The place of a server that stays in use until its replacement has logged in.
struct OverlappingLogin {
    /// Dangling if the old server is closed already.
    predecessor: Weak<ServerInfo>,
    /// The place above the pool's size, until it is transferred to the old server.
    place: Option<Permit>,
}

impl Replacement {
    fn of(predecessor: &ServerInfo) -> Self {
        Self { touched_at: predecessor.touched_at.clone(), overlap: None }
    }

    /// The old server's time of last use, which the new one inherits.
    pub(super) fn touched_at(&self) -> Rc<Cell<Instant>> {
        self.touched_at.clone()
    }
}

impl Drop for OverlappingLogin {
    fn drop(&mut self) {
        if let Some(predecessor) = self.predecessor.upgrade() {
            predecessor.overlap.end_login();
        }
    }
}

impl Pool {
    /// Starts replacements for which there is room.
    pub(super) fn start_replacements(self: &Rc<Self>) {
        let lifetime = self.rules.current().server_lifetime;
        if lifetime.is_zero() || self.database.is_paused() || self.database.disabled.get() {
            return;
        }
        let lead = lead(self.logins.last_took(), lifetime);
        for info in self.table.list() {
            let is_due = info.facts.retire_at.is_some_and(|at| at <= worker::now() + lead);
            if is_due
                && !matches!(info.activity.get(), Activity::Closing | Activity::Listening)
                && !info.facts.has_replacement.get()
                && self.is_in_use(&info)
            {
                info.facts.has_replacement.set(match self.log_in_replacement(&info) {
                    Ok(()) => true,
                    // The other limits still apply, and so does the back-off.
                    Err(full) => full == Some(Full::Pool) && self.log_in_overlapping(&info, lead),
                });
            }
        }
    }

    /// A server was closed because of its age: it is replaced at once, unless that has happened already.
    pub(super) fn replace(self: &Rc<Self>, expired: &ServerInfo) {
        let is_wanted = !expired.facts.has_replacement.get() && self.is_in_use(expired);
        if is_wanted && !self.database.is_paused() && !self.rules.uses_once() {
            // If there is no room, the next client that waits causes a login.
            let _begun = self.log_in_replacement(expired);
        }
    }

    /// Replacement logins have failed: the servers they were meant to replace become eligible again.
    pub(super) fn reset_replacements(&self) {
        for info in self.table.list() {
            info.facts.has_replacement.set(false);
        }
    }

    /// Starts a login within the pool's size.
    ///
    /// # Errors
    /// The limit that is full; `None` while logins are suspended.
    fn log_in_replacement(self: &Rc<Self>, predecessor: &ServerInfo) -> Result<(), Option<Full>> {
        if self.is_backing_off() || self.logins.is_at_maximum() {
            return Err(None);
        }
        let size = self.rules.current().pool_size;
        let permits = self.take_permits(size, Eviction::Forbidden).map_err(Some)?;
        self.start_login_for(permits, Some(Replacement::of(predecessor)));
        Ok(())
    }

    /// Starts a login above the size of a full pool; the old server gives up its place as soon as the replacement has
    /// logged in. Not for a server that its client may keep for hours, which would hold the extra place all that time.
    fn log_in_overlapping(self: &Rc<Self>, predecessor: &Rc<ServerInfo>, lead: Duration) -> bool {
        let is_held = predecessor.activity.get() == Activity::Active
            && worker::now().saturating_duration_since(predecessor.touched_at.get()) > lead;
        if is_held || self.rules.current().pool_mode == PoolMode::Session {
            return false;
        }
        let Some(place) = self.shared.overlapping.take(Some(MAX_OVERLAPPING)) else { return false };
        let size = self.rules.current().pool_size;
        // One more place is not enough while the reserve is in use.
        let Ok(permits) = self.take_permits(size + MAX_OVERLAPPING, Eviction::Forbidden) else {
            return false;
        };
        predecessor.overlap.begin();
        let overlap = OverlappingLogin { predecessor: Rc::downgrade(predecessor), place: Some(place) };
        let replacement = Replacement { overlap: Some(overlap), ..Replacement::of(predecessor) };
        self.start_login_for(permits, Some(replacement));
        true
    }

    /// The replacement has logged in: the old server is closed now, or as soon as its client releases it.
    pub(super) fn finish_replacement(self: &Rc<Self>, replacement: Replacement) {
        let Some(mut overlap) = replacement.overlap else { return };
        let Some(predecessor) = overlap.predecessor.upgrade() else { return };
        predecessor.close_needed.set(true);
        match (self.idle.take(predecessor.facts.id), overlap.place.take()) {
            (Some(server), _) => self.close(server, ServerCloseReason::Lifetime),
            (None, Some(place)) => predecessor.overlap.complete(place),
            (None, None) => {}
        }
    }

    /// A server that was not used for `server_idle_timeout` or for a part of its lifetime is not replaced, so that an
    /// unused pool shrinks.
    fn is_in_use(&self, info: &ServerInfo) -> bool {
        let idle_timeout = self.context.config().settings.server_idle_timeout;
        let part_of_life = self.rules.current().server_lifetime / UNUSED_PART_OF_LIFE;
        let limit = if idle_timeout.is_zero() { part_of_life } else { idle_timeout.min(part_of_life) };
        info.activity.get() == Activity::Active
            || worker::now().saturating_duration_since(info.touched_at.get()) < limit
    }
}

fn lead(last_login: Duration, lifetime: Duration) -> Duration {
    (last_login * LOGINS_AHEAD).clamp(MIN_LEAD, MAX_LEAD).min(lifetime / LEAD_PART_OF_LIFE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacement_lead_grows_with_login_time_within_bounds() {
        let hour = Duration::from_secs(3600);
        assert_eq!(lead(Duration::from_millis(20), hour), MIN_LEAD);
        assert_eq!(lead(Duration::from_secs(4), hour), Duration::from_secs(12));
        assert_eq!(lead(Duration::from_secs(60), hour), MAX_LEAD);
        assert_eq!(lead(Duration::ZERO, Duration::from_secs(8)), Duration::from_secs(2));
    }
}
