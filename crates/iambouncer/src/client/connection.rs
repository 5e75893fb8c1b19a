//! A client that is in the table, from its login's task to its session's. Owns its way out of the table, whatever way
//! its tasks end, and what is logged of the end.

use super::serve::ClientServices;
use crate::clients::ClientInfo;
use crate::files::PermittedUse;
use crate::limits::Permit;
use crate::pending_logins::PendingLogin;
use crate::relay::{CloseReason, Session};
use crate::worker::executor;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Takes a record out of the table, and a client off its database, when it is dropped.
pub(super) struct Connection {
    services: Rc<ClientServices>,
    info: Rc<ClientInfo>,
    /// Where it counts as a client.
    pub(super) places: ClientPermits,
}

/// What a connection takes up from the moment it is accepted.
pub struct ConnectionPermit {
    /// Among the clients of its worker.
    pub worker: Permit,
    /// Among all clients.
    pub process: Permit,
    /// Among those that have not logged in.
    pub pending: PendingLogin,
    /// Among the open files.
    pub permitted: PermittedUse,
}

/// ClientPermits in the limits, given back with the record.
pub(super) struct ClientPermits {
    _worker: Permit,
    _process: Permit,
    /// In `max_db_client_connections`.
    pub(super) database: Option<Permit>,
    /// In `max_user_client_connections`.
    pub(super) user: Option<Permit>,
    /// Among the clients that a gentle end waits for.
    pub(super) session: Option<Permit>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.services.clients.remove(&self.info);
        (self.places.database, self.places.user, self.places.session) = (None, None, None);
        self.services.directory.client_left.notify_all();
        self.services.directory.changed.notify_all();
    }
}

impl Connection {
    /// For a client that has just been added to the table.
    pub(super) fn new(
        services: Rc<ClientServices>,
        info: Rc<ClientInfo>,
        worker: Permit,
        process: Permit,
    ) -> Self {
        let places =
            ClientPermits { _worker: worker, _process: process, database: None, user: None, session: None };
        Self { services, info, places }
    }

    /// Goes on in a task of its own. The login's task, which is many times larger, ends meanwhile: ten thousand
    /// idle clients should not each keep the room of a handshake.
    pub(super) fn go_on<F: Future<Output = ()> + 'static>(self, next: impl FnOnce(Self) -> F) {
        let info = self.info.clone();
        info.task.set(executor::spawn(next(self)));
    }

    /// Goes on as a session.
    pub(super) fn serve(self, session: Session) {
        self.go_on(|connection| SessionTask(Some((session, connection))));
    }

    /// Logs why the client is gone, if that is wanted.
    pub(super) fn log_close(&self, reason: &CloseReason) {
        let config = self.services.context.config();
        let settings = &config.settings;
        let wanted = match reason {
            CloseReason::ClientLeft | CloseReason::ClientLost(_) => settings.log_disconnections,
            CloseReason::ServerFatal | CloseReason::Error(_) => settings.log_pooler_errors,
        };
        if wanted {
            let identity = self.info.identity();
            tracing::info!(
                client = %self.info.remote(),
                user = %identity.user,
                database = %identity.database,
                "closing because: {reason}"
            );
        }
    }
}

/// The task of a session, written by hand: an `async` block would keep the session's place twice.
struct SessionTask(Option<(Session, Connection)>);

impl Future for SessionTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some((session, _)) = &mut self.0 else { return Poll::Ready(()) };
        let reason = ready!(session.turn(cx));
        if let Some((session, connection)) = self.0.take() {
            match session.shut_down(&reason) {
                None => connection.log_close(&reason),
                Some(final_message) => connection.go_on(|connection| async move {
                    final_message.send().await;
                    connection.log_close(&reason);
                }),
            }
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    /// What an idle client costs next to its socket: its task, its place among the tasks, its record. Whoever needs
    /// more for something that only happens during a request puts it into the exchange.
    #[test]
    fn an_idle_client_is_small() {
        let sizes = [size_of::<SessionTask>(), executor::SLOT_BYTES, size_of::<ClientInfo>()];
        assert!(sizes.iter().sum::<usize>() <= 304, "{sizes:?} bytes");
    }
}
