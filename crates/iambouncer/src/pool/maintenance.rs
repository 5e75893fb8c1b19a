//! Periodic maintenance of a pool by the janitor: closes old and dead idle servers, keeps `min_pool_size`, opens the
//! reserve. Owns no timer of its own.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use crate::worker;
use std::rc::Rc;

impl Pool {
    /// One round.
    pub fn maintain(self: &Rc<Self>) {
        self.checks.renew(&self.context.config().settings, worker::now());
        self.apply_address_changes();
        self.start_replacements();
        self.close_expired();
        // A client may have waited long enough for the reserve, or a shared limit may have room again.
        self.connect_for_waiters();
        self.report_refusals();
        self.keep_minimum();
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
