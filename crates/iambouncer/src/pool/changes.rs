//! The effect on a pool of configuration changes, changed host addresses, RECONNECT and the removal of its database
//! line. Owns which servers have to be closed.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use crate::client_error;
use crate::server::Server;
use crate::worker;
use std::rc::Rc;

impl Pool {
    /// The database line has changed, possibly to other servers.
    pub(super) fn apply_line_change(self: &Rc<Self>) {
        self.forget_server_parameters();
        self.retire_all();
    }

    fn forget_server_parameters(&self) {
        self.shared.forget_server_parameters();
        self.known_parameters.forget();
    }

    /// Closes every server as soon as it is free (RECONNECT, changed line).
    pub fn retire_all(self: &Rc<Self>) {
        self.mark_all();
        self.close_idle(ServerCloseReason::Changed);
        self.forget_failure();
        self.connect_for_waiters();
    }

    /// Marks all current servers, so that none is used again.
    fn mark_all(&self) {
        self.shared.begin_generation();
        self.table.mark_all();
    }

    /// Servers at addresses that their host name no longer resolves to are closed as soon as they are free; this closes
    /// the idle ones.
    pub(super) fn apply_address_changes(&self) {
        if self.table.mark_outdated(self.context.process.host_names.changes()) {
            // The failure may have concerned the old address.
            self.forget_failure();
        }
    }

    /// Marks a server that was in no table when the others were marked, because it was logging in or moving here.
    pub(super) fn mark_if_outdated(&self, server: &Server) {
        let facts = &server.info.facts;
        let roles = &self.context.process.server_roles;
        let is_unfit = facts.required.as_ref().is_some_and(|required| !roles.still_fits(required));
        if self.shared.generation() != facts.generation || facts.route.is_outdated() || is_unfit {
            server.info.close_needed.set(true);
        }
    }

    /// The line was removed: clients are no longer served.
    pub(super) fn shut_down(&self) {
        self.forget_server_parameters();
        self.mark_all();
        let error = Rc::new(client_error::database_removed());
        self.queue.refuse(&error, |_| true);
        self.forget_failure();
        self.close_idle(ServerCloseReason::Changed);
    }

    /// Applies changed settings, which may include those used by logins.
    pub(super) fn reload(self: &Rc<Self>) {
        let config = self.context.config();
        self.rules.replace(&config, &self.database.line.borrow(), &self.user);
        self.checks.renew(&config.settings, worker::now());
        self.forget_failure();
        if !self.needs_no_maintenance() {
            self.request_maintenance();
        }
        self.connect_for_waiters();
    }
}
