//! Admission of a client that has authenticated: client limits, and whether its database exists and is enabled. Owns
//! the order of the checks; never reveals anything about databases before authentication.

use super::authenticate::LoginRefusal;
use super::connection::Connection;
use super::startup::SessionRequest;
use crate::admin::DATABASE;
use crate::client_error;
use crate::clients::ClientState;
use crate::config::{Config, Settings};
use crate::files::PermittedUse;
use crate::lifecycle::Phase;
use crate::limits::{Counter, CounterKind, Permit};
use crate::net::Endpoint;
use crate::pending_logins::{EvictedLogin, PendingLogin};
use crate::pool::DatabaseState;
use crate::worker_state::Worker;
use std::rc::Rc;

/// Checks made before the client has authenticated.
pub(super) fn check_before_proof(
    worker: &Worker,
    settings: &Settings,
    permitted: PermittedUse,
    remote: &Endpoint,
) -> Result<(), LoginRefusal> {
    if permitted.is_scarce() {
        return Err(LoginRefusal::Error(client_error::too_many_files()));
    }
    if permitted == PermittedUse::CancelRequest || !is_accepted(worker.lifecycle.phase(), remote) {
        return Err(LoginRefusal::Error(client_error::no_new_work()));
    }
    if worker.context.process.limits.sessions.taken() >= settings.max_client_conn {
        return Err(LoginRefusal::Error(client_error::too_many_clients(settings.max_client_conn)));
    }
    Ok(())
}

/// True if the process still takes a client. While it waits for its clients, those have a place whose TCP connection was
/// established before the listeners closed: for them the pooler was there. The UNIX socket stays open for the console.
fn is_accepted(phase: Phase, remote: &Endpoint) -> bool {
    match phase {
        Phase::Running | Phase::DrainAnnounced(_) => true,
        Phase::WaitForClients | Phase::Draining(_) => matches!(remote, Endpoint::Tcp(_)),
        Phase::WaitForServers | Phase::Now => false,
    }
}

/// Admits an authenticated client and takes its permits.
pub(super) fn enter(
    worker: &Worker,
    settings: &Settings,
    request: &SessionRequest,
    connection: &mut Connection,
    pending: &mut Option<PendingLogin>,
) -> Result<Rc<DatabaseState>, LoginRefusal> {
    let unknown = || LoginRefusal::Error(client_error::unknown_database(&request.database));
    if !worker.directory.covers(&request.database) {
        return Err(unknown());
    }
    let database = worker.directory.database(&request.database).ok_or_else(unknown)?;
    if database.gone.get() {
        return Err(unknown());
    }
    if database.disabled.get() {
        return Err(LoginRefusal::Error(client_error::database_disabled(&request.database)));
    }
    take_places(worker, settings, &database, &request.user, connection)?;
    *pending = None;
    make_room(worker, settings.max_client_conn);
    Ok(database)
}

/// Counts a client of the console. As in PgBouncer, the limits of databases and users apply, but not to `admin_users`.
///
/// # Errors
/// A limit is reached.
pub(super) fn enter_console(
    worker: &Worker,
    user: &str,
    is_admin: bool,
    connection: &mut Connection,
) -> Result<(), LoginRefusal> {
    let config = worker.context.config();
    let database = worker.context.process.limits.counter(CounterKind::DatabaseClients, DATABASE);
    let exempt = |limit: u32| if is_admin { 0 } else { limit };
    let of_database = exempt(config.settings.max_db_client_connections);
    let of_user = exempt(user_limit(&config, user));
    connection.places.database = Some(take_of_database(&database, of_database)?);
    connection.places.user = Some(take_of_user(worker, user, of_user)?);
    Ok(())
}

fn take_places(
    worker: &Worker,
    settings: &Settings,
    database: &Rc<DatabaseState>,
    user: &str,
    connection: &mut Connection,
) -> Result<(), LoginRefusal> {
    let limit =
        database.line.borrow().max_db_client_connections.unwrap_or(settings.max_db_client_connections);
    let of_database = take_of_database(&database.clients, limit)?;
    let of_user = take_of_user(worker, user, user_limit(&worker.context.config(), user))?;
    let limit = settings.max_client_conn;
    let session = worker.context.process.limits.sessions.take(Some(limit));
    let session = session.ok_or_else(|| LoginRefusal::Error(client_error::too_many_clients(limit)))?;
    connection.places.session = Some(session);
    connection.places.user = Some(of_user);
    connection.places.database = Some(of_database);
    Ok(())
}

/// `max_user_client_connections` of a user.
fn user_limit(config: &Config, user: &str) -> u32 {
    let of_this_user = config.users.get(user).and_then(|user| user.max_user_client_connections);
    of_this_user.unwrap_or(config.settings.max_user_client_connections)
}

/// A place among the clients of a database; 0 stands for no limit.
fn take_of_database(clients: &Counter, limit: u32) -> Result<Permit, LoginRefusal> {
    let place = clients.take((limit > 0).then_some(limit));
    place.ok_or_else(|| LoginRefusal::Error(client_error::too_many_clients_of_database(limit)))
}

/// A place among the clients of a user; 0 stands for no limit.
fn take_of_user(worker: &Worker, user: &str, limit: u32) -> Result<Permit, LoginRefusal> {
    let clients = worker.context.process.limits.counter(CounterKind::UserClients, user);
    let place = clients.take((limit > 0).then_some(limit));
    place.ok_or_else(|| LoginRefusal::Error(client_error::too_many_clients_of_user(limit)))
}

/// Clients that have not logged in are evicted to make room for those that have.
fn make_room(worker: &Worker, max_client_conn: u32) {
    let taken =
        worker.context.process.limits.sessions.taken() as usize + worker.context.process.pending_logins.len();
    if taken > max_client_conn as usize
        && let Some(evicted) = worker.context.process.pending_logins.evict_oldest()
    {
        close_evicted(worker, evicted);
    }
}

/// Closes a connection that was evicted.
pub fn close_evicted(worker: &Worker, evicted: EvictedLogin) {
    let job = move |worker: &Rc<Worker>| {
        // A client not yet in the table checks for eviction itself.
        if let Some(client) = worker.clients.at(evicted.slot).filter(|c| c.state.get() == ClientState::Login)
        {
            client.wake();
        }
    };
    let _ = worker.workers.run_on(evicted.worker, job);
}
