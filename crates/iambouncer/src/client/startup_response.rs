//! The startup response: AuthenticationOk, server parameters, cancel key. Owns the wait for a pool's first server,
//! whose parameters the response reports.

use super::authenticate::LoginRefusal;
use super::spelling;
use crate::client_error::{self, ClientError};
use crate::clients::{ClientInfo, ClientState};
use crate::context::Context;
use crate::net::{Inbound, Stream};
use crate::parameters::{ParameterId, ValueSet};
use crate::pool::{Pool, ServerParameters, StartupResponse};
use crate::version;
use crate::worker::buffer::SMALL_BLOCK_BYTES;
use crate::worker::{self, either, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use wire::encode;

/// Longest time between two checks whether a server login can be started.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What a client may send before its startup response, in bytes; more stays in its socket.
const MAX_EARLY_BYTES: usize = SMALL_BLOCK_BYTES;

/// Size of the messages that follow the shared ones, in bytes.
const TAIL_BYTES: usize = 192;

/// The startup response, and the client's initial parameter values.
pub(super) struct StartupReady {
    pub(super) message: Vec<u8>,
    pub(super) parameters: ValueSet,
    pub(super) parameters_proven: bool,
}

/// Waits until the pool has had a server, then builds the startup response.
///
/// # Errors
/// The server login fails or takes longer than `query_wait_timeout`; the client disconnects or is killed.
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
    report_pooling(&mut message, context, pool);
    encode::backend_key_data(&mut message, client.cancel_key.pid(), client.cancel_key.secret());
    encode::ready_for_query(&mut message);
    // A requested value is validated by the first server that accepts it; application_name is always valid.
    let name = context.parameters.id("application_name");
    let parameters_proven = tracked.iter().all(|(id, _)| Some(*id) == name);
    Ok(StartupReady { message, parameters: greeting.parameters.clone(), parameters_proven })
}

/// What PgBouncer reports about itself. Not part of the shared messages, since SET and RELOAD change it.
fn report_pooling(out: &mut Vec<u8>, context: &Context, pool: &Pool) {
    encode::parameter_status(out, "pgbouncer.version", version::OF_PGBOUNCER);
    let statements = context.config().settings.max_prepared_statements;
    encode::parameter_status(out, "pgbouncer.max_prepared_statements", &statements.to_string());
    encode::parameter_status(out, "pgbouncer.pool_mode", &pool.rules().pool_mode.to_string());
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
            // In the server's spelling, so that equal values compare as equal.
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

/// A client whose pool has had no server yet. It counts as waiting, and its disconnect is noticed.
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
                Some(at) if at <= worker::now() => return Err(LoginRefusal::Error(self.timeout_error())),
                Some(at) => at - worker::now(),
                None => Duration::ZERO,
            };
            // The end of another limit, or of the pause after a failure, is not signalled.
            let pause = if left.is_zero() { MAX_PAUSE } else { left.min(MAX_PAUSE) };
            let ended = timers::timeout(pause, pool.login_ended());
            if let Some(denied) = either(self.end(), async { ended.await.unwrap_or_default() }).await {
                return Err(denied);
            }
        }
    }

    /// The last login failure if there is one: it is more informative than a timeout.
    fn timeout_error(&self) -> ClientError {
        self.pool.last_failure().unwrap_or_else(client_error::query_wait_timeout)
    }

    /// Waits until the client disconnects or is killed. Bytes received meanwhile are kept for its session.
    async fn end(&mut self) -> LoginRefusal {
        poll_fn(|cx| {
            if let Some(error) = self.client.take_kill() {
                let is_late = error == client_error::query_wait_timeout();
                return Poll::Ready(LoginRefusal::Error(if is_late { self.timeout_error() } else { error }));
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
