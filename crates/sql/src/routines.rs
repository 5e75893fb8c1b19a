//! Functions and procedures of a database: what their sources may change in the session that calls them. Owns how the sources
//! of each language are judged.

use crate::changes::{MAX_TEXT_BYTES, SessionChanges};
use crate::features::{Feature, Features};
use crate::names::ChangingNames;
pub use crate::plpgsql::Doubt;
use crate::plpgsql::{add_plpgsql, for_each_string, without_resets};
use crate::reader::{Reader, contains, is_keyword};

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
        if source.len() > MAX_TEXT_BYTES {
            return SessionChanges::unknown_code();
        }
        let mut changes = SessionChanges::default();
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
    Reader::new(source).any(|token| is_keyword(token, &["insert", "nextval", "new"]))
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
