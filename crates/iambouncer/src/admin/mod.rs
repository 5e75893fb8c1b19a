//! The admin console: the virtual database `pgbouncer`. Owns one static table of commands ([`table`]) from which the
//! parser, SHOW HELP, the columns and the tests are derived. It supports the simple and the extended query protocol.

mod actions;
mod columns;
mod console;
mod contents;
mod driver_parameters;
mod formats;
mod output;
mod reconnect_clients;
mod session;
mod settings;
mod show;
mod show_connections;
mod show_databases;
mod show_dns;
mod show_events;
mod show_functions;
mod show_memory;
mod show_peers;
mod show_pins;
mod show_problems;
mod show_secrets;
mod show_server_auth;
mod show_settings;
mod show_stats;
mod show_status;
mod show_times;
mod show_tokens;
mod show_users;
mod show_waiting;
mod show_workers;
mod statements;
pub mod table;
mod words;

pub use columns::{ColumnHeader, Row};
pub use console::{Console, Reloader};
pub use contents::{TableContents, TableName};
pub use driver_parameters::is_ignored;
pub use session::ConsoleSession;
pub(crate) use show::CONSOLE_MODE;
pub(crate) use show_databases::{CONSOLE_POOL_SIZE, ServerDatabase};
pub(crate) use show_users::count as user_count;

use crate::client_error::{ClientError, messages};

/// Name of the console's database, and of the user that its pool is shown with.
pub use crate::config::CONSOLE_DATABASE as DATABASE;

/// Longest time to wait for a console client to read its final message.
const FINAL_MESSAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Not a command, or not its arguments.
fn syntax_error(text: &str) -> ClientError {
    messages::INVALID_COMMAND.of(text.trim())
}
