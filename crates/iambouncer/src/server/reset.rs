//! Cleaning a server between two clients: `server_reset_query`. Owns one query and its answer; a server that does
//! not come out of it idle is not fit for use.

use super::{Server, out_of_step};
use crate::net::Inbound;
use crate::parameters::Parameters;
use crate::prepared::ServerUnnamed;
use crate::sql_client::{self, AnswerLimits, SqlError};
use wire::backend::TxStatus;

const LIMITS: AnswerLimits = AnswerLimits { message_bytes: 64 * 1024, messages: 1000, rows: 0 };

/// Runs `sql`. True when the server is idle and clean afterwards.
pub async fn run(server: &mut Server, parameters: &Parameters, sql: &str) -> bool {
    let mut inbound = Inbound::default();
    let mut reported = Vec::new();
    let note = |message: &[u8]| reported.push(message.to_vec());
    let answer = sql_client::query(&mut server.stream, &mut inbound, sql, LIMITS, note).await;
    for message in reported {
        server.note_parameter(parameters, &message);
    }
    match answer {
        Ok(answer) => {
            // DISCARD ALL forgets prepared statements; asking again costs less than guessing.
            server.prepared.clear();
            server.unnamed = ServerUnnamed::None;
            if resets_settings(sql) {
                server.forget_unreported(parameters);
                server.has_client_names = false;
            }
            answer.status == TxStatus::Idle && inbound.is_empty()
        }
        Err(SqlError::Unexpected(tag)) => {
            out_of_step::report_message(&server.info, tag, "in reset");
            false
        }
        Err(_) => false,
    }
}

/// True for a reset query that also brings settings and prepared statements back to those of the login.
fn resets_settings(sql: &str) -> bool {
    sql.to_ascii_uppercase().contains("DISCARD ALL")
}
