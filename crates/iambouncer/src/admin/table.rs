//! The table of console commands. Owns their names, arguments and help; each row names the table that the command
//! shows, or the function that runs it.

use super::columns::ShowTable;
use super::console::Console;
use super::{
    actions, driver_parameters as driver, reconnect_clients, settings, show, show_connections as connections,
    show_databases, show_dns as dns, show_events as events, show_functions, show_memory, show_peers as peers,
    show_pins, show_problems, show_secrets, show_server_auth, show_settings, show_stats as stats,
    show_status, show_times as times, show_tokens, show_users, show_waiting, show_workers, words,
};
use crate::client_error::ClientError;
use std::pin::Pin;
use std::rc::Rc;

/// A command that changes something; receives the text after its words.
pub(super) type Action = fn(Rc<Console>, String) -> CommandOutcome;
/// The result of an action.
pub(super) type CommandOutcome = Pin<Box<dyn Future<Output = Result<(), ClientError>>>>;

/// What a command does.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// Shows rows.
    Rows(&'static dyn ShowTable),
    /// Sends a notice.
    Notice(fn() -> UsageNotice),
    /// Changes something.
    Action(Action),
    /// Changes a setting.
    Set(Action),
}

/// A notice: its message, and the lines below it.
pub(super) struct UsageNotice {
    pub(super) message: &'static str,
    pub(super) detail: String,
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
    /// True if its table is in the API, too.
    pub(super) is_in_api: bool,
    /// What it does.
    pub(super) run: Run,
}

const fn shows(words: &'static str, help: &'static str, table: &'static dyn ShowTable) -> Command {
    Command { words, arguments: "", admin_only: false, help, is_in_api: true, run: Run::Rows(table) }
}

const fn shows_to_drivers(words: &'static str, table: &'static dyn ShowTable) -> Command {
    Command { is_in_api: false, ..shows(words, "for drivers", table) }
}

const fn acts(words: &'static str, arguments: &'static str, help: &'static str, action: Action) -> Command {
    Command { words, arguments, admin_only: true, help, is_in_api: false, run: Run::Action(action) }
}

/// All commands.
pub static COMMANDS: &[Command] = &[
    Command {
        words: "SHOW HELP",
        arguments: "",
        admin_only: false,
        help: "this list",
        is_in_api: false,
        run: Run::Notice(help_text),
    },
    shows("SHOW VERSION", "version of this program", &show::VERSION),
    shows("SHOW CONFIG", "settings in force", &show::CONFIG),
    shows("SHOW DATABASES", "databases that clients can connect to", &show_databases::DATABASES),
    shows("SHOW POOLS", "pools with their clients and servers", &show::POOLS),
    shows("SHOW CLIENTS", "client connections", &connections::CLIENTS),
    shows("SHOW SERVERS", "server connections", &connections::SERVERS),
    shows("SHOW SOCKETS", "connections of both kinds", &connections::SOCKETS),
    shows("SHOW ACTIVE_SOCKETS", "those with a query under way", &connections::ACTIVE_SOCKETS),
    shows("SHOW USERS", "users, with their limits and connections", &show_users::USERS),
    shows("SHOW STATS", "totals and averages per database", &stats::STATS),
    shows("SHOW STATS_TOTALS", "totals per database", &stats::STATS_TOTALS),
    shows("SHOW STATS_AVERAGES", "averages per database", &stats::STATS_AVERAGES),
    shows("SHOW TOTALS", "totals and averages of all databases", &stats::TOTALS),
    shows("SHOW LISTS", "numbers of internal objects", &show::LISTS),
    shows("SHOW MEM", "memory of clients, servers and buffers", &show_memory::MemoryTable),
    shows("SHOW DNS_HOSTS", "host names of servers, with their addresses", &dns::HOSTS),
    shows("SHOW DNS_ZONES", "no rows: zones are not watched", &dns::ZONES),
    shows("SHOW PEERS", "other processes to which cancel requests are sent", &peers::PEERS),
    shows("SHOW PEER_POOLS", "cancel requests under way to them", &peers::PEER_POOLS),
    shows("SHOW SECRETS", "secrets of AWS Secrets Manager", &show_secrets::SECRETS),
    shows("SHOW TOKENS", "IAM tokens and the identities that sign them", &show_tokens::TOKENS),
    shows(
        "SHOW SERVER_AUTH",
        "servers with their identity and the age of their token",
        &show_server_auth::SERVER_AUTH,
    ),
    shows("SHOW PROBLEMS", "what is wrong now, and what to do", &show_problems::PROBLEMS),
    shows(
        "SHOW FUNCTIONS",
        "functions that change the session of the client that calls them",
        &show_functions::FUNCTIONS,
    ),
    shows("SHOW PINS", "clients that keep their server outside of transactions, and why", &show_pins::PINS),
    shows("SHOW WAITING", "clients that wait for a server, and why", &show_waiting::WAITING),
    shows("SHOW LATENCIES", "rates and percentiles of the last minute per database", &times::LATENCIES),
    shows("SHOW HISTORY", "the last five minutes of each pool", &times::HISTORY),
    shows("SHOW WORKERS", "threads that move bytes, with their load", &show_workers::WORKERS),
    shows("SHOW EVENTS", "the last notable events", &events::EVENTS),
    shows(
        "SHOW LOGIN_FAILURES",
        "the last failed login of each pool, its cause and remedy",
        &events::LOGIN_FAILURES,
    ),
    shows("SHOW SETTINGS", "settings in force, with their origin", &show_settings::SETTINGS),
    shows("SHOW STATE", "active, paused, suspended", &show::STATE),
    shows(
        "SHOW STATUS",
        "version, state, readiness, uptime and number of this process",
        &show_status::STATUS,
    ),
    shows_to_drivers("SHOW CLIENT_ENCODING", &driver::CLIENT_ENCODING),
    shows_to_drivers("SHOW DEFAULT_TRANSACTION_ISOLATION", &driver::DEFAULT_TRANSACTION_ISOLATION),
    shows_to_drivers("SHOW STANDARD_CONFORMING_STRINGS", &driver::STANDARD_CONFORMING_STRINGS),
    shows_to_drivers("SHOW DATESTYLE", &driver::DATESTYLE),
    shows_to_drivers("SHOW TIMEZONE", &driver::TIMEZONE),
    shows_to_drivers("SHOW EXTRA_FLOAT_DIGITS", &driver::EXTRA_FLOAT_DIGITS),
    Command {
        words: "SET",
        arguments: "key = value",
        // A stats user may set what is ignored.
        admin_only: false,
        help: "changes a setting until the next RELOAD",
        is_in_api: false,
        run: Run::Set(settings::set),
    },
    acts("RELOAD", "", "reads the configuration again", actions::reload),
    acts("PAUSE", "[db]", "waits until servers are released, then holds clients", actions::pause),
    acts("RESUME", "[db]", "undoes PAUSE, and KILL of the database", actions::resume),
    acts("DISABLE", "db", "refuses new clients of a database", actions::disable),
    acts("ENABLE", "db", "undoes DISABLE", actions::enable),
    acts("RECONNECT", "[db]", "replaces server connections as they are released", actions::reconnect),
    acts(
        "RECONNECT_CLIENTS",
        "[db] [seconds]",
        "closes the connected clients between transactions, spread over a period",
        reconnect_clients::reconnect_clients,
    ),
    acts("KILL_CLIENT", "id", "closes one client, by its id in SHOW CLIENTS", actions::kill_client),
    acts("KILL", "[db]", "closes all clients and servers of a database, and pauses it", actions::kill),
    acts("SUSPEND", "", "refused: part of PgBouncer's online restart", actions::suspend),
    acts("WAIT_CLOSE", "[db]", "waits until servers marked for closing are closed", actions::wait_close),
    acts("DRAIN", "", "closes clients between transactions, then stops this process", actions::drain),
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

fn help_text() -> UsageNotice {
    let lines = COMMANDS.iter().map(|command| format!("\n\t{}", command.help_line()));
    UsageNotice { message: "Console usage", detail: lines.collect() }
}

/// The command that a text matches, and its argument: one word without its quotes, or for SET and commands with several
/// arguments all that follows.
/// `SELECT x` is an alias of `SHOW x`.
pub fn find(text: &str) -> Option<(&'static Command, String)> {
    let text = text.trim().trim_end_matches(';').trim_end();
    let (first, mut rest) = words::take(text)?;
    let mut name = first.to_ascii_uppercase();
    if matches!(name.as_str(), "SHOW" | "SELECT") {
        let (what, after) = words::take(rest)?;
        (name, rest) = (format!("SHOW {}", what.to_ascii_uppercase()), after);
    }
    let command = COMMANDS.iter().find(|command| command.words == name)?;
    let argument = match command.run {
        Run::Set(_) => rest.trim().to_owned(),
        Run::Action(_) if command.arguments.contains(' ') => rest.trim().to_owned(),
        _ => words::at_most_one(rest)?,
    };
    let takes_one = !command.arguments.is_empty();
    (takes_one || argument.is_empty()).then_some((command, argument))
}

/// True for `SHOW FDS`, which would pass the sockets of all clients to the caller.
pub(super) fn is_show_fds(text: &str) -> bool {
    let text = text.trim().trim_end_matches(';');
    let Some((first, rest)) = words::take(text) else { return false };
    let is_show = first.eq_ignore_ascii_case("show") || first.eq_ignore_ascii_case("select");
    is_show && words::at_most_one(rest).is_some_and(|what| what.eq_ignore_ascii_case("fds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_any_case() {
        let words = |text: &str| find(text).map(|(command, rest)| (command.words, rest));
        assert_eq!(words("show pools;"), Some(("SHOW POOLS", String::new())));
        assert_eq!(words("  SELECT  version "), Some(("SHOW VERSION", String::new())));
        assert_eq!(words("pause \"App\""), Some(("PAUSE", "App".to_owned())));
        assert_eq!(words("\"show\" \"pools\""), Some(("SHOW POOLS", String::new())));
        assert_eq!(words("KILL_CLIENT '7' ;"), Some(("KILL_CLIENT", "7".to_owned())));
        assert_eq!(words("pause a b"), None);
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

    #[test]
    fn a_table_has_no_column_twice() {
        for command in COMMANDS {
            let Run::Rows(table) = command.run else { continue };
            let headers = table.headers();
            let names: std::collections::BTreeSet<_> = headers.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), headers.len(), "{}", command.words);
        }
    }
}
