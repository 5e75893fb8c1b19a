//! The greeting of a client that may come in: AuthenticationOk, the server's parameters, the cancel key. Owns the
//! wait for the first server of a pool, since it is that server's parameters a client is greeted with.

use super::authenticate::LoginRefusal;
use super::spelling;
use crate::client_error::{self, ClientError};
use crate::clients::{ClientInfo, ClientState};
use crate::context::Context;
use crate::net::{Inbound, Stream};
use crate::parameters::{ParameterId, ValueSet};
use crate::pool::{Pool, ServerParameters, StartupResponse};
use crate::worker::buffer::SMALL_BLOCK_BYTES;
use crate::worker::{self, either, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use wire::encode;

/// Longest time between two looks at whether a login can be tried.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What a client may send before it is greeted; more stays in its socket.
const MAX_EARLY_BYTES: usize = SMALL_BLOCK_BYTES;

/// Room for the two messages that follow a greeting, in bytes.
const TAIL_BYTES: usize = 32;

/// The greeting, and the values the client starts with.
pub(super) struct StartupReady {
    pub(super) message: Vec<u8>,
    pub(super) parameters: ValueSet,
    pub(super) parameters_proven: bool,
}

/// Waits until the pool has had a server, then makes the greeting.
///
/// # Errors
/// The server login is refused, or takes longer than `query_wait_timeout`; the client leaves, or is ended.
pub(super) async fn startup_response(
    context: &Context,
    pool: &Rc<Pool>,
    client: &ClientInfo,
    stream: &mut Stream,
    inbound: &mut Inbound,
    tracked: &[(ParameterId, String)],
) -> Result<StartupReady, LoginRefusal> {
    let server_parameters = match pool.server_parameters() {
        Some(server_parameters) => server_parameters,
        None => FirstWait { pool, client, stream, inbound }.wait_for_server_parameters().await?,
    };
    let greeting = server_parameters
        .startup_response(tracked, |server_parameters| make(context, server_parameters, tracked));
    let mut message = Vec::with_capacity(greeting.messages.len() + TAIL_BYTES);
    message.extend_from_slice(&greeting.messages);
    encode::backend_key_data(&mut message, client.cancel_pid(), &client.secret);
    encode::ready_for_query(&mut message);
    // What a client asks for is proven by the first server that takes it; application_name always is.
    let name = context.parameters.id("application_name");
    let parameters_proven = tracked.iter().all(|(id, _)| Some(*id) == name);
    Ok(StartupReady { message, parameters: greeting.parameters.clone(), parameters_proven })
}

fn make(
    context: &Context,
    server_parameters: &ServerParameters,
    tracked: &[(ParameterId, String)],
) -> StartupResponse {
    let version = server_parameters.reports.iter().find(|(name, _)| name == "server_version");
    let version = version.map_or("", |(_, value)| value.as_str());
    let spelled: Vec<(ParameterId, String)> = tracked
        .iter()
        .map(|(id, value)| {
            let default = server_parameters.parameters.get(*id);
            // As the server will report it: then what it has and what the client wants compare as equal.
            let reported = spelling::reported(context.parameters.name(*id), value, default, version);
            (*id, reported.unwrap_or_else(|| value.clone()))
        })
        .collect();
    let values = spelled.iter().map(|(id, value)| (*id, value.as_str()));
    let parameters = context.parameters.overlay(&server_parameters.parameters, values);
    let mut messages = Vec::new();
    encode::authentication_ok(&mut messages);
    for (name, value) in &*server_parameters.reports {
        let tracked = context.parameters.id(name).and_then(|id| parameters.get(id));
        encode::parameter_status(&mut messages, name, tracked.unwrap_or(value));
    }
    StartupResponse { requested: tracked.to_vec(), parameters, messages }
}

/// A client whose pool has had no server yet. It counts as waiting, and its end is noticed.
struct FirstWait<'a> {
    pool: &'a Rc<Pool>,
    client: &'a ClientInfo,
    stream: &'a mut Stream,
    inbound: &'a mut Inbound,
}

impl FirstWait<'_> {
    async fn wait_for_server_parameters(mut self) -> Result<Rc<ServerParameters>, LoginRefusal> {
        let since = worker::now();
        let _arrival = self.pool.arrive(since);
        self.client.state.set(ClientState::Waiting);
        self.client.time(|timing| timing.query_at = Some(since));
        let outcome = self.wait(since).await;
        self.client.time(|timing| timing.query_at = None);
        self.client.state.set(ClientState::Login);
        outcome
    }

    async fn wait(&mut self, since: Instant) -> Result<Rc<ServerParameters>, LoginRefusal> {
        let pool = self.pool;
        let limit = pool.rules().query_wait_timeout;
        let deadline = (!limit.is_zero()).then(|| since + limit);
        loop {
            if let Some(server_parameters) = pool.server_parameters() {
                return Ok(server_parameters);
            }
            if let Some(error) = pool.refusal_for(since) {
                return Err(LoginRefusal::Error((*error).clone()));
            }
            pool.connect_one();
            let left = match deadline {
                Some(at) if at <= worker::now() => return Err(LoginRefusal::Error(self.out_of_time())),
                Some(at) => at - worker::now(),
                None => Duration::ZERO,
            };
            // A limit elsewhere, or the pause after a failure, may end without anybody telling.
            let pause = if left.is_zero() { MAX_PAUSE } else { left.min(MAX_PAUSE) };
            let news = timers::timeout(pause, pool.login_ended.wait());
            if let Some(denied) = either(self.end(), async { news.await.unwrap_or_default() }).await {
                return Err(denied);
            }
        }
    }

    /// The reason is known and says more than that time ran out.
    fn out_of_time(&self) -> ClientError {
        self.pool.last_failure().unwrap_or_else(client_error::query_wait_timeout)
    }

    /// Waits until the client leaves or is ended. What it sends meanwhile is for its session.
    async fn end(&mut self) -> LoginRefusal {
        poll_fn(|cx| {
            if let Some(error) = self.client.take_kill() {
                let is_late = error == client_error::query_wait_timeout();
                return Poll::Ready(LoginRefusal::Error(if is_late { self.out_of_time() } else { error }));
            }
            loop {
                if self.inbound.len() >= MAX_EARLY_BYTES {
                    return Poll::Pending;
                }
                if !self.inbound.is_empty() {
                    self.inbound.make_room(MAX_EARLY_BYTES);
                }
                match self.stream.poll_recv(cx, self.inbound) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(LoginRefusal::Gone),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}
