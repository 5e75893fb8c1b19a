//! Moving clients between workers, each between two of its transactions. Owns the steps of a move; which clients move is
//! decided by [`crate::placement`].

use super::connection::{ClientPermits, Connection};
use crate::client_error::{self, ClientError};
use crate::clients::ClientInTransit;
use crate::lifecycle::Phase;
use crate::placement::MoveTicket;
use crate::relay::{CloseReason, Session, SessionInTransit};
use crate::worker::{self, timers};
use crate::worker_state::Worker;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a client may take to read its last answer before it moves; otherwise it stays.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(100);

/// A client that belongs to no worker. Its connection is closed if it is dropped.
struct MovingClient {
    record: ClientInTransit,
    session: SessionInTransit,
    places: ClientPermits,
    /// Names of its pool.
    database: String,
    user: String,
    /// Why it is to be closed, if that was decided during the move.
    kill: Option<ClientError>,
    ticket: MoveTicket,
}

/// The worker to which a client moves that has ended a request in this turn. One that has sent none since its login, or
/// since its last move, is no load.
#[cold]
pub(super) fn destination(session: &Session, connection: &Connection) -> Option<usize> {
    let (worker, info) = (connection.worker(), connection.info());
    let (placement, now) = (&worker.context.process.placement, worker::now());
    let has_ended_request = info.timing.get().quiet_since == now;
    if !has_ended_request || worker.lifecycle.phase() != Phase::Running || !session.can_move() {
        return None;
    }
    let to = worker.context.moves.destination(info.id, now, || placement.for_moved(now))?;
    (to != worker.context.worker.index()).then_some(to)
}

/// Moves a client in a task of its own.
pub(super) fn begin(session: Session, connection: Connection, to: usize) {
    connection.continue_in(move |connection| run(session, connection, to));
}

async fn run(mut session: Session, connection: Connection, to: usize) {
    let worker = connection.worker().clone();
    let Some(_under_way) = worker.context.moves.begin_one() else { return connection.serve(session) };
    let settled = timers::timeout(SETTLE_TIMEOUT, poll_fn(|cx| session.client().poll_settled(cx))).await;
    // What has failed is found, and logged, by the next turn.
    if !matches!(settled, Some(Ok(()))) {
        return connection.serve(session);
    }
    let Some(ticket) = worker.context.process.placement.begin_move(to) else {
        return connection.serve(session);
    };
    let session = match session.detach().await {
        Ok(session) => session,
        Err((session, error)) => {
            tracing::debug!(%error, "could not move a client to another worker");
            return connection.serve(*session);
        }
    };
    let Some(pool) = connection.info().pool.get().cloned() else { return };
    if !session.keeps_server() {
        pool.client_moved(to);
    }
    let kill = connection.info().take_kill();
    let moving = MovingClient {
        record: connection.info().pack(),
        session,
        places: connection.into_places(),
        database: pool.database.name.to_string(),
        user: pool.user.to_string(),
        kill,
        ticket,
    };
    send(&worker, moving, to);
}

/// Passes a client to a worker; if that has no room in its queue, the client stays here.
fn send(worker: &Rc<Worker>, moving: MovingClient, to: usize) {
    let shared = Arc::new(Mutex::new(Some(moving)));
    let taken =
        |shared: &Mutex<Option<MovingClient>>| shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    let passed = shared.clone();
    let receive = move |worker: &Rc<Worker>| {
        if let Some(moving) = taken(&passed) {
            arrive(worker, moving);
        }
    };
    if worker.workers.run_on(to, receive).is_err()
        && let Some(moving) = taken(&shared)
    {
        arrive(worker, moving);
    }
}

/// Continues the session of a client at this worker.
fn arrive(worker: &Rc<Worker>, moving: MovingClient) {
    let MovingClient { record, session, mut places, database, user, kill, ticket } = moving;
    let identity = worker.context.client_identities.share(record.identity.clone());
    let Some(info) = worker.clients.adopt(record, identity) else {
        tracing::warn!("closing a client that was moved to a worker without room");
        return;
    };
    places.of_worker = Some(ticket.arrive());
    let connection = Connection::new(worker.clone(), info.clone(), places);
    let Some(known) = worker.directory.database(&database) else {
        return connection.log_close(&CloseReason::Error(client_error::database_removed()));
    };
    let pool = worker.directory.pool(&known, &user);
    // Cannot fail: the record is new.
    let _ = info.pool.set(pool.clone());
    match session.attach(pool, info.clone()) {
        Ok(session) => connection.serve(session),
        Err(error) => return connection.log_close(&CloseReason::ClientLost(error)),
    }
    let kill = if known.gone.get() {
        Some(client_error::database_removed())
    } else if worker.lifecycle.phase() == Phase::Now {
        Some(client_error::shutting_down())
    } else {
        kill
    };
    if let Some(error) = kill {
        info.kill(error);
    }
}
