//! The server that a client of session pooling gets in its login, as with a direct connection (`session_state = follow`). Owns
//! giving it the client's startup values; the session keeps it.

use super::authenticate::LoginRefusal;
use super::login_wait::LoginWait;
use crate::client_error;
use crate::parameters::ValueSet;
use crate::pool::{Lease, ServerParameters, StartupResponse};
use crate::server::reset;
use crate::sql_client::SqlError;
use crate::worker::{either, timers};
use std::rc::Rc;

/// Servers that may be lost while they receive the client's values; the loss of one more is reported.
const MAX_LOST: u32 = 3;

/// A server that has the client's values.
pub(super) struct SessionServer {
    pub(super) lease: Lease,
    /// What the newest server of the pool has reported.
    pub(super) server_parameters: Rc<ServerParameters>,
    /// The response that another client with the same values would receive.
    pub(super) greeting: Rc<StartupResponse>,
}

/// Why a server does not have the client's values.
enum ValuesError {
    /// The client has left or is killed.
    Client(LoginRefusal),
    /// The server has refused one, and is in order.
    Refused { code: String, message: String },
    /// The server cannot be used.
    Lost(String),
}

/// Waits for a server and gives it the client's values, which `greet` chooses.
///
/// # Errors
/// There is none in time, or it refuses a value; the client disconnects or is killed.
pub(super) async fn acquire(
    wait: &mut LoginWait<'_>,
    greet: impl Fn(&ServerParameters) -> Rc<StartupResponse>,
) -> Result<SessionServer, LoginRefusal> {
    let mut lost = 0;
    loop {
        let mut lease = wait.for_server().await?;
        let Some(server_parameters) = wait.pool.server_parameters() else {
            // The database line has changed meanwhile: this server is an old one.
            lease.release();
            wait.for_parameters().await?;
            continue;
        };
        let greeting = greet(&server_parameters);
        match set_values(wait, &mut lease, &greeting.parameters).await {
            Ok(()) => return Ok(SessionServer { lease, server_parameters, greeting }),
            Err(ValuesError::Client(refusal)) => return Err(refusal),
            Err(ValuesError::Refused { code, message }) => {
                lease.release_discarding();
                return Err(LoginRefusal::Error(client_error::parameter_refused(&message, code)));
            }
            Err(ValuesError::Lost(error)) if lost == MAX_LOST => {
                return Err(LoginRefusal::Error(client_error::server_lost(error)));
            }
            Err(ValuesError::Lost(_)) => lost += 1,
        }
    }
}

async fn set_values(
    wait: &mut LoginWait<'_>,
    lease: &mut Lease,
    wanted: &ValueSet,
) -> Result<(), ValuesError> {
    if lease.parameters.same(wanted) {
        return Ok(());
    }
    let context = wait.pool.context.clone();
    let parameters = &context.parameters;
    let limit = context.config().settings.server_connect_timeout;
    let mut outcome = None;
    let setting = async {
        outcome = timers::timeout(limit, reset::set_values(lease, parameters, wanted, &wait.pool.user)).await;
    };
    if let Some(refusal) = either(wait.end(), setting).await {
        return Err(ValuesError::Client(refusal));
    }
    match outcome {
        Some(Ok(())) => Ok(()),
        Some(Err(SqlError::Refused { severity, code, message, .. })) if severity == "ERROR" => {
            Err(ValuesError::Refused { code, message })
        }
        Some(Err(error)) => Err(ValuesError::Lost(error.to_string())),
        None => Err(ValuesError::Lost("no answer to SET within server_connect_timeout".to_owned())),
    }
}
