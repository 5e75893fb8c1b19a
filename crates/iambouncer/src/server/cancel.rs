//! Sending a cancel request to a server. Owns the rule that no cancel ever hits the next client's query: from the start
//! of a request until the server has closed the cancel connection, the server is not assigned to another client;
//! nothing is sent if it is no longer linked to the client that sent the request.

use super::ServerInfo;
use super::connect;
use crate::context::Context;
use crate::net::Inbound;
use crate::worker::timers;
use std::rc::Rc;
use std::time::Duration;

/// Maximum number of concurrent cancel requests to one server; more would have no effect.
const MAX_IN_FLIGHT: u32 = 4;

/// Counts a request in [`ServerInfo::cancels_in_flight`] for as long as it exists.
struct InFlight(Rc<ServerInfo>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.cancels_in_flight.set(self.0.cancels_in_flight.get() - 1);
    }
}

/// Cancels the query of `client_id` on `server`. Returns when the server is done with the request, or after `limit`;
/// false if it may not have received it.
pub async fn send(context: &Context, server: Rc<ServerInfo>, client_id: u64, limit: Duration) -> bool {
    if server.cancels_in_flight.get() >= MAX_IN_FLIGHT {
        return true;
    }
    server.cancels_in_flight.set(server.cancels_in_flight.get() + 1);
    let in_flight = InFlight(server);
    let server = &in_flight.0;
    let outcome = timers::timeout(limit, async {
        let mut stream = connect::reopen(context, &server.facts.route).await?;
        if server.client_id.get() != client_id {
            return Ok::<(), super::LoginError>(());
        }
        let mut message = Vec::new();
        wire::encode::cancel_request(&mut message, server.facts.pid, &server.facts.cancel_key);
        let io_error = |error: std::io::Error| super::LoginError::BrokenOff(error.to_string());
        stream.send_all(&message).await.map_err(io_error)?;
        // The server closes the connection after sending the signal.
        let mut inbound = Inbound::default();
        loop {
            match stream.recv(&mut inbound).await {
                Ok(0) => return Ok(()),
                Ok(_) => inbound.clear(),
                Err(error) => {
                    // It is unknown whether the request had an effect, so the server must not be used again.
                    server.close_needed.set(true);
                    return Err(io_error(error));
                }
            }
        }
    })
    .await;
    match outcome {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::warn!(%error, "could not send the cancel request");
            false
        }
        None => {
            // It is unknown whether the request arrived, so the server must not be used again.
            server.close_needed.set(true);
            tracing::warn!("cancel request timed out; the server connection will be closed");
            false
        }
    }
}
