//! Servers that belong to one client from their login to their end, for replication. Owns the wait for a place, for which
//! idle servers of the pool are closed, and the login with the client's own parameters; such a server is never idle.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use super::lease::Lease;
use super::places::Eviction;
use super::shared::ReportedParameters;
use crate::client_error::{ClientError, HiddenReason};
use crate::client_identity::Replication;
use crate::limits::Permit;
use crate::server::{Activity, Diagnosis, LoginError};
use crate::worker::{self, timers};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// The end of another limit is not signalled.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A server for one client, and what it has reported at its login.
pub struct DedicatedServer {
    /// The server, in use.
    pub lease: Lease,
    /// All parameters, in order.
    pub reports: ReportedParameters,
}

impl Pool {
    /// Opens a server with these startup parameters besides those of the database line. Waits for a place; the caller
    /// limits the time.
    ///
    /// # Errors
    /// The server refuses the login, or cannot be reached. Other clients are not concerned.
    pub async fn open_dedicated(
        self: &Rc<Self>,
        client_id: u64,
        replication: Replication,
        parameters: Vec<(String, String)>,
    ) -> Result<DedicatedServer, ClientError> {
        let permits = self.wait_for_place().await;
        let started = worker::now();
        let generation = self.shared.generation();
        let under_way = self.logins.begin();
        let logged_in = self
            .log_in_to_line(&|target| {
                let own = |name: &str| parameters.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
                target.parameters.retain(|(name, _)| !own(name));
                let added = parameters.iter().map(|(name, value)| (name.clone().into(), value.clone()));
                target.parameters.extend(added);
                // A connection for physical replication runs no SQL.
                target.connect_query = None;
            })
            .await;
        drop(under_way);
        let logged_in = match logged_in {
            Ok(logged_in) => logged_in,
            Err(failed) => {
                drop(permits);
                return Err(self.report_failure(&failed));
            }
        };
        let touched_at = Rc::new(Cell::new(worker::now()));
        let (mut server, server_parameters) = self.new_server(logged_in, generation, permits, touched_at);
        if let Some(info) = Rc::get_mut(&mut server.info) {
            // Its client keeps it.
            info.facts.retire_at = None;
            info.facts.replication = replication;
        }
        let took = Instant::now() - started;
        self.context.process.logins.count_success(took, worker::now());
        self.mark_if_outdated(&server);
        self.log_login(&server.info.facts, took);
        self.add_to_table(&server.info);
        server.info.client_id.set(client_id);
        server.info.activity.set(Activity::Active);
        let reports = server_parameters.reports.clone();
        Ok(DedicatedServer { lease: Lease::new(self, Box::new(server)), reports })
    }

    async fn wait_for_place(self: &Rc<Self>) -> Vec<Permit> {
        loop {
            if !self.database.paused.get() {
                let size = self.rules.current().pool_size;
                if let Ok(permits) = self.take_permits(size, Eviction::Allowed) {
                    return permits;
                }
                if self.shared.open.taken() >= size {
                    if self.close_oldest_idle(ServerCloseReason::EvictedForSize) {
                        continue;
                    }
                    self.run_on_others(|pool| {
                        pool.close_oldest_idle(ServerCloseReason::EvictedForSize);
                    });
                }
            }
            let _ = timers::timeout(MAX_PAUSE, self.changed.wait()).await;
        }
    }

    /// The failure may be due to what this client has requested: no other client receives it.
    fn report_failure(self: &Rc<Self>, failed: &Diagnosis) -> ClientError {
        let is_refused = matches!(failed.error, LoginError::Refused { .. });
        let reason = is_refused.then_some(HiddenReason::LoginFailed);
        match reason {
            Some(reason) => self.log_failed_login(failed, reason.text()),
            None => self.log_failed_login(failed, &failed.error.close_reason()),
        }
        self.changed.notify_all();
        self.shared_limits.retry_claims();
        self.connect_for_waiters();
        ClientError { hidden_reason: reason, ..failed.to_fault() }
    }
}
