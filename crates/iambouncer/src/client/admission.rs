//! Who may come in besides having proven who they are: limits of clients, databases that exist and are enabled. Owns the
//! order: nothing about databases is said to anybody who has proven nothing.

use super::authenticate::LoginRefusal;
use super::connection::Connection;
use super::serve::ClientServices;
use super::startup::SessionRequest;
use crate::client_error;
use crate::clients::ClientState;
use crate::config::Settings;
use crate::files::PermittedUse;
use crate::limits::CounterKind;
use crate::pending_logins::{EvictedLogin, PendingLogin};
use crate::pool::DatabaseState;
use crate::worker::home;
use std::rc::Rc;

/// What is said before the client has proven anything.
pub(super) fn check_before_proof(
    services: &ClientServices,
    settings: &Settings,
    permitted: PermittedUse,
) -> Result<(), LoginRefusal> {
    if permitted != PermittedUse::Any {
        return Err(LoginRefusal::Error(client_error::too_many_files()));
    }
    if services.closing.get() {
        return Err(LoginRefusal::Error(client_error::shutting_down()));
    }
    if services.context.process.limits.sessions.taken() >= settings.max_client_conn {
        return Err(LoginRefusal::Error(client_error::too_many_clients(
            "max_client_conn",
            settings.max_client_conn,
        )));
    }
    Ok(())
}

/// Lets a client in that has proven who it is: it takes its places in the limits.
pub(super) fn enter(
    services: &ClientServices,
    settings: &Settings,
    wanted: &SessionRequest,
    connection: &mut Connection,
    pending: &mut Option<PendingLogin>,
) -> Result<Rc<DatabaseState>, LoginRefusal> {
    let unknown = || LoginRefusal::Error(client_error::unknown_database(&wanted.database));
    if !services.directory.covers(&wanted.database) {
        return Err(unknown());
    }
    let database = services.directory.database(&wanted.database).ok_or_else(unknown)?;
    if database.gone.get() {
        return Err(unknown());
    }
    if database.disabled.get() {
        return Err(LoginRefusal::Error(client_error::database_disabled(&wanted.database)));
    }
    take_places(services, settings, &database, &wanted.user, connection)?;
    *pending = None;
    make_room(services, settings.max_client_conn);
    Ok(database)
}

fn take_places(
    services: &ClientServices,
    settings: &Settings,
    database: &Rc<DatabaseState>,
    user: &str,
    connection: &mut Connection,
) -> Result<(), LoginRefusal> {
    let limits = &services.context.process.limits;
    let full =
        |setting: &str, limit: u32| LoginRefusal::Error(client_error::too_many_clients(setting, limit));
    let places = |limit: u32| (limit > 0).then_some(limit);
    let limit =
        database.line.borrow().max_db_client_connections.unwrap_or(settings.max_db_client_connections);
    let of_database =
        database.clients.take(places(limit)).ok_or_else(|| full("max_db_client_connections", limit))?;
    let config = services.context.config();
    let of_this_user = config.users.get(user).and_then(|user| user.max_user_client_connections);
    let limit = of_this_user.unwrap_or(settings.max_user_client_connections);
    let of_user = limits.counter(CounterKind::UserClients, user);
    let of_user = of_user.take(places(limit)).ok_or_else(|| full("max_user_client_connections", limit))?;
    let limit = settings.max_client_conn;
    let session = limits.sessions.take(Some(limit)).ok_or_else(|| full("max_client_conn", limit))?;
    connection.places.session = Some(session);
    connection.places.user = Some(of_user);
    connection.places.database = Some(of_database);
    Ok(())
}

/// Whoever has proven nothing makes room for those who have.
fn make_room(services: &ClientServices, max_client_conn: u32) {
    let taken = services.context.process.limits.sessions.taken() as usize
        + services.context.process.pending_logins.len();
    if taken > max_client_conn as usize
        && let Some(evicted) = services.context.process.pending_logins.evict_oldest()
    {
        close_evicted(services, evicted);
    }
}

/// Has a connection closed that has to make room.
pub fn close_evicted(services: &ClientServices, evicted: EvictedLogin) {
    let errand = move || {
        let Some(services) = home::get::<ClientServices>() else { return };
        // One that is not in the table yet sees for itself that it has to go.
        if let Some(client) =
            services.clients.at(evicted.slot).filter(|c| c.state.get() == ClientState::Login)
        {
            client.wake();
        }
    };
    drop(services.context.workers.run_on(evicted.worker, Box::new(errand)));
}
