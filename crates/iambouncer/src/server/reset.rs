//! Cleaning a server between two clients: `server_reset_query`. Owns one query and its answer; a server that does
//! not come out of it idle is not fit for use.

use super::Server;
use crate::net::Inbound;
use crate::parameters::Parameters;
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
                let idle = backend::ready_for_query(message) == Ok(TxStatus::Idle);
                return idle && frame.len == inbound.len();
            }
            tag::backend::PARAMETER_STATUS => {
                server.note_parameter(parameters, message);
            }
            _ => {}
        }
        inbound.consume(frame.len);
    }
    false
}
