//! The table of console commands. Owns their names, arguments, help and columns (in PgBouncer's order); the function
//! in each row runs the command.

use super::console::Console;
use super::{actions, show, show_peers, show_secrets, show_stats, show_tokens};
use crate::client_error::ClientError;
use crate::stats::snapshot::Snapshot;
use Rows::{Distinct, EachWorker, Here, Sums};
use std::future::ready;
use std::pin::Pin;
use std::rc::Rc;
use wire::encode::ColumnType::{self, Int4, Int8, Text};

/// A row of a result; `None` is NULL.
pub type Row = Vec<Option<String>>;
/// A result column.
pub type Column = (&'static str, ColumnType);
/// A command that changes something; receives the text after its words.
pub type Action = fn(Rc<Console>, String) -> CommandOutcome;
/// The result of an action.
pub type CommandOutcome = Pin<Box<dyn Future<Output = Result<(), ClientError>>>>;

/// What a command does.
#[derive(Clone, Copy)]
pub enum Run {
    /// Shows rows.
    Rows(&'static [Column], Rows),
    /// Sends a notice.
    Notice(fn() -> String),
    /// Changes something.
    Action(Action),
}

/// Where rows come from.
#[derive(Clone, Copy)]
pub enum Rows {
    /// The same at every worker.
    Here(fn(&Console) -> Vec<Row>),
    /// Each worker has its own rows.
    EachWorker(fn(&Console) -> Vec<Row>),
    /// Each worker has rows; those with the same first value are duplicates.
    Distinct(fn(&Console) -> Vec<Row>),
    /// Sums over all workers.
    Sums(fn(&Console, &Snapshot) -> Vec<Row>),
}

impl Rows {
    /// The rows of the whole process.
    pub async fn fetch(self, console: &Console) -> Vec<Row> {
        match self {
            Self::Here(rows) => rows(console),
            Self::EachWorker(rows) => {
                console.at_all(move |console| ready(rows(&console))).await.into_iter().flatten().collect()
            }
            Self::Distinct(rows) => {
                let mut seen = std::collections::HashSet::new();
                let mut all: Vec<Row> = console
                    .at_all(move |console| ready(rows(&console)))
                    .await
                    .into_iter()
                    .flatten()
                    .collect();
                all.retain(|row| seen.insert(row.first().cloned()));
                all
            }
            Self::Sums(rows) => rows(console, &console.snapshot_of_all().await),
        }
    }
}

/// One command.
pub struct Command {
    /// Its words, in upper case, separated by single spaces.
    pub words: &'static str,
    /// Arguments, as shown in the help.
    pub arguments: &'static str,
    /// True if it is restricted to `admin_users`.
    pub admin_only: bool,
    /// Help text of one line.
    pub help: &'static str,
    /// What it does.
    pub run: Run,
}

const fn shows(words: &'static str, help: &'static str, columns: &'static [Column], rows: Rows) -> Command {
    Command { words, arguments: "", admin_only: false, help, run: Run::Rows(columns, rows) }
}

const fn acts(words: &'static str, arguments: &'static str, help: &'static str, action: Action) -> Command {
    Command { words, arguments, admin_only: true, help, run: Run::Action(action) }
}

/// Columns of SHOW CLIENTS and SHOW SERVERS.
const PEERS: &[Column] = &[
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int8),
];

const DATABASES: &[Column] = &[
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
];

const POOLS: &[Column] = &[
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
];

const TOKENS: &[Column] = &[
    ("endpoint", Text),
    ("user", Text),
    ("region", Text),
    ("identity", Text),
    ("arn", Text),
    ("provider", Text),
    ("access_key_id", Text),
    ("age", Int4),
    ("left", Int4),
    ("credentials_until", Text),
    ("refusals", Int8),
    ("logins_per_second", Int4),
    ("last_error", Text),
];

const SECRETS: &[Column] = &[
    ("secret", Text),
    ("identity", Text),
    ("user", Text),
    ("version", Text),
    ("age", Int4),
    ("previous_until", Text),
    ("reads", Int8),
    ("failed_reads", Int8),
    ("rotations", Int8),
    ("last_error", Text),
];

pub(super) const STATS: &[Column] = &[
    ("database", Text),
    ("total_server_assignment_count", Int8),
    ("total_xact_count", Int8),
    ("total_query_count", Int8),
    ("total_received", Int8),
    ("total_sent", Int8),
    ("total_xact_time", Int8),
    ("total_query_time", Int8),
    ("total_wait_time", Int8),
    ("total_client_parse_count", Int8),
    ("total_server_parse_count", Int8),
    ("total_bind_count", Int8),
    ("avg_server_assignment_count", Int8),
    ("avg_xact_count", Int8),
    ("avg_query_count", Int8),
    ("avg_recv", Int8),
    ("avg_sent", Int8),
    ("avg_xact_time", Int8),
    ("avg_query_time", Int8),
    ("avg_wait_time", Int8),
    ("avg_client_parse_count", Int8),
    ("avg_server_parse_count", Int8),
    ("avg_bind_count", Int8),
];

/// All commands. A longer command precedes a shorter one with the same prefix.
pub static COMMANDS: &[Command] = &[
    Command {
        words: "SHOW HELP",
        arguments: "",
        admin_only: false,
        help: "this list",
        run: Run::Notice(help_text),
    },
    shows("SHOW VERSION", "version of this program", &[("version", Text)], Here(show::version)),
    shows(
        "SHOW CONFIG",
        "settings in force",
        &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)],
        Here(show::config),
    ),
    shows("SHOW DATABASES", "databases that clients can connect to", DATABASES, Distinct(show::databases)),
    shows("SHOW POOLS", "pools with their clients and servers", POOLS, Sums(show::pools)),
    shows("SHOW CLIENTS", "client connections", PEERS, EachWorker(show_peers::clients)),
    shows("SHOW SERVERS", "server connections", PEERS, EachWorker(show_peers::servers)),
    shows("SHOW STATS", "totals and averages per database", STATS, Sums(show_stats::stats)),
    shows("SHOW LISTS", "numbers of internal objects", &[("list", Text), ("items", Int4)], Sums(show::lists)),
    shows("SHOW SECRETS", "secrets of AWS Secrets Manager", SECRETS, Here(show_secrets::secrets)),
    shows("SHOW TOKENS", "IAM tokens and the identities that sign them", TOKENS, Here(show_tokens::tokens)),
    shows("SHOW STATE", "active, paused, suspended", &[("key", Text), ("value", Text)], Here(show::state)),
    shows("SHOW CLIENT_ENCODING", "for drivers", &[("client_encoding", Text)], Here(show::client_encoding)),
    shows(
        "SHOW STANDARD_CONFORMING_STRINGS",
        "for drivers",
        &[("standard_conforming_strings", Text)],
        Here(show::standard_conforming_strings),
    ),
    shows("SHOW DATESTYLE", "for drivers", &[("DateStyle", Text)], Here(show::datestyle)),
    shows("SHOW TIMEZONE", "for drivers", &[("TimeZone", Text)], Here(show::timezone)),
    acts("SET", "key = value", "changes a setting until the next RELOAD", actions::set),
    acts("RELOAD", "", "reads the configuration again", actions::reload),
    acts("PAUSE", "[db]", "waits until servers are released, then holds clients", actions::pause),
    acts("RESUME", "[db]", "undoes PAUSE", actions::resume),
    acts("DISABLE", "db", "refuses new clients of a database", actions::disable),
    acts("ENABLE", "db", "undoes DISABLE", actions::enable),
    acts("RECONNECT", "[db]", "replaces server connections as they are released", actions::reconnect),
    acts("KILL_CLIENT", "id", "closes one client, by its id in SHOW CLIENTS", actions::kill_client),
    acts("KILL", "[db]", "closes all clients and servers of a database, and pauses it", actions::kill),
    acts("WAIT_CLOSE", "[db]", "waits until servers marked for closing are closed", actions::wait_close),
    acts(
        "SHUTDOWN",
        "[WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        "stops this process, at once or after a wait",
        actions::shutdown,
    ),
];

impl Command {
    /// Its line in the help and in the documentation.
    fn help_line(&self) -> String {
        let left = format!("{} {}", self.words, self.arguments);
        format!("{:<46} {}", left.trim_end(), self.help)
    }
}

fn help_text() -> String {
    COMMANDS.iter().fold(String::from("Console usage"), |text, command| text + "\n\t" + &command.help_line())
}

/// The command that a text matches, and the text after its words. `SELECT x` is an alias of `SHOW x`.
pub fn find(text: &str) -> Option<(&'static Command, String)> {
    let text = text.trim().trim_end_matches(';').trim_end();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut upper: Vec<String> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
    if upper.first().is_some_and(|word| word == "SELECT") {
        upper[0] = "SHOW".to_owned();
    }
    COMMANDS.iter().find_map(|command| {
        let wanted: Vec<&str> = command.words.split(' ').collect();
        // `SET key=value` and `SET key = value` are the same; only whole words match.
        let matches =
            upper.len() >= wanted.len() && upper.iter().zip(&wanted).all(|(have, want)| have == want);
        if !matches {
            return None;
        }
        // The text as written, including spaces in quotes.
        let rest = words.get(wanted.len()).map_or("", |word| &text[offset_in(text, word)..]).to_owned();
        let takes_arguments = !command.arguments.is_empty();
        (takes_arguments || rest.is_empty()).then_some((command, rest))
    })
}

/// The offset of a part of a text.
fn offset_in(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_any_case() {
        let words = |text: &str| find(text).map(|(command, rest)| (command.words, rest));
        assert_eq!(words("show pools;"), Some(("SHOW POOLS", String::new())));
        assert_eq!(words("  SELECT  version "), Some(("SHOW VERSION", String::new())));
        assert_eq!(words("pause \"App\""), Some(("PAUSE", "\"App\"".to_owned())));
        assert_eq!(
            words("SET pool_mode = 'transaction'"),
            Some(("SET", "pool_mode = 'transaction'".to_owned()))
        );
        assert_eq!(words("set  x = 'a;  b' ;"), Some(("SET", "x = 'a;  b'".to_owned())));
        assert_eq!(words("SHOW POOLS now"), None);
        assert_eq!(words("SHOW"), None);
        assert_eq!(words("DROP TABLE x"), None);
    }

    #[test]
    fn the_documentation_lists_every_command() {
        let page = include_str!("../../../../docs/console.md");
        for command in COMMANDS {
            assert!(page.contains(&command.help_line()), "docs/console.md lacks: {}", command.help_line());
        }
    }

    #[test]
    fn every_command_is_found_by_its_own_words() {
        for command in COMMANDS {
            let text = format!("{} {}", command.words, if command.arguments.is_empty() { "" } else { "x" });
            let found = find(&text).map(|(found, _)| found.words);
            assert_eq!(found, Some(command.words));
        }
    }
}
