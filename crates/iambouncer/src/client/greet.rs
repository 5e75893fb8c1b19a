//! The greeting of a client that may come in: AuthenticationOk, the server's parameters, the cancel key. Owns the
//! wait for the first server of a pool, since it is that server's parameters a client is greeted with.

use super::authenticate::Denied;
use super::spelling;
use crate::clients::{ClientInfo, ClientState};
use crate::context::Context;
use crate::faults::{self, Fault};
use crate::net::{Inbound, Stream};
use crate::parameters::ValueSet;
use crate::pool::{Greeting, Pool, Welcome};
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
pub(super) struct Greeted {
    pub(super) message: Vec<u8>,
    pub(super) parameters: ValueSet,
    pub(super) parameters_proven: bool,
}

/// Waits until the pool has had a server, then makes the greeting.
///
/// # Errors
/// The server login is refused, or takes longer than `query_wait_timeout`; the client leaves, or is ended.
pub(super) async fn greet(
    context: &Context,
    pool: &Rc<Pool>,
    client: &ClientInfo,
    stream: &mut Stream,
    inbound: &mut Inbound,
    tracked: &[(usize, String)],
) -> Result<Greeted, Denied> {
    let welcome = match pool.welcome() {
        Some(welcome) => welcome,
        None => Newcomer { pool, client, stream, inbound }.wait_for_welcome().await?,
    };
    let greeting = welcome.greeting(tracked, |welcome| make(context, welcome, tracked));
    let mut message = Vec::with_capacity(greeting.messages.len() + TAIL_BYTES);
    message.extend_from_slice(&greeting.messages);
    encode::backend_key_data(&mut message, client.cancel_pid(), &client.secret);
    encode::ready_for_query(&mut message);
    // What a client asks for is proven by the first server that takes it; application_name always is.
    let name = context.parameters.position("application_name");
    let parameters_proven = tracked.iter().all(|(position, _)| Some(*position) == name);
    Ok(Greeted { message, parameters: greeting.parameters.clone(), parameters_proven })
}

fn make(context: &Context, welcome: &Welcome, tracked: &[(usize, String)]) -> Greeting {
    let mut values = vec![None; context.parameters.names().len()];
    let version = welcome.reports.iter().find(|(name, _)| name == "server_version");
    let version = version.map_or("", |(_, value)| value.as_str());
    for (position, value) in tracked {
        let name = &*context.parameters.names()[*position];
        let default = welcome.parameters.values()[*position].as_deref();
        // As the server will report it: then what it has and what the client wants compare as equal.
        let value = spelling::reported(name, value, default, version).unwrap_or_else(|| value.clone());
        values[*position] = Some(value.into());
    }
    let parameters = context.parameters.overlay(&welcome.parameters, &values);
    let mut messages = Vec::new();
    encode::authentication_ok(&mut messages);
    for (name, value) in &*welcome.reports {
        let value = match context.parameters.position(name) {
            Some(position) => parameters.values()[position].as_deref().unwrap_or(value),
            None => value,
        };
        encode::parameter_status(&mut messages, name, value);
    }
    Greeting { asked: tracked.to_vec(), parameters, messages }
}

/// A client whose pool has had no server yet. It counts as waiting, and its end is noticed.
struct Newcomer<'a> {
    pool: &'a Rc<Pool>,
    client: &'a ClientInfo,
    stream: &'a mut Stream,
    inbound: &'a mut Inbound,
}

impl Newcomer<'_> {
    async fn wait_for_welcome(mut self) -> Result<Rc<Welcome>, Denied> {
        let since = worker::now();
        let _arrival = self.pool.arrive(since);
        self.client.state.set(ClientState::Waiting);
        self.client.time(|timing| timing.query_at = Some(since));
        let outcome = self.wait(since).await;
        self.client.time(|timing| timing.query_at = None);
        self.client.state.set(ClientState::Login);
        outcome
    }

    async fn wait(&mut self, since: Instant) -> Result<Rc<Welcome>, Denied> {
        let pool = self.pool;
        let limit = pool.rules().query_wait_timeout;
        let deadline = (!limit.is_zero()).then(|| since + limit);
        loop {
            if let Some(welcome) = pool.welcome() {
                return Ok(welcome);
            }
            if let Some(fault) = pool.refusal_for(since) {
                return Err(Denied::Fault((*fault).clone()));
            }
            pool.grow_by_one();
            let left = match deadline {
                Some(at) if at <= worker::now() => return Err(Denied::Fault(self.out_of_time())),
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
    fn out_of_time(&self) -> Fault {
        self.pool.last_failure().unwrap_or_else(faults::query_wait_timeout)
    }

    /// Waits until the client leaves or is ended. What it sends meanwhile is for its session.
    async fn end(&mut self) -> Denied {
        poll_fn(|cx| {
            if let Some(fault) = self.client.take_kill() {
                let is_late = fault == faults::query_wait_timeout();
                return Poll::Ready(Denied::Fault(if is_late { self.out_of_time() } else { fault }));
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
                    Poll::Ready(_) => return Poll::Ready(Denied::Gone),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}
