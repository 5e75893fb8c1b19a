//! Logins that have to end before they have come to anything: their place is wanted, or the process ends. Owns how a login
//! hears of that, and what its client is told.

use super::serve::Door;
use crate::clients::ClientInfo;
use crate::faults::{self, Fault};
use crate::pending_logins::{PendingLogin, Place};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// What one login looks at.
pub(super) struct Interrupt {
    door: Rc<Door>,
    info: Rc<ClientInfo>,
    place: Option<Place>,
}

impl Interrupt {
    pub(super) fn new(door: Rc<Door>, info: Rc<ClientInfo>, pending: &PendingLogin) -> Self {
        Self { door, info, place: Some(pending.place()) }
    }

    /// The same for a client that has logged in: nobody takes its place.
    pub(super) fn of_admitted(self) -> Self {
        Self { place: None, ..self }
    }

    fn fault(&self) -> Option<Fault> {
        if self.place.as_ref().is_some_and(Place::is_evicted) {
            return Some(faults::evicted(self.door.context.config().settings.max_client_conn));
        }
        self.info.take_kill()
    }

    /// Goes on with a part of the login until that is done or the login has to end.
    pub(super) async fn or<T>(&self, mut part: Pin<&mut impl Future<Output = T>>) -> Result<T, Fault> {
        poll_fn(|cx| match self.fault() {
            Some(fault) => Poll::Ready(Err(fault)),
            None => part.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}
