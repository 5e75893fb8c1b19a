//! A logged-in client. Owns the state that persists between requests, and the turns of its task; the state of a request
//! under way is in an [`Exchange`].

use super::exchange::Exchange;
use crate::client_error::ClientError;
use crate::clients::{ClientInfo, ClientState};
use crate::net::{Inbound, Stream};
use crate::parameters::ValueSet;
use crate::pool::{Lease, Pool};
use crate::prepared::{ClientNames, Unnamed};
use crate::server::{Activity, Server};
use crate::worker::timers;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;

/// How long a client that does not read may delay its own final message.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a session ended.
pub enum CloseReason {
    /// The client sent Terminate.
    ClientLeft,
    /// The client closed its connection.
    ClientEof,
    /// The client's connection failed.
    ClientLost(std::io::Error),
    /// The pooler ends the session and reports why.
    Error(ClientError),
    /// The server has reported the reason in a FATAL error.
    ServerFatal,
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ClientLeft => f.write_str("client close request"),
            Self::ClientEof => f.write_str("client unexpected eof"),
            Self::ClientLost(error) => error.fmt(f),
            Self::Error(error) => f.write_str(&error.message),
            Self::ServerFatal => f.write_str("server conn crashed?"),
        }
    }
}

/// What the login passes to the session.
pub struct Start {
    /// The client's connection.
    pub client: Stream,
    /// Bytes received after the login messages.
    pub up: Inbound,
    /// The client's tracked parameters.
    pub parameters: ValueSet,
    /// True if they are a server's own values, which no server refuses.
    pub parameters_proven: bool,
    /// The server that the client has got in its login, with these values.
    pub server: Option<Lease>,
}

/// The state of a client that persists while it is idle.
pub(super) struct ClientSession {
    pub(super) pool: Rc<Pool>,
    pub(super) info: Rc<ClientInfo>,
    pub(super) client: Stream,
    pub(super) names: ClientNames,
    /// Its unnamed statement.
    pub(super) unnamed: Unnamed,
    /// The client has parsed a statement with an [`Effect`](crate::prepared::Effect), so its Executes are examined.
    pub(super) has_effects: bool,
    /// One of its named statements exists only on its server.
    pub(super) has_private: bool,
    /// Tracked parameters, as the client last set or saw them.
    pub(super) parameters: ValueSet,
    /// Their values at the login, to which DISCARD ALL returns.
    pub(super) login_parameters: ValueSet,
    /// A server has accepted the client's values before.
    pub(super) parameters_proven: bool,
}

impl ClientSession {
    /// As [`ClientSession::is_pinned`], without checking whether private statements are left.
    pub(super) fn may_be_pinned(&self) -> bool {
        self.has_private
            || self.keeps_state()
            || self.unnamed.as_ref().is_some_and(|text| text.body().is_none())
    }

    /// True while a statement of the client exists only on its server, so that the client has to keep that server.
    pub(super) fn is_pinned(&mut self) -> bool {
        if self.has_private {
            self.has_private = self.names.has_private();
        }
        self.may_be_pinned()
    }

    /// Counts what is under way on the server when the session ends.
    pub(super) fn count_aborted(&self) {
        let timing = self.info.timing.get();
        self.pool.stats.count(|t| {
            t.aborted_transactions += u64::from(timing.transaction_at.is_some());
            t.aborted_queries += u64::from(timing.query_at.is_some());
        });
    }

    /// Counts how a wait for a server ends that did not end with one.
    fn count_ended_wait(&self, reason: &CloseReason) {
        match reason {
            CloseReason::ClientLeft | CloseReason::ClientEof | CloseReason::ClientLost(_)
                if self.info.state.get() == ClientState::Waiting =>
            {
                self.pool.stats.count(|t| t.abandoned_waits += 1);
            }
            CloseReason::Error(error) if error.is_wait_timeout() => {
                self.pool.stats.count(|t| t.wait_timeouts += 1);
            }
            _ => {}
        }
    }

    /// Records that the client has this server.
    pub(super) fn record_linked(&self, server: &Server) {
        server.info.client_id.set(self.info.id);
        if self.keeps_state() {
            server.info.is_kept.set(true);
        }
        server.info.activity.set(Activity::Active);
        self.info.set_server(Some(server.info.clone()));
        self.info.begin_busy(ClientState::Active);
    }

    /// Records which settings the client has.
    #[cold]
    #[inline(never)]
    pub(super) fn record_settings(&self) {
        self.info.settings_fingerprint.set(self.parameters.fingerprint());
    }

    /// Records that the client has no server.
    pub(super) fn record_unlinked(&self) {
        self.info.set_server(None);
        self.info.state.set(ClientState::Idle);
    }
}

/// A client and, while it is active, its exchange with a server.
pub struct Session {
    pub(super) session: ClientSession,
    /// `None` while the client is idle.
    pub(super) exchange: Option<Box<Exchange>>,
}

impl Session {
    /// Creates a session that has not sent a request yet.
    pub fn new(pool: Rc<Pool>, info: Rc<ClientInfo>, start: Start) -> Self {
        let Start { client, up, parameters, parameters_proven, server } = start;
        let names = ClientNames::default();
        let session = ClientSession {
            pool,
            info,
            client,
            names,
            unnamed: None,
            has_effects: false,
            has_private: false,
            login_parameters: parameters.clone(),
            parameters,
            parameters_proven,
        };
        if session.pool.with_session_rules(|rules| rules.follows) {
            session.pin_for_parameters();
        }
        let mut begun = Self::begin(session, up);
        if let Some(lease) = server {
            begun.link(lease);
        }
        begun
    }

    /// Links the client to a server before its first request.
    #[cold]
    #[inline(never)]
    fn link(&mut self, lease: Lease) {
        let session = &self.session;
        let free = || session.pool.with_session_rules(Exchange::allocate);
        self.exchange.get_or_insert_with(free).attach(session, lease);
    }

    /// Begins at this worker, with bytes of requests that were received before.
    pub(super) fn begin(session: ClientSession, received: Inbound) -> Self {
        session.info.state.set(ClientState::Idle);
        session.record_settings();
        let exchange = (!received.is_empty()).then(|| {
            let mut exchange = session.pool.with_session_rules(Exchange::allocate);
            exchange.up.set_received(received);
            exchange
        });
        Self { session, exchange }
    }

    /// Continues in another task than before. A client that keeps its server keeps its exchange, and that must not rely
    /// on the client's socket waking a task that no longer exists.
    pub fn continue_in_new_task(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            exchange.awaits_client_input = false;
        }
    }

    /// One turn of the task, until [`Session::shut_down`] is due. Never inlined: `make instructions` counts the
    /// instructions executed here.
    #[inline(never)]
    pub fn turn(&mut self, cx: &mut task::Context<'_>) -> Poll<CloseReason> {
        let mut exchange =
            self.exchange.take().unwrap_or_else(|| self.session.pool.with_session_rules(Exchange::allocate));
        let outcome = exchange.turn(&mut self.session, cx);
        if exchange.is_finished() {
            exchange.recycle();
        } else {
            self.exchange = Some(exchange);
        }
        outcome
    }

    /// True while it has no server and waits for none.
    pub fn is_unlinked(&self) -> bool {
        self.exchange.as_ref().is_none_or(|exchange| exchange.is_unlinked())
    }

    /// Releases the server after the last turn. Returns the final message if the client is to receive one.
    pub fn shut_down(mut self, reason: &CloseReason) -> Option<FinalMessage> {
        self.session.count_ended_wait(reason);
        if let Some(exchange) = &mut self.exchange {
            #[cfg(feature = "otlp")]
            exchange.trace_ended_wait(&self.session, super::traced::code_of(reason));
            exchange.shut_down(&self.session);
        }
        let CloseReason::Error(error) = reason else { return None };
        // No message can follow one that is incomplete.
        let mut message = match &self.exchange {
            Some(exchange) => exchange.down.unsent()?,
            None => Vec::new(),
        };
        error.encode_fatal(&mut message);
        Some(FinalMessage { client: self.session.client, message })
    }
}

/// The last message to a client whose session the pooler ends.
pub struct FinalMessage {
    client: Stream,
    message: Vec<u8>,
}

impl FinalMessage {
    /// Sends it, unless the client takes too long to read it.
    pub async fn send(mut self) {
        let _ = timers::timeout(FINAL_MESSAGE_TIMEOUT, self.client.send_all(&self.message)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cost of every idle client, besides its socket and its record.
    #[test]
    fn a_session_is_small() {
        let size = std::mem::size_of::<Session>();
        assert!(size <= 80, "{size} bytes");
    }
}
