//! Queries on a server between two clients: `server_reset_query`, `server_check_query`, the values of the next client, and
//! others. Owns these queries and their answers; a server that is not idle afterwards is unusable.

use super::{Server, out_of_step};
use crate::net::Inbound;
use crate::parameters::{Parameters, ValueSet};
use crate::prepared::ServerUnnamed;
use crate::sql_client::{self, AnswerLimits, QueryAnswer, SqlError};
use wire::backend::TxStatus;

const LIMITS: AnswerLimits = AnswerLimits { message_bytes: 64 * 1024, messages: 1000, rows: 0, bytes: 0 };

/// Runs the reset query `sql`. True if the server is idle and clean afterwards.
pub async fn run(server: &mut Server, parameters: &Parameters, sql: &str) -> bool {
    let is_idle = run_query(server, parameters, sql, "during the reset query").await;
    if is_idle {
        // DISCARD ALL drops prepared statements; preparing them again costs less than guessing.
        server.prepared.clear();
        if resets_settings(sql) {
            server.forget_unreported(parameters);
            server.has_client_names = false;
        }
    }
    is_idle
}

/// Runs the check query `sql`. True if the server has answered and is idle.
pub async fn check(server: &mut Server, parameters: &Parameters, sql: &str) -> bool {
    run_query(server, parameters, sql, "during the check query").await
}

/// Gives a server that is idle the values of a client, and records what it has accepted.
///
/// # Errors
/// The server refuses a value, and has a part of the others; or it is unusable.
pub async fn set_values(
    server: &mut Server,
    parameters: &Parameters,
    wanted: &ValueSet,
    login_user: &str,
) -> Result<(), SqlError> {
    let statements = parameters.set_statements(&server.parameters, wanted, login_user);
    for sql in statements {
        tracing::debug!(id = server.info.facts.id, "varcache_apply: {sql}");
        ask(server, parameters, &sql, LIMITS, "while it received a client's values").await?;
    }
    server.accept_parameters(parameters, wanted);
    Ok(())
}

/// Runs a query between two clients. True if the server is idle afterwards.
async fn run_query(server: &mut Server, parameters: &Parameters, sql: &str, when: &str) -> bool {
    ask(server, parameters, sql, LIMITS, when).await.is_ok()
}

/// Runs a query between two clients, and returns its answer. The server is idle afterwards. `when` is for the log.
///
/// # Errors
/// As [`sql_client::query`]; and the server is not idle, or has sent more than the answer.
pub async fn ask(
    server: &mut Server,
    parameters: &Parameters,
    sql: &str,
    limits: AnswerLimits,
    when: &str,
) -> Result<QueryAnswer, SqlError> {
    let mut inbound = Inbound::default();
    let mut reported = Vec::new();
    let record = |message: &[u8]| reported.push(message.to_vec());
    let answer = sql_client::query(&mut server.stream, &mut inbound, sql, limits, record).await;
    for message in reported {
        server.record_parameter(parameters, &message);
    }
    // A simple query drops it.
    server.unnamed = ServerUnnamed::None;
    match answer {
        Ok(answer) if answer.status == TxStatus::Idle && inbound.is_empty() => Ok(answer),
        Ok(_) => Err(SqlError::NotIdle),
        Err(error) => {
            if let SqlError::Unexpected(tag) = error {
                out_of_step::report_message(&server.info, tag, when);
            }
            Err(error)
        }
    }
}

/// True if the reset query also resets settings and prepared statements.
fn resets_settings(sql: &str) -> bool {
    sql.to_ascii_uppercase().contains("DISCARD ALL")
}
