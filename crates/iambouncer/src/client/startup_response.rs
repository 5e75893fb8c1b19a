//! The startup response: AuthenticationOk, server parameters, NOTICE, cancel key. Owns its contents; it never waits itself.

use super::authenticate::LoginRefusal;
use super::login_wait::LoginWait;
use super::{session_server, spelling};
use crate::context::Context;
use crate::parameters::{ParameterId, ValueSet};
use crate::pool::{Lease, Pool, ServerParameters, StartupResponse};
use crate::version;
use crate::worker_state::Worker;
use wire::encode::{self, ErrorReport};

/// Size of the messages around the parameters, in bytes, without the text of a NOTICE.
const FIXED_BYTES: usize = 256;

/// The startup response, and what the session begins with.
pub(super) struct StartupReady {
    pub(super) message: Vec<u8>,
    pub(super) parameters: ValueSet,
    pub(super) parameters_proven: bool,
    /// The client's server, in session pooling.
    pub(super) server: Option<Lease>,
}

/// Builds the startup response, once the pool has had a server; in session pooling, once the client has one.
///
/// # Errors
/// There is none within `query_wait_timeout`, or it refuses the client's values; the client disconnects or is killed.
pub(super) async fn startup_response(
    worker: &Worker,
    mut wait: LoginWait<'_>,
    tracked: &[(ParameterId, String)],
) -> Result<StartupReady, LoginRefusal> {
    let (context, pool) = (&worker.context, wait.pool);
    let greet = |server_parameters: &ServerParameters| {
        server_parameters
            .startup_response(tracked, |server_parameters| make(context, server_parameters, tracked))
    };
    if pool.with_session_rules(|rules| rules.links_in_login) {
        let own = session_server::acquire(&mut wait, greet).await?;
        let parameters = own.lease.parameters.clone();
        let has_other_values = !parameters.same(&own.greeting.parameters);
        let reported = has_other_values.then(|| reports(context, &own.server_parameters, &parameters));
        if worker.clients.adopt_server_pid(wait.client, own.lease.info.facts.pid) {
            context.process.cancel_requests.note_server_pid();
        }
        let message = compose(context, &wait, reported.as_ref().unwrap_or(&own.greeting.messages));
        return Ok(StartupReady { message, parameters, parameters_proven: true, server: Some(own.lease) });
    }
    let server_parameters = match pool.server_parameters() {
        Some(server_parameters) => server_parameters,
        None => wait.for_parameters().await?,
    };
    let greeting = greet(&server_parameters);
    // A requested value is validated by the first server that accepts it; application_name is always valid.
    let name = context.parameters.id("application_name");
    Ok(StartupReady {
        message: compose(context, &wait, &greeting.messages),
        parameters: greeting.parameters.clone(),
        parameters_proven: tracked.iter().all(|(id, _)| Some(*id) == name),
        server: None,
    })
}

fn compose(context: &Context, wait: &LoginWait<'_>, reports: &[u8]) -> Vec<u8> {
    let config = context.config();
    let welcome = config.settings.login_notify_message.as_str();
    let mut message = Vec::with_capacity(reports.len() + FIXED_BYTES + welcome.len());
    if !wait.has_notified {
        encode::authentication_ok(&mut message);
    }
    message.extend_from_slice(reports);
    report_pooling(&mut message, context, wait.pool);
    if !welcome.is_empty() {
        encode::notice_response(&mut message, &ErrorReport::notice(welcome));
    }
    let key = wait.client.cancel_key.get();
    encode::backend_key_data(&mut message, key.pid(), key.secret());
    encode::ready_for_query(&mut message);
    message
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
    let messages = reports(context, server_parameters, &parameters);
    StartupResponse { requested: tracked.to_vec(), parameters, messages }
}

/// What the server has reported, with these values of tracked parameters.
fn reports(context: &Context, server_parameters: &ServerParameters, values: &ValueSet) -> Vec<u8> {
    let mut messages = Vec::new();
    for (name, value) in &*server_parameters.reports {
        let tracked = context.parameters.id(name).and_then(|id| values.get(id));
        encode::parameter_status(&mut messages, name, tracked.unwrap_or(value));
    }
    messages
}
