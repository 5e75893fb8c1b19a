//! One statement: the commands that change a session. Owns their forms.

use crate::calls::add_calls;
use crate::changes::SessionChanges;
use crate::features::{Feature, Features};
use crate::plpgsql::add_block;
use crate::reader::{Reader, is};
use crate::token::SqlToken;
use crate::values::{check_value, is_no_setting_of_session};

/// The settings of SET SESSION CHARACTERISTICS.
const CHARACTERISTICS: [&str; 3] =
    ["default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable"];
/// What SET SESSION AUTHORIZATION changes.
const AUTHORIZATION: [&str; 2] = ["session_authorization", "role"];

/// Adds what one statement may change. `text` can be read, since it was split already.
pub(crate) fn add(changes: &mut SessionChanges, text: &[u8]) {
    let all = Reader::new(text);
    let mut tokens = all.clone();
    let (prepares, sets) = match tokens.next() {
        Some(SqlToken::Word(word)) => {
            add_command(changes, word, &mut tokens);
            (is(word, "prepare"), is(word, "set"))
        }
        _ => (false, false),
    };
    if prepares {
        let mut prepared = SessionChanges::default();
        add_calls(&mut prepared, all);
        if prepared != SessionChanges::default() {
            // EXECUTE does not show it.
            changes.begins.insert(Feature::UnknownCode);
        }
    } else if !sets {
        add_calls(changes, all);
    }
}

/// Adds what the command that begins with this word may change; `tokens` are behind it.
pub(crate) fn add_command(changes: &mut SessionChanges, word: &[u8], tokens: &mut Reader<'_>) {
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
        b"load" => changes.begins.insert(Feature::LoadedLibrary),
        b"call" => changes.has_call = true,
        b"do" => add_do(changes, tokens),
        _ => {}
    }
}

/// DISCARD ALL, TEMP and TEMPORARY.
fn add_discard(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    if tokens.passes("all") {
        changes.ends = Features::ALL;
    } else if tokens.passes("temp") || tokens.passes("temporary") {
        changes.ends.insert(Feature::TemporaryObject);
    }
}

fn add_set(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    changes.has_set = true;
    let is_local = tokens.passes("local");
    if !is_local && tokens.passes("session") {
        // SET SESSION SESSION AUTHORIZATION is possible.
        tokens.passes("session");
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
    } else {
        tokens.setting_name()
    };
    let Some(name) = name else { return changes.begins.insert(Feature::ComputedSetting) };
    if is_no_setting_of_session(changes, &name) {
        return;
    }
    check_value(changes, &name, tokens.clone(), is_local);
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

/// The rest of a DO statement. What functions do that it calls, the database's catalog says, as for other statements.
fn add_do(changes: &mut SessionChanges, tokens: &mut Reader<'_>) {
    while let Some(token) = tokens.next() {
        match token {
            SqlToken::DollarString(code) => add_block(changes, code),
            // With doubled quotes it is not the code itself.
            SqlToken::String(code) if !code.contains(&b'\'') => add_block(changes, code),
            SqlToken::Word(word)
                if is(word, "language")
                    && matches!(tokens.next(), Some(SqlToken::Word(name)) if is(name, "plpgsql")) => {}
            _ => changes.begins.insert(Feature::UnknownCode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::has_plain_characters;

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
            ("SET SESSION SESSION AUTHORIZATION a", &["session_authorization", "role"]),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", &CHARACTERISTICS),
            ("SET XML OPTION DOCUMENT", &["xmloption"]),
            ("SET LOCAL work_mem = 1", &[]),
            ("SET schema.tenant = 'x'", &["schema.tenant"]),
            ("SET transaction.id = 'x'", &["transaction.id"]),
            ("SET session.id = 'x'", &["session.id"]),
            ("RESET session.id", &["session.id"]),
            ("SET transaction_read_only = on", &[]),
            ("SET TRANSACTION READ ONLY", &[]),
            ("SET CONSTRAINTS ALL DEFERRED", &[]),
            ("BEGIN; SET a.b = 1; RESET a.c; COMMIT", &["a.b", "a.c"]),
            ("/* SET a.b = 1; */ SELECT 'SET a.c = 1;'", &[]),
            (
                "DO $$ BEGIN SET a.b = 1; PERFORM set_config('a.c', '1', false); RESET a.d; END $$",
                &["a.c", "a.b", "a.d"],
            ),
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
            ("SELECT set_config('a.b'::text, ('c')::text, false)", &["a.b"]),
            ("SELECT set_config('search_path', $1, false)", &["search_path"]),
            ("SELECT set_config('search_path', $1, true)", &[]),
            ("SELECT set_config('a.' || $1, $2, true)", &[]),
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
            ("CREATE TEMP TABLE t (a int) ON COMMIT DELETE ROWS", TemporaryObject),
            ("CREATE TEMP TABLE t AS SELECT a FROM b JOIN c ON commit", TemporaryObject),
            ("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT * FROM pg_temp.other", TemporaryObject),
            (
                "DO $$ BEGIN CREATE TEMP TABLE a (b int) ON COMMIT DROP; CREATE TEMP TABLE b (c int); END $$",
                TemporaryObject,
            ),
            (
                "DO $$ BEGIN CREATE TEMP TABLE a (b int); CREATE TEMP TABLE b (c int) ON COMMIT DROP; END $$",
                TemporaryObject,
            ),
            ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", TemporaryObject),
            ("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT 1", HoldableCursor),
            ("SELECT pg_advisory_lock(1)", AdvisoryLock),
            ("SELECT pg_try_advisory_lock_shared(1)", AdvisoryLock),
            ("LISTEN a", Listen),
            ("PREPARE p AS SELECT 1", SqlPrepared),
            ("PREPARE p AS SELECT set_config('role', 'x', false)", UnknownCode),
            ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", TemporaryObject),
            ("SET search_path = 'pg_'\n'temp'", TemporarySchema),
            ("DO 'begin perform ''--''; perform set_config(''a.b'', ''c'', false); end'", UnknownCode),
            ("SET seed = 0.5", RandomSeed),
            ("SET client_encoding = 'SHIFT_JIS_2004'", UnreadableText),
            ("SET NAMES 'win932'", UnreadableText),
            ("SELECT lastval()", SequenceValue),
            ("SELECT setseed(0.5)", RandomSeed),
            ("SET SEED TO 0.5", RandomSeed),
            ("LOAD 'auto_explain'", LoadedLibrary),
            ("SELECT dblink_connect('a', 'b')", RemoteConnection),
            ("SELECT pg_create_logical_replication_slot('a', 'b', true)", ReplicationSlot),
            ("SET search_path = pg_temp, public", TemporarySchema),
            ("SET LOCAL search_path = pg_temp, public", TemporaryObject),
            ("SELECT set_config('search_path', 'pg_temp', false)", TemporarySchema),
            ("SELECT set_config($1, $2, false)", ComputedSetting),
            ("SELECT set_config('a' || 'b', '', false)", ComputedSetting),
            ("SELECT set_config((SELECT a FROM t ORDER BY b, c, true), '', false)", ComputedSetting),
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
            "INSERT INTO temp (a) VALUES (1)",
            "MERGE INTO temporary USING b ON true WHEN MATCHED THEN DELETE",
            "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
            "create temporary table t on commit drop as select 1",
            "DO $$ BEGIN CREATE TEMP TABLE t (a int) ON COMMIT DROP; END $$",
            "INSERT INTO temperature VALUES (1)",
            "PREPARE TRANSACTION 'a'",
            "DO $$ BEGIN PERFORM 1; END $$",
            "DO $$ BEGIN UPDATE t SET a = 1; SET LOCAL a.b = 1; END $$ LANGUAGE plpgsql",
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
    fn a_long_text_is_read_in_proportion_to_its_length() {
        let nested = "SELECT set_config('a.b', ".repeat(20_000);
        let many: String = (0..20_000).map(|number| format!("SET a.b{number} = 1;")).collect();
        assert_eq!(changes(&nested).settings.len(), 1);
        let endless = format!("SELECT {}", "set_config(".repeat(90_000));
        assert!(changes(&endless).begins.contains(Feature::ComputedSetting));
        assert!(changes(&many).begins.contains(Feature::UnreadableText));
    }

    #[test]
    fn encodings_of_databases_are_plain() {
        for name in [
            "UTF8",
            "utf-8",
            "LATIN1",
            "iso_8859_5",
            "WIN1252",
            "koi8-r",
            "EUC_JIS_2004",
            "euc-jp",
            "SQL_ASCII",
        ] {
            assert!(has_plain_characters(name.as_bytes()), "{name}");
        }
        for name in [
            "SJIS",
            "SHIFT_JIS_2004",
            "WIN932",
            "WIN949",
            "BIG5",
            "GBK",
            "GB18030",
            "JOHAB",
            "UHC",
            "mskanji",
            "",
        ] {
            assert!(!has_plain_characters(name.as_bytes()), "{name}");
        }
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
