//! When the functions of a pool's database are compared with its catalog: before a server is used that has logged in, and
//! before a client gets a server while what is known is old. A pool that is not used sends nothing. Owns that decision; what
//! is read belongs to [`crate::session_functions`].

use super::acquire::Pool;
use crate::config::SessionStateFunctions;
use crate::server::Server;
use crate::server::functions::{self, UnreadFunctions};
use crate::session_functions::ReadFor;
use crate::worker::{self, timers};
use sql::routines::Doubt;
use std::time::{Duration, Instant};

/// Longest time for reading the functions of a database.
const READ_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two looks at whether a check is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

impl Pool {
    /// Compares the functions with the catalog, if that is due and this pool follows the state of sessions. False if the
    /// server cannot be used afterwards.
    pub(super) async fn check_functions(&self, server: &mut Server) -> bool {
        if !self.follows() {
            return true;
        }
        let read_for = self.functions_read_for();
        let (database, known) = (&self.database.name, &self.database.functions);
        if !known.begin_check(worker::now(), &read_for) {
            return true;
        }
        let doubt = match read_for.setting {
            SessionStateFunctions::Careful => Doubt::Harmless,
            SessionStateFunctions::Strict => Doubt::Opaque,
        };
        let fingerprint = known.fingerprint(read_for.setting);
        let reading = functions::read(server, &self.context.parameters, doubt, fingerprint.as_deref());
        let outcome = timers::timeout(READ_LIMIT, reading).await.unwrap_or(Err(UnreadFunctions::Unusable));
        match outcome {
            Err(UnreadFunctions::Unusable) => return false,
            Err(UnreadFunctions::Refused(reason)) => {
                known.record_failure(database, &reason, read_for.setting);
            }
            Ok(None) => {}
            Ok(Some(read)) => known.record(database, read),
        }
        known.checked(worker::now(), read_for);
        true
    }

    /// Called regularly: from now on, the next client waits for a check, if one is due.
    pub(super) fn look_at_functions(&self, now: Instant) {
        if !self.checks.is_time_to_look(now, LOOK_INTERVAL) {
            return;
        }
        let is_due = self.follows() && self.database.functions.is_check_due(now, &self.functions_read_for());
        self.checks.set_functions_due(is_due);
    }

    fn follows(&self) -> bool {
        self.with_session_rules(|rules| rules.follows)
    }

    fn functions_read_for(&self) -> ReadFor {
        let line = self.database.line.borrow();
        ReadFor {
            target: format!("{}/{}", line.endpoint_text(), line.server_dbname(&self.database.name)),
            setting: self.context.config().settings.session_state_functions,
            schema_version: self.schema_version(),
        }
    }
}
