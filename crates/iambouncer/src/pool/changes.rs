//! What a change of the configuration or of a host's address, RECONNECT and the end of a line mean for a pool. Owns which
//! servers have to go.

use super::acquire::Pool;
use super::session_rules::SessionRules;
use crate::client_error;
use crate::server::Server;
use std::rc::Rc;
use std::sync::atomic::Ordering;

impl Pool {
    /// Another line: its servers may be others.
    pub(super) fn follow_line(self: &Rc<Self>) {
        self.forget_server_parameters();
        self.retire_all();
    }

    fn forget_server_parameters(&self) {
        self.shared.forget_server_parameters();
        *self.server_parameters.borrow_mut() = None;
    }

    /// Every server goes as soon as it is free (RECONNECT, changed line).
    pub fn retire_all(self: &Rc<Self>) {
        self.mark_all();
        self.close_idle();
        self.forget_failure();
        self.connect_for_waiters();
    }

    /// No server of now is used again.
    fn mark_all(&self) {
        self.shared.retirements.fetch_add(1, Ordering::AcqRel);
        for info in self.table.list() {
            info.close_needed.set(true);
        }
    }

    /// Servers at addresses that their host names do not have any more go as soon as they are free: this round closes the
    /// idle ones.
    pub(super) fn follow_addresses(&self) {
        let changes = self.context.process.host_names.changes();
        if self.address_changes.replace(changes) == changes {
            return;
        }
        let servers = self.table.list();
        let outdated =
            servers.iter().filter(|info| info.route.is_outdated() && !info.close_needed.replace(true));
        if outdated.count() > 0 {
            // What has failed may have failed at the old address.
            self.forget_failure();
        }
    }

    /// Marks a server that was in no table when the others were marked: its login, or its way here, was under way.
    pub(super) fn note_changes(&self, server: &Server) {
        if self.shared.retirements.load(Ordering::Acquire) != server.retirements
            || server.info.route.is_outdated()
        {
            server.info.close_needed.set(true);
        }
    }

    /// The line is gone: nobody is served any more.
    pub(super) fn shut_down(&self) {
        self.forget_server_parameters();
        self.mark_all();
        let error = Rc::new(client_error::database_removed());
        for waiter in self.waiters.borrow_mut().drain(..) {
            waiter.refuse(&error);
        }
        self.forget_failure();
        self.close_idle();
    }

    /// Takes over what has changed. What logins use may be among it.
    pub(super) fn reload(self: &Rc<Self>) {
        let config = self.context.config();
        let rules = config.pool_rules(&self.database.line.borrow(), &self.user);
        self.uses_once.set(rules.server_lifetime.is_zero());
        *self.session_rules.borrow_mut() = Rc::new(SessionRules::new(&config, &rules));
        *self.rules.borrow_mut() = rules;
        self.round_robin.set(config.settings.server_round_robin);
        self.forget_failure();
        self.connect_for_waiters();
    }
}
