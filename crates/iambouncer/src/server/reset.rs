//! Cleaning a server between two clients: `server_reset_query`. Owns one query and its answer; a server that does
//! not come out of it idle is not fit for use.

use super::{Server, out_of_step};
use crate::net::Inbound;
use crate::parameters::Parameters;
use crate::prepared::ServerUnnamed;
use wire::backend::{self, TxStatus};
use wire::{encode, tag};

/// Largest message in the answer to a reset query, in bytes.
const MAX_RESET_MESSAGE_BYTES: u32 = 64 * 1024;
/// Most messages in it.
const MAX_RESET_MESSAGES: usize = 1000;

/// Runs `sql`. True when the server is idle and clean afterwards.
pub async fn run(server: &mut Server, parameters: &Parameters, sql: &str) -> bool {
    let mut message = Vec::new();
    encode::query(&mut message, sql);
    if server.stream.send_all(&message).await.is_err() {
        return false;
    }
    let mut inbound = Inbound::default();
    for _ in 0..MAX_RESET_MESSAGES {
        let Ok(frame) = server.stream.recv_message(&mut inbound, MAX_RESET_MESSAGE_BYTES).await else {
            return false;
        };
        let message = &inbound.bytes()[..frame.len];
        match frame.tag {
            tag::backend::ERROR_RESPONSE => return false,
            tag::backend::READY_FOR_QUERY => {
                // DISCARD ALL forgets prepared statements; asking again costs less than guessing.
                server.prepared.clear();
                server.unnamed = ServerUnnamed::None;
                if resets_settings(sql) {
                    server.forget_unreported(parameters);
                    server.has_client_names = false;
                }
                let idle = backend::ready_for_query(message) == Ok(TxStatus::Idle);
                return idle && frame.len == inbound.len();
            }
            tag::backend::PARAMETER_STATUS => {
                server.note_parameter(parameters, message);
            }
            tag::backend::COMMAND_COMPLETE
            | tag::backend::EMPTY_QUERY_RESPONSE
            | tag::backend::ROW_DESCRIPTION
            | tag::backend::DATA_ROW
            | tag::backend::NOTICE_RESPONSE
            | tag::backend::NOTIFICATION_RESPONSE => {}
            tag => {
                out_of_step::report_message(&server.info, tag, "in reset");
                return false;
            }
        }
        inbound.consume(frame.len);
    }
    false
}

/// True for a reset query that also brings settings and prepared statements back to those of the login.
fn resets_settings(sql: &str) -> bool {
    sql.to_ascii_uppercase().contains("DISCARD ALL")
}
