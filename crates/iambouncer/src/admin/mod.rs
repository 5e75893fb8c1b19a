//! The admin console: the virtual database `pgbouncer`. Owns one static table of commands ([`table`]) from which the
//! parser, SHOW HELP, the columns and the tests are derived. It supports the simple and the extended query protocol.

mod actions;
mod columns;
mod console;
mod formats;
mod output;
mod session;
mod show;
mod show_databases;
mod show_peers;
mod show_secrets;
mod show_stats;
mod show_tokens;
mod statements;
pub mod table;

pub use console::{Console, Reloader};
pub use session::ConsoleSession;

/// Name of the console's database.
pub const DATABASE: &str = "pgbouncer";

/// Longest time to wait for a console client to read its final message.
const FINAL_MESSAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
