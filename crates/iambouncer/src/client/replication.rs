//! Replication connections: the client gets a server of its own, with its own startup parameters, and all bytes are
//! passed on unchanged. Owns the wait for that server and the exchange; of the messages it knows only where they end.

use super::authenticate::LoginRefusal;
use super::connection::Connection;
use super::login_wait::gone_or_killed;
use super::message_boundary::MessageBoundary;
use super::serve::send_last;
use crate::client_identity::Replication;
use crate::clients::{ClientInfo, ClientState};
use crate::context::Context;
use crate::net::{Inbound, Stream};
use crate::parameters::ParameterId;
use crate::pool::{DedicatedServer, Pool, UnfinishedWork};
use crate::relay::CloseReason;
use crate::worker::{self, either, executor};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{self, Poll, ready};
use wire::encode;

/// Rounds of reading and sending in both directions before other tasks get their turn.
const MAX_ROUNDS_PER_TURN: usize = 4;

/// What the client has requested.
pub(super) struct ReplicationRequest {
    pub(super) replication: Replication,
    /// `options`, passed on as they are.
    pub(super) options: Option<String>,
    /// Tracked parameters: they cannot be set afterwards.
    pub(super) tracked: Vec<(ParameterId, String)>,
}

impl ReplicationRequest {
    /// As startup parameters of the server.
    fn parameters(self, context: &Context) -> Vec<(String, String)> {
        let tracked = self.tracked.into_iter();
        let mut all: Vec<_> =
            tracked.map(|(id, value)| (context.parameters.name(id).to_owned(), value)).collect();
        all.push(("replication".to_owned(), self.replication.startup_value().to_owned()));
        all.extend(self.options.map(|options| ("options".to_owned(), options)));
        all
    }
}

/// Opens the server.
///
/// # Errors
/// The login fails; the client disconnects, is killed, or has waited for `query_wait_timeout`.
pub(super) async fn open(
    context: &Context,
    pool: &Rc<Pool>,
    client: &Rc<ClientInfo>,
    stream: &mut Stream,
    inbound: &mut Inbound,
    request: ReplicationRequest,
) -> Result<DedicatedServer, LoginRefusal> {
    client.begin_wait(worker::now());
    let mut opened = None;
    let opening = async {
        let replication = request.replication;
        opened = Some(pool.open_dedicated(client.id, replication, request.parameters(context)).await);
    };
    let refused = either(gone_or_killed(client, stream, inbound), opening).await;
    client.time(|timing| timing.query_at = None);
    client.state.set(ClientState::Login);
    match &refused {
        Some(LoginRefusal::Gone) => pool.stats.count(|t| t.abandoned_waits += 1),
        Some(LoginRefusal::Error(error)) if error.is_wait_timeout() => {
            pool.stats.count(|t| t.wait_timeouts += 1);
        }
        _ => {}
    }
    match (refused, opened) {
        (None, Some(opened)) => opened.map_err(LoginRefusal::Error),
        (refused, _) => Err(refused.unwrap_or(LoginRefusal::Gone)),
    }
}

/// The startup response: what the server has reported, and the client's own cancel key.
pub(super) fn startup_response(client: &Rc<ClientInfo>, server: &DedicatedServer) -> Vec<u8> {
    let mut message = Vec::new();
    encode::authentication_ok(&mut message);
    for (name, value) in &*server.reports {
        encode::parameter_status(&mut message, name, value);
    }
    let key = client.cancel_key.get();
    encode::backend_key_data(&mut message, key.pid(), key.secret());
    encode::ready_for_query(&mut message);
    message
}

/// Passes bytes on in both directions until one side ends, in a task of its own.
pub(super) fn serve(
    connection: Connection,
    info: Rc<ClientInfo>,
    client: Stream,
    received: Inbound,
    server: DedicatedServer,
) {
    connection.continue_in(move |connection| async move {
        let mut client = client;
        let DedicatedServer { mut lease, .. } = server;
        info.set_server(Some(lease.info.clone()));
        info.begin_busy(ClientState::Active);
        let end = pass_on(&info, &mut client, received, &mut lease.stream).await;
        info.set_server(None);
        info.state.set(ClientState::Idle);
        // PostgreSQL notices the end of the connection; what still runs then is canceled.
        lease.abandon(UnfinishedWork { owes_answers: false, between_messages: false });
        if let CloseReason::Error(error) = &end.reason
            && end.admits_error
        {
            let mut message = Vec::new();
            error.encode_fatal(&mut message);
            send_last(client, &message).await;
        }
        connection.log_close(&end.reason);
    });
}

/// How the exchange has ended.
struct ExchangeEnd {
    reason: CloseReason,
    /// The client expects a message now, and outside of a replication stream.
    admits_error: bool,
}

/// Why copying in one direction has ended.
enum CopyEnd {
    /// The source has closed its connection.
    SourceEof,
    SourceFailed(io::Error),
    SinkFailed,
}

async fn pass_on(
    info: &ClientInfo,
    client: &mut Stream,
    received: Inbound,
    server: &mut Stream,
) -> ExchangeEnd {
    let (mut up, mut down) = (received, Inbound::default());
    let mut boundary = MessageBoundary::default();
    let reason = poll_fn(|cx| {
        for _ in 0..MAX_ROUNDS_PER_TURN {
            if let Some(error) = info.take_kill() {
                return Poll::Ready(CloseReason::Error(error));
            }
            let from_client = poll_copy(cx, client, server, &mut up);
            if let Poll::Ready(Err(end)) = from_client {
                return Poll::Ready(match end {
                    CopyEnd::SourceEof => CloseReason::ClientEof,
                    CopyEnd::SourceFailed(error) => CloseReason::ClientLost(error),
                    CopyEnd::SinkFailed => CloseReason::ServerFatal,
                });
            }
            let from_server = poll_copy(cx, server, client, &mut down);
            if matches!(from_server, Poll::Ready(Ok(()))) {
                boundary.advance(down.bytes());
            }
            if let Poll::Ready(Err(end)) = from_server {
                return Poll::Ready(match end {
                    CopyEnd::SourceEof | CopyEnd::SourceFailed(_) => CloseReason::ServerFatal,
                    CopyEnd::SinkFailed => CloseReason::ClientEof,
                });
            }
            if from_client.is_pending() && from_server.is_pending() {
                return Poll::Pending;
            }
        }
        // There is more to do, but other tasks come first.
        executor::wake(executor::current());
        Poll::Pending
    })
    .await;
    ExchangeEnd { reason, admits_error: down.is_empty() && boundary.admits_error() }
}

/// Sends what was received, and receives once. Pending: one of the streams wakes this task.
fn poll_copy(
    cx: &mut task::Context<'_>,
    from: &mut Stream,
    to: &mut Stream,
    buffer: &mut Inbound,
) -> Poll<Result<(), CopyEnd>> {
    while !buffer.is_empty() {
        let ready = buffer.len();
        if ready!(to.poll_send_front(cx, &[], buffer, ready)).is_err() {
            return Poll::Ready(Err(CopyEnd::SinkFailed));
        }
    }
    if ready!(to.poll_flush(cx)).is_err() {
        return Poll::Ready(Err(CopyEnd::SinkFailed));
    }
    match ready!(from.poll_recv(cx, buffer)) {
        Ok(0) => Poll::Ready(Err(CopyEnd::SourceEof)),
        Ok(_) => Poll::Ready(Ok(())),
        Err(error) => Poll::Ready(Err(CopyEnd::SourceFailed(error))),
    }
}
