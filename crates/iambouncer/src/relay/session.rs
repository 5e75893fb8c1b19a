//! A logged-in client. Owns what stays of it between two requests, and the turns of its task; what a request needs
//! meanwhile is lent to it as an [`Exchange`].

use super::exchange::Exchange;
use crate::client_error::ClientError;
use crate::clients::{ClientInfo, ClientState};
use crate::net::{Inbound, Stream};
use crate::parameters::ValueSet;
use crate::pool::Pool;
use crate::prepared::{ClientNames, Unnamed};
use crate::worker::timers;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;

/// How long a client that does not read may hold up its own last message.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How a session ended.
pub enum CloseReason {
    /// The client said goodbye or closed.
    ClientLeft,
    /// The client's connection failed.
    ClientLost(std::io::Error),
    /// We end it, telling the client why.
    Error(ClientError),
    /// The server has told the client why, in a FATAL of its own.
    ServerFatal,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientLeft => f.write_str("client close request"),
            Self::ClientLost(error) => error.fmt(f),
            Self::Error(error) => error.fmt(f),
            Self::ServerFatal => f.write_str("server ended the session"),
        }
    }
}

/// What a login leaves to its session.
pub struct Start {
    /// The client's connection.
    pub client: Stream,
    /// Bytes that came with the login.
    pub up: Inbound,
    /// The client's tracked parameters.
    pub parameters: ValueSet,
    /// They are a server's own values, so no server will refuse them.
    pub parameters_proven: bool,
}

/// What there is of a client whether or not anything is going on.
pub(super) struct ClientSession {
    pub(super) pool: Rc<Pool>,
    pub(super) info: Rc<ClientInfo>,
    pub(super) client: Stream,
    pub(super) names: ClientNames,
    /// Its unnamed statement.
    pub(super) unnamed: Unnamed,
    /// It has parsed a statement that has an [`Effect`](crate::prepared::Effect): its Executes are looked at.
    pub(super) has_effects: bool,
    /// One of its named statements exists on its server only.
    pub(super) has_private: bool,
    /// Tracked parameters as the client believes them to be.
    pub(super) parameters: ValueSet,
    /// The client's values were accepted by a server before.
    pub(super) parameters_proven: bool,
}

impl ClientSession {
    /// As [`ClientSession::is_pinned`], without looking closer.
    pub(super) fn may_be_pinned(&self) -> bool {
        self.has_private || self.unnamed.as_ref().is_some_and(|text| text.body().is_none())
    }

    /// True while a statement of the client exists on its server only, so that it has to keep that server.
    pub(super) fn is_pinned(&mut self) -> bool {
        if self.has_private {
            self.has_private = self.names.has_private();
        }
        self.may_be_pinned()
    }

    /// Records that it has no server.
    pub(super) fn unlink_notes(&self) {
        self.info.set_server(None);
        self.info.state.set(ClientState::Idle);
    }
}

/// A client and, while something is going on, its exchange with a server.
pub struct Session {
    session: ClientSession,
    /// `None` while the client is idle.
    exchange: Option<Box<Exchange>>,
}

impl Session {
    /// A session at its first request.
    pub fn new(pool: Rc<Pool>, info: Rc<ClientInfo>, start: Start) -> Self {
        let Start { client, up, parameters, parameters_proven } = start;
        info.state.set(ClientState::Idle);
        let exchange = (!up.is_empty()).then(|| {
            let mut exchange = pool.with_session_rules(Exchange::lend);
            exchange.up = up;
            exchange
        });
        let names = ClientNames::default();
        let session = ClientSession {
            pool,
            info,
            client,
            names,
            unnamed: None,
            has_effects: false,
            has_private: false,
            parameters,
            parameters_proven,
        };
        Self { session, exchange }
    }

    /// One turn of the task, until [`Session::shut_down`] is due. Never inlined: `make instructions` counts what happens
    /// in here.
    #[inline(never)]
    pub fn turn(&mut self, cx: &mut task::Context<'_>) -> Poll<CloseReason> {
        let mut exchange =
            self.exchange.take().unwrap_or_else(|| self.session.pool.with_session_rules(Exchange::lend));
        let outcome = exchange.turn(&mut self.session, cx);
        if exchange.is_over() {
            exchange.give_back();
        } else {
            self.exchange = Some(exchange);
        }
        outcome
    }

    /// The end of the session for its server, after the last turn. Comes back if there is a client to be told why.
    pub fn shut_down(mut self, reason: &CloseReason) -> Option<FinalMessage> {
        if let Some(exchange) = &mut self.exchange {
            exchange.shut_down(&self.session);
        }
        let CloseReason::Error(error) = reason else { return None };
        // A message cut off in the middle cannot be followed by another.
        let mut message = match &self.exchange {
            Some(exchange) => exchange.unsent()?,
            None => Vec::new(),
        };
        error.encode_fatal(&mut message);
        Some(FinalMessage { client: self.session.client, message })
    }
}

/// The last message of a client that is sent away.
pub struct FinalMessage {
    client: Stream,
    message: Vec<u8>,
}

impl FinalMessage {
    /// Sends it, if the client takes it in time.
    pub async fn send(mut self) {
        let _ = timers::timeout(FINAL_MESSAGE_TIMEOUT, self.client.send_all(&self.message)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every idle client costs, next to its socket and its record.
    #[test]
    fn a_session_is_small() {
        let size = std::mem::size_of::<Session>();
        assert!(size <= 80, "{size} bytes");
    }
}
