//! The table of console commands. Owns their names, arguments and help; each row names the table that the command
//! shows, or the function that runs it.

use super::columns::ShowTable;
use super::console::Console;
use super::{actions, show, show_databases, show_peers, show_secrets, show_stats, show_tokens};
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
    Notice(fn() -> String),
    /// Changes something.
    Action(Action),
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
    pub(super) run: Run,
}

const fn shows(words: &'static str, help: &'static str, table: &'static dyn ShowTable) -> Command {
    Command { words, arguments: "", admin_only: false, help, run: Run::Rows(table) }
}

const fn acts(words: &'static str, arguments: &'static str, help: &'static str, action: Action) -> Command {
    Command { words, arguments, admin_only: true, help, run: Run::Action(action) }
}

/// All commands. A longer command precedes a shorter one with the same prefix.
pub static COMMANDS: &[Command] = &[
    Command {
        words: "SHOW HELP",
        arguments: "",
        admin_only: false,
        help: "this list",
        run: Run::Notice(help_text),
    },
    shows("SHOW VERSION", "version of this program", &show::VERSION),
    shows("SHOW CONFIG", "settings in force", &show::CONFIG),
    shows("SHOW DATABASES", "databases that clients can connect to", &show_databases::DATABASES),
    shows("SHOW POOLS", "pools with their clients and servers", &show::POOLS),
    shows("SHOW CLIENTS", "client connections", &show_peers::CLIENTS),
    shows("SHOW SERVERS", "server connections", &show_peers::SERVERS),
    shows("SHOW STATS", "totals and averages per database", &show_stats::StatsTable),
    shows("SHOW LISTS", "numbers of internal objects", &show::LISTS),
    shows("SHOW SECRETS", "secrets of AWS Secrets Manager", &show_secrets::SECRETS),
    shows("SHOW TOKENS", "IAM tokens and the identities that sign them", &show_tokens::TOKENS),
    shows("SHOW STATE", "active, paused, suspended", &show::STATE),
    shows("SHOW CLIENT_ENCODING", "for drivers", &show::CLIENT_ENCODING),
    shows("SHOW STANDARD_CONFORMING_STRINGS", "for drivers", &show::STANDARD_CONFORMING_STRINGS),
    shows("SHOW DATESTYLE", "for drivers", &show::DATESTYLE),
    shows("SHOW TIMEZONE", "for drivers", &show::TIMEZONE),
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
