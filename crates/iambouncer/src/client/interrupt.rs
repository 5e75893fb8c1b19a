//! Logins that have to end before they have come to anything: their place is wanted, or the process ends. Owns how a login
//! hears of that, and what its client is told.

use super::serve::ClientServices;
use crate::client_error::{self, ClientError};
use crate::clients::ClientInfo;
use crate::pending_logins::{PendingHandle, PendingLogin};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// What one login looks at.
pub(super) struct Interrupt {
    services: Rc<ClientServices>,
    info: Rc<ClientInfo>,
    place: Option<PendingHandle>,
}

impl Interrupt {
    pub(super) fn new(services: Rc<ClientServices>, info: Rc<ClientInfo>, pending: &PendingLogin) -> Self {
        Self { services, info, place: Some(pending.place()) }
    }

    /// The same for a client that has logged in: nobody takes its place.
    pub(super) fn of_admitted(self) -> Self {
        Self { place: None, ..self }
    }

    fn error(&self) -> Option<ClientError> {
        if self.place.as_ref().is_some_and(PendingHandle::is_evicted) {
            return Some(client_error::evicted(self.services.context.config().settings.max_client_conn));
        }
        self.info.take_kill()
    }

    /// Goes on with a part of the login until that is done or the login has to end.
    pub(super) async fn or<T>(&self, mut part: Pin<&mut impl Future<Output = T>>) -> Result<T, ClientError> {
        poll_fn(|cx| match self.error() {
            Some(error) => Poll::Ready(Err(error)),
            None => part.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}
