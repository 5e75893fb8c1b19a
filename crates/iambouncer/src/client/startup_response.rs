//! The startup response: AuthenticationOk, server parameters, NOTICE, cancel key. Owns the wait for a pool's first server,
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
use wire::encode::{self, ErrorReport};

/// Longest time between two checks whether a server login can be started.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What a client may send before its startup response, in bytes; more stays in its socket.
const MAX_EARLY_BYTES: usize = SMALL_BLOCK_BYTES;

/// Size of the messages around the parameters, in bytes, without the text of a NOTICE.
const FIXED_BYTES: usize = 256;

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
    client: &Rc<ClientInfo>,
    stream: &mut Stream,
    inbound: &mut Inbound,
    tracked: &[(ParameterId, String)],
) -> Result<StartupReady, LoginRefusal> {
    let mut is_admitted = false;
    let server_parameters = match pool.server_parameters() {
        Some(server_parameters) => server_parameters,
        None => {
            let mut wait = FirstWait { pool, client, stream, inbound, has_notified: false };
            let waited = wait.wait_for_server_parameters().await;
            is_admitted = wait.has_notified;
            waited?
        }
    };
    let greeting = server_parameters
        .startup_response(tracked, |server_parameters| make(context, server_parameters, tracked));
    let config = context.config();
    let welcome = config.settings.login_notify_message.as_str();
    let mut message = Vec::with_capacity(greeting.messages.len() + FIXED_BYTES + welcome.len());
    if !is_admitted {
        encode::authentication_ok(&mut message);
    }
    message.extend_from_slice(&greeting.messages);
    report_pooling(&mut message, context, pool);
    if !welcome.is_empty() {
        encode::notice_response(&mut message, &ErrorReport::notice(welcome));
    }
    let key = client.cancel_key.get();
    encode::backend_key_data(&mut message, key.pid(), key.secret());
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
    for (name, value) in &*server_parameters.reports {
        let tracked = context.parameters.id(name).and_then(|id| parameters.get(id));
        encode::parameter_status(&mut messages, name, tracked.unwrap_or(value));
    }
    StartupResponse { requested: tracked.to_vec(), parameters, messages }
}

/// A client whose pool has had no server yet. It counts as waiting, and its disconnect is noticed.
struct FirstWait<'a> {
    pool: &'a Rc<Pool>,
    client: &'a Rc<ClientInfo>,
    stream: &'a mut Stream,
    inbound: &'a mut Inbound,
    /// It has received AuthenticationOk and the NOTICE about its wait.
    has_notified: bool,
}

impl FirstWait<'_> {
    async fn wait_for_server_parameters(&mut self) -> Result<Rc<ServerParameters>, LoginRefusal> {
        let since = worker::now();
        let _arrival = self.pool.arrive(since);
        self.client.begin_wait(since);
        let outcome = self.wait(since).await;
        self.client.time(|timing| timing.query_at = None);
        self.client.state.set(ClientState::Login);
        if matches!(outcome, Err(LoginRefusal::Gone)) {
            self.pool.stats.count(|t| t.abandoned_waits += 1);
        }
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
            if self.client.take_wait_notice() {
                self.notify().await?;
            }
            let left = match deadline {
                Some(at) if at <= worker::now() => return Err(LoginRefusal::Error(self.time_out())),
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

    /// Sends the NOTICE about the wait. Clients accept it only after AuthenticationOk.
    async fn notify(&mut self) -> Result<(), LoginRefusal> {
        let mut message = Vec::new();
        encode::authentication_ok(&mut message);
        encode::notice_response(&mut message, &ErrorReport::notice(client_error::WAIT_NOTICE));
        self.has_notified = true;
        self.stream.send_all(&message).await.map_err(|_| LoginRefusal::Gone)
    }

    /// Counts a timeout. Returns the last login failure if there is one: it is more informative.
    fn time_out(&self) -> ClientError {
        self.pool.stats.count(|t| t.wait_timeouts += 1);
        self.pool.last_failure().unwrap_or_else(client_error::query_wait_timeout)
    }

    /// Waits until the client disconnects or is killed. Bytes received meanwhile are kept for its session.
    async fn end(&mut self) -> LoginRefusal {
        match gone_or_killed(self.client, self.stream, self.inbound).await {
            LoginRefusal::Error(error) if error.is_wait_timeout() => LoginRefusal::Error(self.time_out()),
            other => other,
        }
    }
}

/// Waits until a client that waits for a server disconnects or is killed. Bytes received meanwhile are kept.
pub(super) async fn gone_or_killed(
    client: &Rc<ClientInfo>,
    stream: &mut Stream,
    inbound: &mut Inbound,
) -> LoginRefusal {
    poll_fn(|cx| {
        if let Some(error) = client.take_kill() {
            return Poll::Ready(LoginRefusal::Error(error));
        }
        loop {
            if inbound.len() >= MAX_EARLY_BYTES {
                return Poll::Pending;
            }
            if !inbound.is_empty() {
                inbound.make_room(MAX_EARLY_BYTES);
            }
            match stream.poll_recv(cx, inbound) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(LoginRefusal::Gone),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
