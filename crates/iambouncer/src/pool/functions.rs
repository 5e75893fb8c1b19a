//! When the functions of a pool's database are compared with its catalog: before a server is used that has logged in, and
//! before a client gets a server while what is known is old; and the replacement of servers whose role has other settings
//! since. A pool that is not used sends nothing. Owns these decisions; what is read belongs to [`crate::session_functions`].

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use crate::config::SessionStateFunctions;
use crate::server::functions::{self, UnreadFunctions};
use crate::server::{Activity, Server, ServerInfo};
use crate::session_functions::ReadFor;
use crate::worker::{self, timers};
use sql::routines::Doubt;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Longest time for reading the functions of a database.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks at whether a check is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether the functions are to be compared for one pool at one worker.
#[derive(Default)]
pub(super) struct FunctionChecks {
    /// The next server is used for it, whichever that is.
    is_due: Cell<bool>,
    looked_at: Cell<Option<Instant>>,
}

impl Pool {
    /// Compares the functions with the catalog, if that is due and this pool follows the state of sessions. False if the
    /// server cannot be used afterwards.
    pub(super) async fn check_functions(&self, server: &mut Server) -> bool {
        if !self.follows() {
            return true;
        }
        let read_for = self.functions_read_for();
        let (database, known) = (&self.database.name, &self.database.functions);
        let Some(began) = known.begin_check(worker::now(), &read_for) else { return true };
        let doubt = match read_for.setting {
            SessionStateFunctions::Careful => Doubt::Harmless,
            SessionStateFunctions::Strict => Doubt::Opaque,
        };
        let fingerprint = known.fingerprint(&read_for);
        let reading = functions::read(&self.context, server, doubt, fingerprint.as_deref());
        let too_long = || Err(UnreadFunctions::Misunderstood(format!("no end within {READ_LIMIT:?}")));
        match timers::timeout(READ_LIMIT, reading).await.unwrap_or_else(too_long) {
            Err(UnreadFunctions::Lost) if known.retries_check() => return false,
            Err(error) => {
                known.record_failure(database, &error.to_string(), &read_for);
                known.checked(worker::now(), read_for, began);
                // The next login does without this reading.
                return matches!(error, UnreadFunctions::Refused(_));
            }
            Ok(read) => {
                // A line may have several hosts with different catalogs.
                let target = format!("{}/{}", server.info.facts.route.endpoint, read_for.target);
                known.login_settings().record(read.login_settings, &target, worker::now());
                match read.functions {
                    None => known.confirm(),
                    Some(functions) => known.record(database, functions, &read_for),
                }
            }
        }
        known.checked(worker::now(), read_for, began);
        true
    }

    /// Called regularly: from now on, the next client waits for a check, if one is due.
    pub(super) fn look_at_functions(self: &Rc<Self>, now: Instant) {
        let checks = &self.function_checks;
        if checks.looked_at.get().is_some_and(|at| now.saturating_duration_since(at) < LOOK_INTERVAL) {
            return;
        }
        checks.looked_at.set(Some(now));
        let follows = self.follows();
        checks.is_due.set(follows && self.database.functions.is_check_due(now, &self.functions_read_for()));
        if follows {
            self.replace_one_with_old_settings();
        }
    }

    /// A session begins with the settings that its role and database have at its login. Once they have changed, one server
    /// that has logged in before is closed, when it is free, and replaced.
    fn replace_one_with_old_settings(self: &Rc<Self>) {
        let Some(changed_at) = self.database.functions.login_settings().changed_at() else { return };
        // As long as logins fail, the old ones are better than none.
        if self.is_backing_off() || self.logins.under_way() > 0 {
            return;
        }
        let servers = self.table.list();
        let is_old = |info: &&Rc<ServerInfo>| {
            info.facts.logged_in_at < changed_at
                && !info.close_needed.get()
                // A client that keeps its server has these settings on a direct connection, too.
                && !info.is_kept.get()
                && !matches!(info.activity.get(), Activity::Closing | Activity::Listening)
        };
        let Some(info) = servers.iter().find(is_old) else { return };
        info.close_needed.set(true);
        if let Some(server) = self.idle.take(info.facts.id) {
            self.close(server, ServerCloseReason::Changed);
            self.replace(info);
        }
    }

    /// A server is about to be used for comparing the functions, if that was due.
    pub(super) fn begin_check_of_functions(&self) {
        self.function_checks.is_due.set(false);
    }

    /// True if the next server is used for comparing the functions of the database with its catalog. Pools that do not
    /// follow the state of sessions leave that to others.
    #[inline]
    pub(super) fn must_check_functions(&self) -> bool {
        self.function_checks.is_due.get() || self.database.functions.are_changed() && self.follows()
    }

    fn follows(&self) -> bool {
        self.with_session_rules(|rules| rules.follows)
    }

    fn functions_read_for(&self) -> ReadFor {
        let line = self.database.line.borrow();
        ReadFor {
            target: format!("{}/{}", line.endpoint_text(), line.server_dbname(&self.database.name)),
            setting: self.context.config().settings.session_state_functions,
        }
    }
}
