//! Logins that end early: evicted to make room, or the process shuts down. Owns how a login detects that and the
//! error its client receives.

use crate::client_error::{self, ClientError};
use crate::clients::ClientInfo;
use crate::pending_logins::{PendingHandle, PendingLogin};
use crate::stats::client_counters::ClientLoginResult;
use crate::worker_state::Worker;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

/// What interrupts one login.
pub(super) struct Interrupt {
    worker: Rc<Worker>,
    info: Rc<ClientInfo>,
    pending: PendingHandle,
}

impl Interrupt {
    pub(super) fn new(worker: Rc<Worker>, info: Rc<ClientInfo>, pending: &PendingLogin) -> Self {
        Self { worker, info, pending: pending.place() }
    }

    fn is_evicted(&self) -> bool {
        self.pending.is_evicted()
    }

    /// The result of a login that ends now, by itself with `otherwise`.
    pub(super) fn result_or(&self, otherwise: ClientLoginResult) -> ClientLoginResult {
        if self.is_evicted() { ClientLoginResult::Evicted } else { otherwise }
    }

    fn error(&self) -> Option<ClientError> {
        if self.is_evicted() {
            return Some(client_error::evicted(self.worker.context.config().settings.max_client_conn));
        }
        self.info.take_kill()
    }

    /// Runs a part of the login until it completes or the login is interrupted.
    pub(super) async fn or<T>(&self, mut part: Pin<&mut impl Future<Output = T>>) -> Result<T, ClientError> {
        poll_fn(|cx| match self.error() {
            Some(error) => Poll::Ready(Err(error)),
            None => part.as_mut().poll(cx).map(Ok),
        })
        .await
    }
}
