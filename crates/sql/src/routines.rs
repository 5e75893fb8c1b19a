//! Functions and procedures of a database: what their sources may change in the session that calls them. Owns where
//! statements begin in a source, and which strings of it are run as statements; what a statement changes is decided as
//! elsewhere.

use crate::calls::add_calls;
use crate::changes::{MAX_TEXT_BYTES, SessionChanges};
use crate::commands::add_command;
use crate::features::{Feature, Features};
use crate::names::ChangingNames;
use crate::reader::{Reader, contains, is};
use crate::token::{LexerSettings, SqlToken, Tokens};

/// The language of a routine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// SQL.
    Sql,
    /// PL/pgSQL.
    PlPgSql,
    /// Another one, whose source cannot be read.
    Other,
}

impl Language {
    /// The language with this name in `pg_language`.
    pub fn of(name: &str) -> Self {
        match name {
            "sql" => Self::Sql,
            "plpgsql" => Self::PlPgSql,
            _ => Self::Other,
        }
    }
}

/// A function or procedure of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routine {
    /// Its language.
    pub language: Language,
    /// Its source.
    pub source: Box<str>,
}

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
/// Words in the source of another language that suggest that it changes its session. Lower case.
const SUSPICIOUS: [&str; 9] = [
    "set_config",
    "create temp",
    "advisory_lock",
    "lastval",
    "currval",
    "setseed",
    "dblink_connect",
    "with hold",
    "replication_origin_session",
];

impl Routine {
    /// What a call may change without the names of the database.
    pub fn own_changes(&self, doubt: Doubt) -> SessionChanges {
        let source = self.source.as_bytes();
        let mut changes = SessionChanges::default();
        if source.len() > MAX_TEXT_BYTES {
            changes.begins.insert(Feature::UnknownCode);
            return changes;
        }
        match self.language {
            Language::Sql => {
                if let Some(of_text) = SessionChanges::read(source) {
                    changes.add(&of_text);
                }
            }
            Language::PlPgSql => add_plpgsql(&mut changes, source, doubt),
            Language::Other => {
                if doubt == Doubt::Opaque || is_suspicious(source) {
                    changes.begins.insert(Feature::UnknownCode);
                }
            }
        }
        changes = without_resets(changes);
        if uses_own_sequences(source) {
            changes.begins = changes.begins.without(Features::of(&[Feature::SequenceValue]));
        }
        changes
    }

    /// What a call may change by using these names.
    pub fn changes_by(&self, names: &ChangingNames) -> SessionChanges {
        let source = self.source.as_bytes();
        let mut changes = SessionChanges::default();
        if !names.may_occur_in(source) {
            return changes;
        }
        names.add_uses(&mut changes, source);
        if self.language == Language::PlPgSql && contains(source, "execute") {
            for_each_string(source, |text, _| names.add_uses(&mut changes, text));
        }
        changes
    }
}

/// True if a source advances sequences itself, or is that of a trigger, which asks for what its statement has advanced: no
/// value of another statement is asked for.
fn uses_own_sequences(source: &[u8]) -> bool {
    Reader::new(source).any(|token| {
        matches!(token, SqlToken::Word(word) if ["insert", "nextval", "new"].iter().any(|known| is(word, known)))
    })
}

/// Code reports no reset: what it resets may have any value afterwards.
fn without_resets(changes: SessionChanges) -> SessionChanges {
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
fn add_plpgsql(changes: &mut SessionChanges, source: &[u8], doubt: Doubt) {
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
        if command.is_none() && begins && matches!(token, SqlToken::Word(word) if is_command(word)) {
            command = Some(place.start);
        }
        executes |= matches!(token, SqlToken::Word(word) if is(word, "execute"));
        if token == SqlToken::Symbol(b';')
            && let Some(start) = command.take()
        {
            add_one_command(changes, &source[start..place.start]);
        }
        begins = match token {
            SqlToken::Symbol(b';') => true,
            // The end of a label, <<name>>.
            SqlToken::Symbol(b'>') => before == Some(SqlToken::Symbol(b'>')),
            SqlToken::Word(word) => BEFORE_STATEMENT.iter().any(|known| is(word, known)),
            _ => false,
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

fn is_command(word: &[u8]) -> bool {
    COMMANDS.iter().any(|known| is(word, known))
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
        updates |= Reader::new(text).any(|token| matches!(token, SqlToken::Word(word) if is(word, "update")));
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
enum StringPlace {
    /// Behind `EXECUTE`, or `EXECUTE format(`: a statement begins with it.
    Executed,
    /// Behind `||`.
    Continued,
    Elsewhere,
}

/// Passes the strings of a source in PL/pgSQL that may be run, and where they are. Messages of RAISE and ASSERT are not
/// run.
fn for_each_string(source: &[u8], mut each: impl FnMut(&[u8], StringPlace)) {
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
                    SqlToken::Word(word) => is_message || is(word, "raise") || is(word, "assert"),
                    SqlToken::Symbol(b';') => false,
                    _ => is_message,
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
    if sets && !is_set_command(&rest, updates) || !is_command(word) && !is(word, "declare") {
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
    rest.iter().any(|token| {
        *token == SqlToken::Symbol(b'=') || matches!(token, SqlToken::Word(word) if is(word, "to"))
    })
}

/// True for SET ROLE, SET SESSION AUTHORIZATION, SET TIME ZONE and others without `=`.
fn names_no_value(rest: &[SqlToken<'_>]) -> bool {
    let of_command = ["role", "session", "time", "names", "schema", "xml", "local"];
    matches!(rest.first(), Some(SqlToken::Word(word)) if of_command.iter().any(|known| is(word, known)))
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
            is_assigned(rest) && (!updates || KNOWN_SETTINGS.iter().any(|known| is(name, known)))
                || KNOWN_SETTINGS.iter().any(|known| is(name, known))
        }
        _ => false,
    }
}

/// True if the source of another language seems to change its session.
fn is_suspicious(source: &[u8]) -> bool {
    SUSPICIOUS.iter().any(|words| contains(source, words)) || has_set_in_string(source)
}

/// True if SET or LISTEN is at the beginning of a line or of a string.
fn has_set_in_string(source: &[u8]) -> bool {
    let mut at_start = true;
    for (at, byte) in source.iter().enumerate() {
        if at_start && ["set ", "reset ", "listen "].iter().any(|word| starts_with(&source[at..], word)) {
            return true;
        }
        at_start = match byte {
            b'\'' | b'"' | b'`' | b'$' | b'\n' | b';' => true,
            b' ' | b'\t' | b'\r' => at_start,
            _ => false,
        };
    }
    false
}

fn starts_with(text: &[u8], word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NameUse;

    fn changes(language: Language, source: &str, doubt: Doubt) -> SessionChanges {
        let mut names = ChangingNames::default();
        let mut known = SessionChanges::default();
        known.add_setting("app.known");
        names.add("set_known", NameUse::Call, &known);
        names.add("audited", NameUse::Write, &known);
        let routine = Routine { language, source: source.into() };
        let mut changes = routine.own_changes(doubt);
        changes.add(&routine.changes_by(&names));
        changes
    }

    fn of_plpgsql(source: &str) -> SessionChanges {
        changes(Language::PlPgSql, source, Doubt::Harmless)
    }

    #[test]
    fn settings_of_a_source_are_found() {
        for (source, name) in [
            ("BEGIN PERFORM set_config('app.tenant', t, false); END", "app.tenant"),
            ("BEGIN SET app.tenant = 'a'; END", "app.tenant"),
            (
                "BEGIN IF a THEN SET LOCAL x = 1; ELSE SET SESSION app.tenant TO 'a'; END IF; END",
                "app.tenant",
            ),
            ("<<a>> BEGIN RESET app.tenant; END", "app.tenant"),
            ("BEGIN EXECUTE 'SET app.tenant = ' || quote_literal(t); END", "app.tenant"),
            ("BEGIN EXECUTE format('set app.tenant to %L', t); END", "app.tenant"),
            (
                "BEGIN RETURN QUERY EXECUTE $q$SELECT set_config('app.tenant', 'a', false)$q$; END",
                "app.tenant",
            ),
            ("BEGIN PERFORM set_known(1); END", "app.known"),
            ("BEGIN UPDATE audited SET a = 1; END", "app.known"),
            ("BEGIN EXECUTE 'SELECT set_known(' || 1 || ')'; END", "app.known"),
            ("BEGIN SET ROLE a; END", "role"),
            ("BEGIN EXECUTE 'SET ROLE ' || a; END", "role"),
            ("BEGIN DO $i$ BEGIN PERFORM set_config('app.tenant', 'a', false); END $i$; END", "app.tenant"),
            ("BEGIN EXECUTE 'UPDATE t SET a = 1'; EXECUTE 'SET search_path = ' || s; END", "search_path"),
            (
                "BEGIN EXECUTE 'UPDATE t SET a = 1'; EXECUTE format('SET session_replication_role = %s', s); END",
                "session_replication_role",
            ),
        ] {
            let found = of_plpgsql(source);
            assert_eq!(found.settings, [name.into()], "{source}");
            assert!(found.begins.is_empty(), "{source}: {:?}", found.begins);
        }
        let source = "SELECT set_config('app.a', $1, false); SET app.b = 1";
        assert_eq!(
            changes(Language::Sql, source, Doubt::Harmless).settings,
            ["app.a".into(), "app.b".into()]
        );
    }

    #[test]
    fn what_a_source_begins_is_found() {
        use Feature::*;
        for (source, feature) in [
            ("BEGIN PERFORM set_config(name, 'a', false); END", ComputedSetting),
            ("BEGIN EXECUTE 'SET ' || name || ' = 1'; END", ComputedSetting),
            ("BEGIN EXECUTE format('SET %I = %L', a, b); END", ComputedSetting),
            ("BEGIN EXECUTE 'SET app.' || name || ' = 1'; END", ComputedSetting),
            ("BEGIN EXECUTE E'\\n SET ' || name; END", ComputedSetting),
            ("BEGIN EXECUTE concat_ws(' ', 'SET', a); END", ComputedSetting),
            ("BEGIN EXECUTE 'UPDATE t SET a = 1'; EXECUTE 'SET ' || k || ' = 1'; END", ComputedSetting),
            ("BEGIN RETURN lastval(); END", SequenceValue),
            ("BEGIN EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT 1'; END", HoldableCursor),
            ("BEGIN EXECUTE 'RESET ALL'; END", UnknownCode),
            ("BEGIN RESET ALL; END", UnknownCode),
            ("BEGIN CREATE TEMP TABLE t (a int); END", TemporaryObject),
            ("BEGIN EXECUTE 'CREATE TEMP TABLE ' || t || ' (a int)'; END", TemporaryObject),
            ("BEGIN PERFORM pg_advisory_lock(1); END", AdvisoryLock),
            ("BEGIN LISTEN a; END", Listen),
            ("BEGIN EXECUTE 'LISTEN ' || channel; END", Listen),
            ("BEGIN EXECUTE 'CALL p()'; END", UnknownCode),
            ("BEGIN PERFORM 'unterminated; END", UnknownCode),
        ] {
            let found = of_plpgsql(source);
            assert!(found.begins.contains(feature), "{source}: {found:?}");
        }
    }

    #[test]
    fn ordinary_sources_change_nothing() {
        for source in [
            "DECLARE a int; BEGIN SELECT 1 INTO a; UPDATE t SET b = a; RETURN a; END",
            "BEGIN INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1; END",
            "BEGIN EXECUTE 'UPDATE ' || t || ' SET a = 1'; END",
            "BEGIN EXECUTE format('UPDATE %I SET a = 1', t); END",
            "BEGIN SET LOCAL app.tenant = 'a'; PERFORM set_config('app.tenant', 'a', true); END",
            "DECLARE load int; BEGIN load := 1; END",
            "BEGIN -- SET app.tenant = 1;\n RAISE NOTICE 'SET app.tenant = 1'; END",
            "BEGIN PERFORM pg_advisory_xact_lock(1); SELECT a FROM audited; END",
            "BEGIN EXECUTE a; RAISE EXCEPTION 'Call of % finished; set counters', a; END",
            "BEGIN EXECUTE a; b := 'Set up partition'; c := 'SET NULL'; d := 'Do not call this'; END",
            "BEGIN q := 'UPDATE t'; q := q || format(' SET %I = %L', a, b); s := 'SET '; EXECUTE q; END",
            "BEGIN INSERT INTO t VALUES (1); RETURN currval('t_id_seq'); END",
            "BEGIN PERFORM set_config('app.' || k, v, true); END",
        ] {
            assert_eq!(of_plpgsql(source), SessionChanges::default(), "{source}");
        }
        let python = "plpy.execute('UPDATE t SET a = 1')\nx = set()";
        assert_eq!(changes(Language::Other, python, Doubt::Harmless), SessionChanges::default());
    }

    #[test]
    fn code_that_cannot_be_read_is_judged_by_its_words_or_may_change_anything() {
        let unknown = Features::of(&[Feature::UnknownCode]);
        for source in ["plpy.execute(\"SET app.tenant = 'a'\")", "plpy.execute('select set_config(1)')"] {
            assert_eq!(changes(Language::Other, source, Doubt::Harmless).begins, unknown, "{source}");
        }
        assert_eq!(changes(Language::Other, "return 1", Doubt::Opaque).begins, unknown);
        assert_eq!(changes(Language::PlPgSql, "BEGIN EXECUTE a; END", Doubt::Opaque).begins, unknown);
        assert!(changes(Language::PlPgSql, "BEGIN RETURN a; END", Doubt::Opaque).begins.is_empty());
    }
}
