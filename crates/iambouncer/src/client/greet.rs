//! The greeting of a client that may come in: AuthenticationOk, the server's parameters, the cancel key. Owns the
//! wait for the first server of a pool, since it is that server's parameters a client is greeted with.

use super::spelling;
use crate::clients::ClientInfo;
use crate::context::Context;
use crate::faults::{self, Fault};
use crate::parameters::ValueSet;
use crate::pool::{Greeting, Pool, Welcome};
use crate::worker::{self, timers};
use std::rc::Rc;
use std::time::Duration;
use wire::encode;

/// Longest time between two looks at whether a login can be tried.
const MAX_PAUSE: Duration = Duration::from_millis(500);

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
/// The server login is refused, or takes longer than `query_wait_timeout`.
pub(super) async fn greet(
    context: &Context,
    pool: &Rc<Pool>,
    client: &ClientInfo,
    tracked: &[(usize, String)],
) -> Result<Greeted, Fault> {
    let welcome = wait_for_welcome(pool).await?;
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

async fn wait_for_welcome(pool: &Rc<Pool>) -> Result<Rc<Welcome>, Fault> {
    let limit = pool.rules().query_wait_timeout;
    let deadline = (!limit.is_zero()).then(|| worker::now() + limit);
    loop {
        if let Some(welcome) = pool.welcome() {
            return Ok(welcome);
        }
        if let Some(fault) = pool.refused_fault() {
            return Err(fault);
        }
        pool.grow_by_one();
        let left = match deadline {
            Some(at) if at <= worker::now() => {
                // The reason is known and says more than that time ran out.
                return Err(pool.last_failure().unwrap_or_else(faults::query_wait_timeout));
            }
            Some(at) => at - worker::now(),
            None => Duration::ZERO,
        };
        // A limit elsewhere, or the pause after a failure, may end without anybody telling.
        let pause = if left.is_zero() { MAX_PAUSE } else { left.min(MAX_PAUSE) };
        timers::timeout(pause, pool.login_ended.wait()).await;
    }
}
