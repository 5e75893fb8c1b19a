//! The hot path: moves bytes between a client and a server. Owns one logged-in client from its first request until its
//! session ends, and the points at which it acquires and releases a server.
//!
//! A small query over plain TCP costs one receive and one send in each direction, without allocation or locking.
//! `upstream` reads from the client, `downstream` from the server; each scans message headers in the receive buffer and
//! sends the same bytes. Both run in the same task, so no state is shared between tasks.

mod decision;
mod departing;
mod descriptions;
mod downstream;
mod exchange;
mod half_duplex;
mod head;
mod internal_names;
mod link;
mod listening;
mod listening_delivery;
mod listening_return;
mod moving;
mod own_names;
mod read_state;
mod refusals;
mod requests;
mod retry;
mod server_copies;
mod server_messages;
mod session;
mod session_state;
mod setting_rights;
mod sql_names;
mod statements;
#[cfg(feature = "otlp")]
mod traced;
mod unnamed;
mod unread_state;
mod upstream;
mod verified_state;

pub use moving::SessionInTransit;
pub use session::{CloseReason, Session, Start};
