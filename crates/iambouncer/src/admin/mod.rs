//! The console: the database `pgbouncer`. Owns one static table of commands ([`table`]) from which the parser, SHOW
//! HELP, the columns and the tests derive. It answers the simple and the extended protocol.

mod actions;
mod console;
mod formats;
pub mod gathered;
mod output;
mod session;
mod show;
mod show_peers;
mod show_secrets;
mod show_stats;
mod show_tokens;
mod statements;
pub mod table;

pub use console::{Console, Reloader};
pub use session::ConsoleSession;

/// Name of the database that is the console.
pub const DATABASE: &str = "pgbouncer";

/// How long a console client may hold up its last message.
const FINAL_MESSAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);
