//! What happens to a server that is free again: closed, moved, granted to the client that has waited longest, or kept
//! idle. Owns these decisions; a server of unknown state is closed by `lingering`.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::lease::Lease;
use super::lingering::UnfinishedWork;
use crate::server::{Activity, Server};
use crate::worker::{self, executor};
use std::rc::Rc;
use std::time::Instant;

impl Pool {
    /// Takes a server back from a client.
    pub(super) fn release(self: &Rc<Self>, server: Box<Server>) {
        let now = worker::now();
        server.info.touched_at.set(now);
        self.queue.record_release(now);
        if self.rules.uses_once() {
            return self.retire(server, ServerCloseReason::Lifetime);
        }
        let Some(mut server) = self.accept(server, now) else { return };
        if self.context.moves.is_open() {
            match self.send_after_clients(server) {
                Ok(()) => return,
                Err(back) => server = back,
            }
        }
        self.assign_or_keep(server);
    }

    /// Gives a free server to the client that has waited longest, or adds it to the idle servers.
    pub(super) fn admit(self: &Rc<Self>, server: Box<Server>, now: Instant) {
        if let Some(server) = self.accept(server, now) {
            self.assign_or_keep(server);
        }
    }

    /// Returns a server that is free and may be used; any other is closed, or kept until it can be used.
    #[inline]
    fn accept(self: &Rc<Self>, server: Box<Server>, now: Instant) -> Option<Box<Server>> {
        let info = &server.info;
        info.client_id.set(0);
        info.is_kept.set(false);
        info.activity.set(Activity::Idle);
        let is_too_old = info.facts.retire_at.is_some_and(|at| at <= now);
        if info.close_needed.get() {
            self.retire(server, ServerCloseReason::Changed);
            return None;
        }
        if is_too_old || self.is_above_size() {
            let reason = if is_too_old { ServerCloseReason::Lifetime } else { ServerCloseReason::Surplus };
            self.retire(server, reason);
            return None;
        }
        if info.cancels_in_flight.get() > 0 {
            self.canceling.keep(server);
            return None;
        }
        if self.database.is_paused() {
            self.close(server, ServerCloseReason::Paused);
            return None;
        }
        Some(server)
    }

    /// Closes a server that must not be used again, then serves the waiters or opens a replacement.
    fn retire(self: &Rc<Self>, server: Box<Server>, reason: ServerCloseReason) {
        let info = server.info.clone();
        let is_surplus = self.is_above_size();
        self.close(server, reason);
        self.connect_for_waiters();
        if !is_surplus && !info.close_needed.get() {
            self.replace(&info);
        }
    }

    /// Takes back a server that has just been checked. It is not checked again for a change that came meanwhile: with
    /// many changes, no client would get a server.
    pub(super) fn admit_checked(self: &Rc<Self>, server: Box<Server>) {
        if let Some(server) = self.accept(server, worker::now()) {
            self.assign_without_check(server);
        }
    }

    pub(super) fn assign_or_keep(self: &Rc<Self>, server: Box<Server>) {
        if self.must_check_functions() && self.queue.has_waiters() {
            return self.check(server);
        }
        self.assign_without_check(server);
    }

    #[inline(always)]
    fn assign_without_check(self: &Rc<Self>, mut server: Box<Server>) {
        if self.is_needed_elsewhere() {
            match self.donate_if_fair(server) {
                Ok(()) => return,
                Err(back) => server = back,
            }
        }
        if self.shared_limits.claim_with_precedence(self, |pool| pool.queue.waiting_since()).is_some() {
            return self.close(server, ServerCloseReason::Evicted);
        }
        if let Err(server) = self.queue.grant(self, server) {
            self.keep_or_send_away(server);
        }
    }

    /// Keeps an idle server, unless this worker has left.
    #[inline]
    fn keep_or_send_away(self: &Rc<Self>, mut server: Box<Server>) {
        if self.context.moves.are_for_all() {
            match self.send_after_clients(server) {
                Ok(()) => return,
                Err(back) => server = back,
            }
        }
        self.keep(server);
    }

    /// Adds a server to the idle ones.
    pub(super) fn keep(&self, server: Box<Server>) {
        debug_assert!(server.info.client_id.get() == 0, "an idle server has no client");
        debug_assert!(server.info.cancels_in_flight.get() == 0, "a cancel request would hit the next client");
        debug_assert!(!server.info.close_needed.get(), "a server that has to be closed is not kept");
        server.stream.clear_waker();
        self.idle.push(server);
        self.changed.notify_all();
    }

    /// Takes back a server whose session state may be dirty: it runs the reset query first.
    pub(super) fn release_dirty(self: &Rc<Self>, server: Box<Server>) {
        let settings = self.context.config();
        self.release_with(server, settings.settings.server_reset_query.clone());
    }

    /// Takes back a server that runs this query first; none if it is empty.
    pub(super) fn release_with(self: &Rc<Self>, server: Box<Server>, sql: String) {
        if sql.is_empty() || self.rules.uses_once() || server.info.close_needed.get() {
            return self.release(server);
        }
        server.info.client_id.set(0);
        server.info.is_kept.set(false);
        if server.info.cancels_in_flight.get() > 0 {
            // A cancel request would hit the reset query itself.
            return self.abandon(server, UnfinishedWork { owes_answers: false, between_messages: true });
        }
        server.info.activity.set(Activity::Tested);
        let pool = self.clone();
        let mut lease = Lease::new(self, server);
        executor::spawn(async move {
            let limit = pool.context.config().settings.server_connect_timeout;
            let run = crate::server::reset::run(&mut lease, &pool.context.parameters, &sql);
            let clean = worker::timers::timeout(limit, run).await.unwrap_or(false);
            if clean {
                return lease.release();
            }
            // Its state is unknown, so dropping the lease closes it.
            tracing::warn!(database = %pool.database.name, user = %pool.user, "server_reset_query failed");
        });
    }
}
