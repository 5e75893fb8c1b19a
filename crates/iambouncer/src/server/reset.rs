//! Queries on a server between two clients: `server_reset_query`, `server_check_query` and others. Owns one query and its answer;
//! a server that is not idle afterwards is unusable.

use super::{Server, out_of_step};
use crate::net::Inbound;
use crate::parameters::Parameters;
use crate::prepared::ServerUnnamed;
use crate::sql_client::{self, AnswerLimits, QueryAnswer, SqlError};
use wire::backend::TxStatus;

const LIMITS: AnswerLimits = AnswerLimits { message_bytes: 64 * 1024, messages: 1000, rows: 0 };

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

/// Runs a query between two clients. True if the server is idle afterwards.
async fn run_query(server: &mut Server, parameters: &Parameters, sql: &str, when: &str) -> bool {
    let answer = ask(server, parameters, sql, LIMITS, when).await;
    answer.is_ok_and(|answer| answer.status == TxStatus::Idle)
}

/// Runs a query between two clients, and returns its answer. `when` is for the log.
///
/// # Errors
/// As [`sql_client::query`]; bytes behind the answer are an error, too.
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
    if let Err(SqlError::Unexpected(tag)) = &answer {
        out_of_step::report_message(&server.info, *tag, when);
    }
    if !inbound.is_empty() {
        return Err(SqlError::TooLong);
    }
    answer
}

/// True if the reset query also resets settings and prepared statements.
fn resets_settings(sql: &str) -> bool {
    sql.to_ascii_uppercase().contains("DISCARD ALL")
}
