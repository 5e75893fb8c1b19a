//! A client in the client table, from login to the end of its session. Owns its removal from the table, however its
//! tasks end, and the log line of the close.

use super::{log_lines, moving};
use crate::clients::ClientInfo;
use crate::files::PermittedUse;
use crate::limits::Permit;
use crate::pending_logins::PendingLogin;
use crate::relay::{CloseReason, Session};
use crate::worker::executor::{self, Priority};
use crate::worker_state::Worker;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// Removes the client from the table and releases its permits when dropped.
pub(super) struct Connection {
    worker: Rc<Worker>,
    info: Rc<ClientInfo>,
    /// The limits that count it.
    pub(super) places: ClientPermits,
}

/// The permits of a connection from the moment it is accepted.
pub struct ConnectionPermit {
    /// In the worker's client count.
    pub of_worker: Permit,
    /// In the process's client count.
    pub of_process: Permit,
    /// In the list of pending logins.
    pub pending: PendingLogin,
    /// In the limit of open files.
    pub permitted: PermittedUse,
}

/// Permits of a client, released when it leaves the table.
#[derive(Default)]
pub(super) struct ClientPermits {
    /// In the worker's client count.
    pub(super) of_worker: Option<Permit>,
    /// In the process's client count.
    pub(super) _of_process: Option<Permit>,
    /// In `max_db_client_connections`.
    pub(super) database: Option<Permit>,
    /// In `max_user_client_connections`.
    pub(super) user: Option<Permit>,
    /// In the sessions that a graceful shutdown waits for.
    pub(super) session: Option<Permit>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.worker.clients.remove(&self.info);
        (self.places.database, self.places.user, self.places.session) = (None, None, None);
        self.worker.directory.client_left.notify_all();
        self.worker.directory.changed.notify_all();
    }
}

impl Connection {
    /// Wraps a client that was just added to the table.
    pub(super) fn new(worker: Rc<Worker>, info: Rc<ClientInfo>, places: ClientPermits) -> Self {
        Self { worker, info, places }
    }

    /// Ends it without the end of the client, which moves to another worker with its places.
    pub(super) fn into_places(mut self) -> ClientPermits {
        std::mem::take(&mut self.places)
    }

    /// The worker.
    pub(super) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The client's record.
    pub(super) fn info(&self) -> &Rc<ClientInfo> {
        &self.info
    }

    /// Continues in a task of its own. The login's task, which is many times larger, is freed: ten thousand idle
    /// clients should not each hold the memory of a handshake.
    pub(super) fn continue_in<F: Future<Output = ()> + 'static>(self, next: impl FnOnce(Self) -> F) {
        let info = self.info.clone();
        info.task.set(executor::spawn(next(self)));
    }

    /// Continues as a session.
    pub(super) fn serve(self, mut session: Session) {
        session.continue_in_new_task();
        self.continue_in(|connection| SessionTask(Some((session, connection))));
    }

    /// Logs why the client's connection was closed, if configured, and counts the error that it has received.
    pub(super) fn log_close(&self, reason: &CloseReason) {
        if let CloseReason::Error(error) = reason {
            self.worker.context.process.client_counters.count_error(&error.code);
        }
        log_lines::session_end(&self.worker.context.config().settings, &self.info, reason);
    }
}

/// The task of a session. Written by hand, since an `async` block would store the session twice.
struct SessionTask(Option<(Session, Connection)>);

impl Future for SessionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some((session, connection)) = &mut self.0 else { return Poll::Ready(()) };
        let Poll::Ready(reason) = session.turn(cx) else {
            if connection.worker.context.moves.is_open()
                && let Some(to) = moving::destination(session, connection)
                && let Some((session, connection)) = self.0.take()
            {
                moving::begin(session, connection, to);
                return Poll::Ready(());
            }
            return Poll::Pending;
        };
        if let Some((session, connection)) = self.0.take() {
            if executor::is_crowded() && session.is_unlinked() {
                // Thousands of clients may disconnect at once. The requests of others come first.
                executor::spawn_with(Priority::Low, async move { end(session, connection, reason) });
            } else {
                end(session, connection, reason);
            }
        }
        Poll::Ready(())
    }
}

/// Ends a session after its last turn.
fn end(session: Session, connection: Connection, reason: CloseReason) {
    match session.shut_down(&reason) {
        None => connection.log_close(&reason),
        Some(final_message) => connection.continue_in(|connection| async move {
            final_message.send().await;
            connection.log_close(&reason);
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// Memory of an idle client besides its socket: its task, the task slot and its record. State that is needed only
    /// during a request belongs in the exchange.
    #[test]
    fn an_idle_client_is_small() {
        let sizes = [size_of::<SessionTask>(), executor::SLOT_BYTES, size_of::<ClientInfo>()];
        assert!(sizes.iter().sum::<usize>() <= 304, "{sizes:?} bytes");
    }
}
