//! Who may come in besides having proven who they are: limits of clients, databases that exist and are enabled. Owns the
//! order: nothing about databases is said to anybody who has proven nothing.

use super::authenticate::Denied;
use super::registered::Registered;
use super::serve::Door;
use super::startup::Wanted;
use crate::clients::ClientState;
use crate::config::Settings;
use crate::faults;
use crate::files::PermittedUse;
use crate::pending_logins::{Evicted, PendingLogin};
use crate::pool::DatabaseState;
use crate::pool::shared::Counted;
use crate::worker::home;
use std::rc::Rc;

/// What is said before the client has proven anything.
pub(super) fn check_before_proof(
    door: &Door,
    settings: &Settings,
    permitted: PermittedUse,
) -> Result<(), Denied> {
    if permitted != PermittedUse::Any {
        return Err(Denied::Fault(faults::too_many_files()));
    }
    if door.closing.get() {
        return Err(Denied::Fault(faults::shutting_down()));
    }
    if door.context.registry.sessions.taken() >= settings.max_client_conn {
        return Err(Denied::Fault(faults::too_many_clients("max_client_conn", settings.max_client_conn)));
    }
    Ok(())
}

/// Lets a client in that has proven who it is: it takes its places in the limits.
pub(super) fn enter(
    door: &Door,
    settings: &Settings,
    wanted: &Wanted,
    registered: &mut Registered,
    pending: &mut Option<PendingLogin>,
) -> Result<Rc<DatabaseState>, Denied> {
    let unknown = || Denied::Fault(faults::unknown_database(&wanted.database));
    if !door.directory.covers(&wanted.database) {
        return Err(unknown());
    }
    let database = door.directory.database(&wanted.database).ok_or_else(unknown)?;
    if database.gone.get() {
        return Err(unknown());
    }
    if database.disabled.get() {
        return Err(Denied::Fault(faults::database_disabled(&wanted.database)));
    }
    take_places(door, settings, &database, &wanted.user, registered)?;
    *pending = None;
    make_room(door, settings.max_client_conn);
    Ok(database)
}

fn take_places(
    door: &Door,
    settings: &Settings,
    database: &Rc<DatabaseState>,
    user: &str,
    registered: &mut Registered,
) -> Result<(), Denied> {
    let registry = &door.context.registry;
    let full = |setting: &str, limit: u32| Denied::Fault(faults::too_many_clients(setting, limit));
    let places = |limit: u32| (limit > 0).then_some(limit);
    let limit =
        database.line.borrow().max_db_client_connections.unwrap_or(settings.max_db_client_connections);
    let of_database =
        database.clients.take(places(limit)).ok_or_else(|| full("max_db_client_connections", limit))?;
    let config = door.context.config();
    let of_this_user = config.users.get(user).and_then(|user| user.max_user_client_connections);
    let limit = of_this_user.unwrap_or(settings.max_user_client_connections);
    let of_user = registry.counter(Counted::UserClients, user);
    let of_user = of_user.take(places(limit)).ok_or_else(|| full("max_user_client_connections", limit))?;
    let limit = settings.max_client_conn;
    let session = registry.sessions.take(Some(limit)).ok_or_else(|| full("max_client_conn", limit))?;
    registered.places.session = Some(session);
    registered.places.user = Some(of_user);
    registered.places.database = Some(of_database);
    Ok(())
}

/// Whoever has proven nothing makes room for those who have.
fn make_room(door: &Door, max_client_conn: u32) {
    let taken = door.context.registry.sessions.taken() as usize + door.context.pending_logins.len();
    if taken > max_client_conn as usize
        && let Some(evicted) = door.context.pending_logins.evict_oldest()
    {
        close_evicted(door, evicted);
    }
}

/// Has a connection closed that has to make room.
pub fn close_evicted(door: &Door, evicted: Evicted) {
    let errand = move || {
        let Some(door) = home::get::<Door>() else { return };
        // One that is not in the table yet sees for itself that it has to go.
        if let Some(client) = door.clients.at(evicted.slot).filter(|c| c.state.get() == ClientState::Login) {
            client.wake();
        }
    };
    drop(door.context.team.tell(evicted.worker, Box::new(errand)));
}
