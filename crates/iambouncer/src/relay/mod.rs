//! The hot loops: bytes from a client to a server and back. Owns one logged-in client, from its first request to
//! its goodbye, and the moments at which it gets and leaves a server.
//!
//! Per small query on plain TCP: one receive and one send each way, no allocation, no lock. `upstream` reads the
//! client, `downstream` the server; each scans headers in the receive buffer and sends the very same bytes. Both are
//! turns of one task, so no state is shared between tasks.

mod decision;
mod downstream;
mod exchange;
mod head;
mod internal_names;
mod link;
mod own_names;
mod requests;
mod retry;
mod server_copies;
mod server_messages;
mod session;
mod statements;
mod unnamed;
mod upstream;

pub use session::{CloseReason, FinalMessage, Session, Start};
