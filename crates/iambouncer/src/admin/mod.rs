//! The admin console: the virtual database `pgbouncer`. Owns one static table of commands ([`table`]) from which the
//! parser, SHOW HELP, the columns and the tests are derived. It supports the simple and the extended query protocol.

mod actions;
mod columns;
mod console;
mod driver_parameters;
mod formats;
mod output;
mod session;
mod settings;
mod show;
mod show_connections;
mod show_databases;
mod show_dns;
mod show_memory;
mod show_peers;
mod show_secrets;
mod show_stats;
mod show_tokens;
mod show_users;
mod statements;
pub mod table;
mod words;

pub use console::{Console, Reloader};
pub use driver_parameters::is_ignored;
pub use session::ConsoleSession;

use crate::client_error::{Blame, ClientError};

/// Name of the console's database, and of the user that its pool is shown with.
pub const DATABASE: &str = "pgbouncer";

/// Longest time to wait for a console client to read its final message.
const FINAL_MESSAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// A command that is refused. PgBouncer has one SQLSTATE for all, which drivers map to a class of exceptions.
fn refused(text: impl Into<String>) -> ClientError {
    ClientError::new(Blame::Client, "08P01", text.into())
}

/// Not a command, or not its arguments.
fn syntax_error(text: &str) -> ClientError {
    refused(format!("invalid command '{}', use SHOW HELP;", text.trim()))
}
