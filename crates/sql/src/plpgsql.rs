//! Code in PL/pgSQL, of functions and of DO: where its statements begin, and which of its strings EXECUTE may run. Owns the
//! difference between such a string and text for people; what a statement changes is decided as elsewhere.

use crate::calls::add_calls;
use crate::changes::SessionChanges;
use crate::commands::add_command;
use crate::features::Feature;
use crate::reader::{Reader, is, is_any, is_keyword};
use crate::token::{LexerSettings, SqlToken, Tokens};

/// How code is judged that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// It changes nothing, unless its words suggest otherwise.
    Harmless,
    /// It may change anything.
    Opaque,
}

/// Commands of PL/pgSQL and of dynamic SQL that change a session.
const COMMANDS: [&str; 10] =
    ["set", "reset", "discard", "listen", "unlisten", "load", "deallocate", "prepare", "drop", "do"];
/// Words of PL/pgSQL behind which a statement begins.
const BEFORE_STATEMENT: [&str; 4] = ["begin", "then", "else", "loop"];
/// Settings that are set by their name alone, in a source that also contains UPDATE … SET.
const KNOWN_SETTINGS: [&str; 10] = [
    "client_encoding",
    "datestyle",
    "lock_timeout",
    "role",
    "row_security",
    "search_path",
    "session_authorization",
    "statement_timeout",
    "timezone",
    "work_mem",
];

/// Code reports no reset: what it resets may have any value afterwards.
pub(crate) fn without_resets(changes: SessionChanges) -> SessionChanges {
    let mut begins = changes.begins;
    if changes.resets_all {
        begins.insert(Feature::UnknownCode);
    }
    SessionChanges { settings: changes.settings, begins, ends: changes.ends, ..SessionChanges::default() }
}

/// Adds what a DO block in PL/pgSQL may change. Strings that it runs may be anything.
pub(crate) fn add_block(changes: &mut SessionChanges, source: &[u8]) {
    let mut of_block = SessionChanges::default();
    add_plpgsql(&mut of_block, source, Doubt::Opaque);
    changes.add(&without_resets(of_block));
}

/// A source in PL/pgSQL: its own statements, and the strings that EXECUTE may run.
pub(crate) fn add_plpgsql(changes: &mut SessionChanges, source: &[u8], doubt: Doubt) {
    add_calls(changes, Reader::new(source));
    let mut tokens = Tokens::new(source, LexerSettings::DEFAULT);
    let (mut command, mut begins, mut executes) = (None, true, false);
    let mut before = None;
    loop {
        let (token, place) = match tokens.next_with_place() {
            Ok(Some(next)) => next,
            Ok(None) => break,
            Err(_) => {
                changes.begins.insert(Feature::UnknownCode);
                break;
            }
        };
        if command.is_none() && begins && is_keyword(token, &COMMANDS) {
            command = Some(place.start);
        }
        executes |= is_keyword(token, &["execute"]);
        if token == SqlToken::Symbol(b';')
            && let Some(start) = command.take()
        {
            add_one_command(changes, &source[start..place.start]);
        }
        begins = match token {
            SqlToken::Symbol(b';') => true,
            // The end of a label, <<name>>.
            SqlToken::Symbol(b'>') => before == Some(SqlToken::Symbol(b'>')),
            token => is_keyword(token, &BEFORE_STATEMENT),
        };
        before = Some(token);
    }
    if executes {
        if doubt == Doubt::Opaque {
            changes.begins.insert(Feature::UnknownCode);
        }
        add_dynamic(changes, source);
    }
}

/// A statement that begins with the name of a command, unless it is an assignment to a variable of that name.
fn add_one_command(changes: &mut SessionChanges, text: &[u8]) {
    let mut tokens = Reader::new(text);
    let Some(SqlToken::Word(word)) = tokens.next() else { return };
    if matches!(tokens.peek(), Some(SqlToken::Symbol(b':' | b'=' | b'.' | b'['))) {
        return;
    }
    add_command(changes, word, &mut tokens);
}

/// The strings of a source that runs strings.
fn add_dynamic(changes: &mut SessionChanges, source: &[u8]) {
    let mut updates = false;
    for_each_string(source, |text, _| {
        updates |= Reader::new(text).any(|token| is_keyword(token, &["update"]));
    });
    for_each_string(source, |text, place| {
        add_calls(changes, Reader::new(text));
        for (at, statement) in text.split(|byte| *byte == b';').enumerate() {
            if at > 0 || place != StringPlace::Continued {
                add_dynamic_command(changes, statement, updates && place != StringPlace::Executed);
            }
        }
    });
}

/// Where a string is in a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StringPlace {
    /// Behind `EXECUTE`, or `EXECUTE format(`: a statement begins with it.
    Executed,
    /// Behind `||`.
    Continued,
    Elsewhere,
}

/// Passes the strings of a source in PL/pgSQL that may be run, and where they are. Messages of RAISE and ASSERT are not
/// run.
pub(crate) fn for_each_string(source: &[u8], mut each: impl FnMut(&[u8], StringPlace)) {
    let (mut place, mut is_message) = (StringPlace::Elsewhere, false);
    for token in Reader::new(source) {
        let text = match token {
            SqlToken::String(text) => String::from_utf8_lossy(text).replace("''", "'").into_bytes(),
            SqlToken::EscapedString(text) => {
                let text = String::from_utf8_lossy(text).replace("''", "'");
                text.replace("\\n", " ").replace("\\t", " ").replace("\\r", " ").into_bytes()
            }
            SqlToken::DollarString(text) => text.to_vec(),
            _ => {
                place = match token {
                    SqlToken::Symbol(b'|') => StringPlace::Continued,
                    SqlToken::Word(word) if is(word, "execute") => StringPlace::Executed,
                    SqlToken::Word(_) | SqlToken::Symbol(b'(') if place == StringPlace::Executed => place,
                    _ => StringPlace::Elsewhere,
                };
                is_message = match token {
                    SqlToken::Symbol(b';') => false,
                    token => is_message || is_keyword(token, &["raise", "assert"]),
                };
                continue;
            }
        };
        if !is_message {
            each(&text, place);
        }
        place = StringPlace::Elsewhere;
    }
}

/// A part of a string that may be the beginning of a statement; `updates` if one of the strings contains UPDATE, whose
/// SET may be this one. What only looks like a command is text for people.
fn add_dynamic_command(changes: &mut SessionChanges, text: &[u8], updates: bool) {
    let mut tokens = Reader::new(text);
    let Some(SqlToken::Word(word)) = tokens.next() else { return };
    let rest: Vec<SqlToken<'_>> = tokens.clone().take(8).collect();
    let begins_code = match rest.first() {
        Some(SqlToken::String(_) | SqlToken::DollarString(_)) => true,
        Some(SqlToken::Word(next)) => is(next, "language"),
        _ => false,
    };
    if is(word, "do") && begins_code || is(word, "call") && rest.contains(&SqlToken::Symbol(b'(')) {
        return changes.begins.insert(Feature::UnknownCode);
    }
    let is_words = is(word, "do") || is(word, "call") || is(word, "load") && !begins_code && !rest.is_empty();
    if is_words {
        return;
    }
    let sets = is(word, "set");
    if sets && !is_set_command(&rest, updates) || !is_any(word, &COMMANDS) && !is(word, "declare") {
        return;
    }
    let mut of_command = SessionChanges::default();
    add_command(&mut of_command, word, &mut tokens);
    let has_value = is_assigned(&rest);
    if sets && !of_command.settings.is_empty() && !has_value && !names_no_value(&rest) {
        of_command.begins.insert(Feature::ComputedSetting);
    }
    changes.add(&of_command);
}

fn is_assigned(rest: &[SqlToken<'_>]) -> bool {
    rest.iter().any(|token| *token == SqlToken::Symbol(b'=') || is_keyword(*token, &["to"]))
}

/// True for SET ROLE, SET SESSION AUTHORIZATION, SET TIME ZONE and others without `=`.
fn names_no_value(rest: &[SqlToken<'_>]) -> bool {
    let of_command = ["role", "session", "time", "names", "schema", "xml", "local"];
    rest.first().is_some_and(|first| is_keyword(*first, &of_command))
}

/// True if what follows SET may be a setting, as opposed to a column or words.
fn is_set_command(rest: &[SqlToken<'_>], updates: bool) -> bool {
    match rest {
        // The name is computed.
        [] | [SqlToken::Symbol(b'%'), ..] => !updates,
        [SqlToken::Word(_) | SqlToken::QuotedName(_), SqlToken::Symbol(b'.'), ..] => true,
        [SqlToken::Word(name) | SqlToken::QuotedName(name), ..] if names_no_value(rest) => {
            !updates || !is(name, "names")
        }
        [SqlToken::Word(name) | SqlToken::QuotedName(name), ..] => {
            is_assigned(rest) && !updates || is_any(name, &KNOWN_SETTINGS)
        }
        _ => false,
    }
}
