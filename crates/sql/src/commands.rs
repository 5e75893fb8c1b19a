//! One statement: the commands that change a session, and calls of functions that do. Owns their forms.

use crate::changes::SessionChanges;
use crate::features::Feature;
use crate::token::{LexerSettings, SqlToken, Tokens};

/// The settings of SET SESSION CHARACTERISTICS.
const CHARACTERISTICS: [&str; 3] =
    ["default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"];
/// What SET SESSION AUTHORIZATION changes.
const AUTHORIZATION: [&str; 2] = ["session_authorization", "role"];
/// Settings that decide how the next texts are read.
const READING: [&str; 2] = ["client_encoding", "standard_conforming_strings"];
/// Longest name of a setting; PostgreSQL has none that long.
const MAX_NAME_BYTES: usize = 128;
/// Words of a DO block without which it changes nothing of its session.
const WORDS_OF_CODE: [&str; 10] = [
    "set",
    "reset",
    "set_config",
    "execute",
    "listen",
    "unlisten",
    "prepare",
    "deallocate",
    "discard",
    "load",
];

/// Adds what one statement may change. `text` can be read, since it was split already.
pub(crate) fn add(changes: &mut SessionChanges, text: &[u8]) {
    let mut tokens = Reader(Tokens::new(text, LexerSettings::DEFAULT));
    if let Some(SqlToken::Word(word)) = tokens.peek() {
        tokens.next();
        add_command(changes, word, &mut tokens);
    }
    add_calls(changes, Reader(Tokens::new(text, LexerSettings::DEFAULT)));
}

/// The tokens of a statement that can be read.
#[derive(Clone)]
struct Reader<'a>(Tokens<'a>);

impl<'a> Iterator for Reader<'a> {
    type Item = SqlToken<'a>;

    fn next(&mut self) -> Option<SqlToken<'a>> {
        self.0.next_token().ok().flatten()
    }
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<SqlToken<'a>> {
        self.clone().next()
    }

    /// Passes this word, if it is next.
    fn passes(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), Some(SqlToken::Word(next)) if is(next, word));
        if is_next {
            self.next();
        }
        is_next
    }

    /// A name, possibly with dots, in lower case. Names of settings do not depend on case, even in quotes.
    fn setting_name(&mut self) -> Option<String> {
        let mut name = String::new();
        loop {
            match self.next()? {
                SqlToken::Word(part) | SqlToken::QuotedName(part) => {
                    name.push_str(&String::from_utf8_lossy(part).to_ascii_lowercase());
                }
                _ => return None,
            }
            match self.peek() {
                Some(SqlToken::Symbol(b'.')) => {
                    self.next();
                    name.push('.');
                }
                _ => return (name.len() <= MAX_NAME_BYTES).then_some(name),
            }
        }
    }
}

fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// True if the text of a token contains this, ignoring case.
fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

fn add_command(changes: &mut SessionChanges, word: &[u8], tokens: &mut Reader<'_>) {
    let mut lower = [0; 10];
    let Some(keyword) = lower.get_mut(..word.len()) else { return };
    keyword.copy_from_slice(word);
    keyword.make_ascii_lowercase();
    match &*keyword {
        b"set" => add_set(changes, tokens),
        b"reset" => add_reset(changes, tokens),
        b"discard" => add_discard(changes, tokens),
        b"deallocate" => changes.ends.insert(Feature::SqlPrepared),
        b"close" => changes.ends.insert(Feature::HoldableCursor),
        b"drop" => changes.ends.insert(Feature::TemporaryObject),
        b"listen" => changes.begins.insert(Feature::Listen),
        b"unlisten" => changes.ends.insert(Feature::Listen),
        b"prepare" if !tokens.passes("transaction") => changes.begins.insert(Feature::SqlPrepared),
        b"declare" => {
            while let Some(token) = tokens.next() {
                if matches!(token, SqlToken::Word(word) if is(word, "with")) && tokens.passes("hold") {
                    changes.begins.insert(Feature::HoldableCursor);
                }
            }
        }
        b"copy" => changes.has_copy = true,
        b"create" => add_create(changes, tokens),
        b"load" => changes.begins.insert(Feature::LoadedLibrary),
        b"call" => changes.begins.insert(Feature::UnknownCode),
        b"do" if !is_harmless_code(tokens) => changes.begins.insert(Feature::UnknownCode),
        _ => {}
    }
}

/// DISCARD ALL, TEMP and TEMPORARY.
fn add_discard(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    if tokens.passes("all") {
        for feature in Feature::ALL {
            changes.ends.insert(feature);
        }
    } else if tokens.passes("temp") || tokens.passes("temporary") {
        changes.ends.insert(Feature::TemporaryObject);
    }
}

/// CREATE [OR REPLACE] [GLOBAL | LOCAL] TEMP …: the words before the kind of object.
fn add_create(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    for token in tokens.take(5) {
        let SqlToken::Word(word) = token else { return };
        if is(word, "temp") || is(word, "temporary") {
            return changes.begins.insert(Feature::TemporaryObject);
        }
        if !["or", "replace", "global", "local", "unlogged"].iter().any(|known| is(word, known)) {
            return;
        }
    }
}

fn add_set(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    changes.has_set = true;
    let is_local = tokens.passes("local");
    if !is_local && tokens.passes("session") {
        if tokens.passes("authorization") {
            AUTHORIZATION.iter().for_each(|name| changes.add_setting(name));
            return;
        }
        if tokens.passes("characteristics") {
            CHARACTERISTICS.iter().for_each(|name| changes.add_setting(name));
            return;
        }
    }
    if tokens.passes("constraints") || tokens.passes("transaction") {
        return;
    }
    let name = if tokens.passes("time") {
        tokens.passes("zone");
        Some("timezone".to_owned())
    } else if tokens.passes("names") {
        Some("client_encoding".to_owned())
    } else if tokens.passes("schema") {
        Some("search_path".to_owned())
    } else if tokens.passes("xml") {
        tokens.passes("option");
        Some("xmloption".to_owned())
    } else if tokens.passes("seed") {
        return changes.begins.insert(Feature::RandomSeed);
    } else {
        tokens.setting_name()
    };
    let Some(name) = name else { return changes.begins.insert(Feature::ComputedSetting) };
    check_value(changes, &name, tokens.clone());
    if is_local {
        return;
    }
    if !tokens.passes("to") && tokens.peek() == Some(SqlToken::Symbol(b'=')) {
        tokens.next();
    }
    if tokens.passes("default") || name == "timezone" && tokens.passes("local") {
        changes.add_reset(&name);
    } else {
        changes.add_setting(&name);
    }
}

/// Values that make the following texts unreadable, or temporary objects of ordinary statements.
fn check_value<'a>(changes: &mut SessionChanges, name: &str, tokens: impl IntoIterator<Item = SqlToken<'a>>) {
    for token in tokens {
        let value = match token {
            SqlToken::Word(text)
            | SqlToken::QuotedName(text)
            | SqlToken::String(text)
            | SqlToken::Number(text) => text,
            SqlToken::EscapedString(_) | SqlToken::EscapedName(_) | SqlToken::DollarString(_) => b"?",
            _ => continue,
        };
        match name {
            _ if is(value, "to") || is(value, "default") => {}
            "search_path" if value == b"?" || contains(value, "pg_temp") => {
                changes.begins.insert(Feature::TemporarySchema);
            }
            "standard_conforming_strings"
                if !["on", "true", "yes", "1"].iter().any(|known| is(value, known)) =>
            {
                changes.begins.insert(Feature::UnreadableText);
            }
            "client_encoding" if !has_plain_characters(value) => {
                changes.begins.insert(Feature::UnreadableText);
            }
            _ => {}
        }
    }
}

/// True for encodings in which a byte below 0x80 is always a character.
fn has_plain_characters(encoding: &[u8]) -> bool {
    let name: String =
        encoding.iter().filter(|byte| byte.is_ascii_alphanumeric()).map(|byte| char::from(*byte)).collect();
    !name.is_empty() && !LexerSettings::has_ascii_in_characters(&name)
}

fn add_reset(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    changes.has_set = true;
    if tokens.passes("all") {
        changes.add_reset_all();
    } else if tokens.passes("session") {
        AUTHORIZATION.iter().for_each(|name| changes.add_reset(name));
    } else if tokens.passes("time") {
        changes.add_reset("timezone");
    } else if !tokens.passes("transaction") {
        match tokens.setting_name() {
            Some(name) => changes.add_reset(&name),
            None => changes.begins.insert(Feature::ComputedSetting),
        }
    }
}

/// True for the rest of a DO statement whose code is in PL/pgSQL and contains no command that changes the session.
/// What functions do that it calls is not known, as in other statements.
fn is_harmless_code(tokens: &mut Reader<'_>) -> bool {
    let mut is_harmless = true;
    while let Some(token) = tokens.next() {
        match token {
            SqlToken::DollarString(code) | SqlToken::String(code) => {
                is_harmless &= has_no_command(code);
            }
            SqlToken::Word(word) if is(word, "language") => {
                is_harmless &= matches!(tokens.next(), Some(SqlToken::Word(name)) if is(name, "plpgsql"));
            }
            _ => is_harmless = false,
        }
    }
    is_harmless
}

fn has_no_command(code: &[u8]) -> bool {
    let mut tokens = Tokens::new(code, LexerSettings::DEFAULT);
    loop {
        match tokens.next_token() {
            Ok(None) => return true,
            Ok(Some(SqlToken::Word(word) | SqlToken::QuotedName(word)))
                if WORDS_OF_CODE.iter().any(|known| is(word, known))
                    || contains(word, "temp")
                    || function(word) != Function::Other =>
            {
                return false;
            }
            Err(_) | Ok(Some(SqlToken::EscapedName(_))) => return false,
            Ok(Some(_)) => {}
        }
    }
}

/// Functions that change a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Other,
    SetConfig,
    SetLimit,
    Begins(Feature),
    Ends(Feature),
}

fn function(name: &[u8]) -> Function {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    match name.as_str() {
        "set_config" => Function::SetConfig,
        "set_limit" => Function::SetLimit,
        "lastval" | "currval" => Function::Begins(Feature::SequenceValue),
        "setseed" => Function::Begins(Feature::RandomSeed),
        "dblink_connect" | "dblink_connect_u" => Function::Begins(Feature::RemoteConnection),
        "pg_create_logical_replication_slot"
        | "pg_create_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_replication_origin_session_setup" => Function::Begins(Feature::ReplicationSlot),
        name if name.contains("advisory") && name.contains("xact") => Function::Other,
        name if name.starts_with("pg_advisory_unlock") => Function::Ends(Feature::AdvisoryLock),
        name if name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") => {
            Function::Begins(Feature::AdvisoryLock)
        }
        _ => Function::Other,
    }
}

/// Adds calls of functions, SELECT INTO TEMP, and objects in pg_temp.
fn add_calls(changes: &mut SessionChanges, mut tokens: Reader<'_>) {
    let mut is_after_into = false;
    while let Some(token) = tokens.next() {
        let was_after_into = std::mem::take(&mut is_after_into);
        match token {
            SqlToken::Word(name) | SqlToken::QuotedName(name) => {
                is_after_into =
                    is(name, "into") || was_after_into && (is(name, "local") || is(name, "global"));
                if was_after_into && (is(name, "temp") || is(name, "temporary")) || starts_temporary(name) {
                    changes.begins.insert(Feature::TemporaryObject);
                }
                match function(name) {
                    Function::Other => {}
                    Function::SetConfig => add_set_config(changes, tokens.clone()),
                    Function::SetLimit => changes.add_setting("pg_trgm.similarity_threshold"),
                    Function::Begins(feature) => changes.begins.insert(feature),
                    Function::Ends(feature) => changes.ends.insert(feature),
                }
            }
            // It may be any name.
            SqlToken::EscapedName(_) => changes.begins.insert(Feature::UnreadableText),
            _ => {}
        }
    }
}

fn starts_temporary(name: &[u8]) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case(b"pg_temp"))
}

/// `set_config('name', value, is_local)`, behind the name of the function.
fn add_set_config(changes: &mut SessionChanges, mut tokens: Reader<'_>) {
    if tokens.next() != Some(SqlToken::Symbol(b'(')) {
        return;
    }
    let name = tokens.next();
    let (Some(SqlToken::String(name)), Some(SqlToken::Symbol(b','))) = (name, tokens.next()) else {
        return changes.begins.insert(Feature::ComputedSetting);
    };
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if name.len() > MAX_NAME_BYTES || name.contains('\'') {
        return changes.begins.insert(Feature::ComputedSetting);
    }
    let (value, is_local) = rest_of_set_config(tokens);
    match value {
        Some(value) => check_value(changes, &name, std::iter::once(value)),
        // It may be any value.
        None if name == "search_path" => changes.begins.insert(Feature::TemporarySchema),
        None if READING.contains(&name.as_str()) => changes.begins.insert(Feature::UnreadableText),
        None => {}
    }
    if !is_local {
        changes.add_setting(&name);
    }
}

/// The second argument of `set_config`, if it is a plain string, and whether the third one is `true`.
fn rest_of_set_config<'a>(tokens: Reader<'a>) -> (Option<SqlToken<'a>>, bool) {
    let (mut depth, mut argument) = (0_u32, 0_usize);
    // The first token of each argument, and how many it has.
    let mut arguments = [(None, 0); 2];
    for token in tokens {
        match token {
            SqlToken::Symbol(b')') if depth == 0 => break,
            SqlToken::Symbol(b',') if depth == 0 => argument += 1,
            _ => {
                match token {
                    SqlToken::Symbol(b'(' | b'[') => depth += 1,
                    SqlToken::Symbol(b')' | b']') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                if let Some((first, count)) = arguments.get_mut(argument) {
                    first.get_or_insert(token);
                    *count += 1;
                }
            }
        }
    }
    let alone = |(first, count): (Option<SqlToken<'a>>, i32)| first.filter(|_| count == 1);
    let value = alone(arguments[0]).filter(|token| matches!(token, SqlToken::String(_)));
    let is_local = matches!(alone(arguments[1]), Some(SqlToken::Word(word)) if is(word, "true"));
    (value, is_local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Features;

    fn changes(text: &str) -> SessionChanges {
        SessionChanges::of(text.as_bytes()).map(|changes| *changes).unwrap_or_default()
    }

    fn settings(text: &str) -> Vec<String> {
        changes(text).settings.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn set_names_its_setting() {
        for (text, names) in [
            ("SET work_mem = '1MB'", &["work_mem"][..]),
            ("set session WORK_MEM to 1", &["work_mem"]),
            ("SET \"App\".tenant = 'a'", &["app.tenant"]),
            ("SET TIME ZONE 'UTC'", &["timezone"]),
            ("SET NAMES 'utf8'", &["client_encoding"]),
            ("SET SCHEMA 'a'", &["search_path"]),
            ("SET ROLE a", &["role"]),
            ("SET SESSION AUTHORIZATION a", &["session_authorization", "role"]),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", &CHARACTERISTICS),
            ("SET XML OPTION DOCUMENT", &["xmloption"]),
            ("SET LOCAL work_mem = 1", &[]),
            ("SET TRANSACTION READ ONLY", &[]),
            ("SET CONSTRAINTS ALL DEFERRED", &[]),
            ("BEGIN; SET a.b = 1; RESET a.c; COMMIT", &["a.b", "a.c"]),
            ("/* SET a.b = 1; */ SELECT 'SET a.c = 1;'", &[]),
        ] {
            assert_eq!(settings(text), names, "{text}");
            assert_eq!(changes(text).begins, Features::NONE, "{text}");
        }
    }

    #[test]
    fn a_reset_is_a_setting_that_returns() {
        for text in ["RESET work_mem", "SET work_mem TO DEFAULT", "set work_mem=default"] {
            assert_eq!(changes(text).resets, ["work_mem".into()], "{text}");
        }
        assert!(changes("RESET ALL").resets_all && changes("SET a.b = 1").resets.is_empty());
        assert!(changes("RESET a.b; SET a.b = 1").resets.is_empty());
        assert_eq!(changes("RESET ALL; SET a.b = 1").set_after_reset, ["a.b".into()]);
        assert!(changes("SET a.b = 1; RESET ALL").set_after_reset.is_empty());
        assert_eq!(settings("RESET SESSION AUTHORIZATION"), AUTHORIZATION);
        assert_eq!(changes("SET TIME ZONE LOCAL").resets, ["timezone".into()]);
    }

    #[test]
    fn set_config_names_its_setting_unless_it_is_local() {
        for (text, names) in [
            ("SELECT set_config('App.tenant', $1, false)", &["app.tenant"][..]),
            ("SELECT pg_catalog.set_config('search_path', '', false)", &["search_path"]),
            ("SELECT set_config('a.b', f(1, 2), true)", &[]),
            ("SELECT set_config('a.b', 'c', $1)", &["a.b"]),
            ("WITH x AS (SELECT \"set_config\"('a.b', 'c', false)) SELECT 1", &["a.b"]),
        ] {
            assert_eq!(settings(text), names, "{text}");
            assert_eq!(changes(text).begins, Features::NONE, "{text}");
        }
    }

    #[test]
    fn state_of_one_server_is_recognized() {
        use Feature::*;
        for (text, feature) in [
            ("CREATE TEMP TABLE t (a int)", TemporaryObject),
            ("create local temporary table t (a int)", TemporaryObject),
            ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", TemporaryObject),
            ("SELECT 1 INTO TEMPORARY t", TemporaryObject),
            ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", TemporaryObject),
            ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1", HoldableCursor),
            ("SELECT pg_advisory_lock(1)", AdvisoryLock),
            ("SELECT pg_try_advisory_lock_shared(1)", AdvisoryLock),
            ("LISTEN a", Listen),
            ("PREPARE p AS SELECT 1", SqlPrepared),
            ("SELECT lastval()", SequenceValue),
            ("SELECT setseed(0.5)", RandomSeed),
            ("SET SEED TO 0.5", RandomSeed),
            ("LOAD 'auto_explain'", LoadedLibrary),
            ("SELECT dblink_connect('a', 'b')", RemoteConnection),
            ("SELECT pg_create_logical_replication_slot('a', 'b', true)", ReplicationSlot),
            ("SET search_path = pg_temp, public", TemporarySchema),
            ("SELECT set_config('search_path', $1, false)", TemporarySchema),
            ("SELECT set_config($1, $2, false)", ComputedSetting),
            ("SELECT set_config('a' || 'b', '', false)", ComputedSetting),
            ("CALL f()", UnknownCode),
            ("DO $$ BEGIN EXECUTE 'SET a.b = 1'; END $$", UnknownCode),
            ("DO LANGUAGE plpython3u $$ pass $$", UnknownCode),
            ("SET standard_conforming_strings = off", UnreadableText),
            ("SET LOCAL client_encoding = 'SJIS'", UnreadableText),
            ("SELECT set_config('client_encoding', $1, true)", UnreadableText),
            ("SELECT U&\"set\\005fconfig\"('a.b', 'c', false)", UnreadableText),
        ] {
            assert!(changes(text).begins.contains(feature), "{text}: {:?}", changes(text));
        }
    }

    #[test]
    fn other_statements_change_nothing() {
        for text in [
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT temp FROM sensors",
            "INSERT INTO temperature VALUES (1)",
            "PREPARE TRANSACTION 'a'",
            "DO $$ BEGIN PERFORM 1; END $$",
            "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('a.b', 'c', false); END $$",
            "COPY t FROM STDIN",
            "SELECT 'unterminated; SET a.b = 1",
        ] {
            assert_eq!(changes(text), SessionChanges::default(), "{text}");
        }
        assert!(changes("SET client_encoding = 'UTF8'").begins.is_empty());
        assert!(changes("SET standard_conforming_strings TO on").begins.is_empty());
    }

    #[test]
    fn what_may_end_is_recognized() {
        use Feature::*;
        for (text, feature) in [
            ("UNLISTEN *", Listen),
            ("DEALLOCATE p", SqlPrepared),
            ("CLOSE c", HoldableCursor),
            ("DROP TABLE t", TemporaryObject),
            ("DISCARD TEMP", TemporaryObject),
            ("DISCARD ALL", UnknownCode),
            ("SELECT pg_advisory_unlock(1)", AdvisoryLock),
        ] {
            assert!(changes(text).ends.contains(feature), "{text}");
        }
    }
}
