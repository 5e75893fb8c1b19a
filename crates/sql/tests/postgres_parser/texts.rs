//! The texts that are compared. Owns where they come from and how they are changed.

use sql::statements::Statements;
use sql::token::{LexerSettings, Tokens};
use std::path::{Path, PathBuf};

/// Longest text that is changed, in bytes.
const MAX_CHANGED_BYTES: usize = 2000;
/// Longest file.
const MAX_FILE_BYTES: usize = 512 * 1024;
/// Where PostgreSQL's files are.
const INSTALLED: &str = "/usr/share/postgresql";

/// Statements that change a session, and some that resemble them.
pub(crate) const LISTED: &[&str] = &[
    "SET work_mem = '1MB'",
    "set session WORK_MEM to 1",
    "SET \"App\".tenant = 'a'",
    "SET app.tenant TO DEFAULT",
    "SET LOCAL work_mem = 1",
    "SET TIME ZONE 'UTC'",
    "SET TIME ZONE LOCAL",
    "SET TIME ZONE INTERVAL '-08:00' HOUR TO MINUTE",
    "SET NAMES 'utf8'",
    "SET SCHEMA 'a'",
    "SET XML OPTION DOCUMENT",
    "SET ROLE a",
    "SET ROLE 'a'",
    "SET ROLE NONE",
    "SET SESSION ROLE a",
    "SET LOCAL ROLE a",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION a",
    "SET SESSION AUTHORIZATION DEFAULT",
    "RESET SESSION AUTHORIZATION",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET TRANSACTION SNAPSHOT '00000003-0000001B-1'",
    "SET transaction_read_only = on",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET search_path FROM CURRENT",
    "SET search_path = a, \"B\", 'c'",
    "SET seed = 0.5",
    "RESET work_mem",
    "RESET app.tenant",
    "RESET ALL",
    "RESET TIME ZONE",
    "RESET TRANSACTION ISOLATION LEVEL",
    "DISCARD ALL",
    "DISCARD TEMP",
    "DISCARD TEMPORARY",
    "DISCARD PLANS",
    "DISCARD SEQUENCES",
    "LISTEN a",
    "LISTEN \"A b\"",
    "UNLISTEN a",
    "UNLISTEN *",
    "NOTIFY a, 'b'",
    "PREPARE p AS SELECT 1",
    "PREPARE p (int) AS SELECT set_config('a.b', $1::text, false)",
    "EXECUTE p (1)",
    "DEALLOCATE p",
    "DEALLOCATE PREPARE ALL",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE c BINARY INSENSITIVE SCROLL CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1",
    "CLOSE c",
    "CLOSE ALL",
    "LOAD 'a'",
    "CALL p(1)",
    "COPY t FROM STDIN",
    "DO $$ BEGIN SET a.b = 1; END $$",
    "CREATE TEMP TABLE t (a int)",
    "CREATE TEMPORARY TABLE IF NOT EXISTS t (a int) ON COMMIT DELETE ROWS",
    "CREATE LOCAL TEMP TABLE t (a int) ON COMMIT PRESERVE ROWS",
    "CREATE TEMP TABLE t (a int) ON COMMIT DROP",
    "CREATE GLOBAL TEMPORARY TABLE t AS SELECT 1",
    "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1",
    "CREATE UNLOGGED TABLE t (a int)",
    "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
    "CREATE TEMP RECURSIVE VIEW v (a) AS SELECT 1",
    "CREATE TEMP SEQUENCE s",
    "CREATE TABLE pg_temp.t (a int)",
    "SELECT 1 AS a INTO TEMP t",
    "SELECT 1 AS a INTO TEMPORARY TABLE t",
    "SELECT 1 AS a INTO UNLOGGED t",
    "WITH a AS (SELECT 1) SELECT * INTO TEMP t FROM a",
    "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1",
    "EXPLAIN (ANALYZE) EXECUTE p",
    "DROP TABLE t",
    "SELECT set_config('app.tenant', 'a', false)",
    "SELECT pg_catalog.set_config('App.Tenant', 'a', false)",
    "SELECT \"set_config\"('app.tenant', 'a', true)",
    "SELECT set_config(name, 'a', false) FROM t",
    "SELECT set_config('a' || 'b', 'c', false)",
    "SELECT set_config('a.b', 'c', is_local) FROM t",
    "SELECT set_config(setting_name => 'a.b', new_value => 'c', is_local => false)",
    "UPDATE t SET a = set_config('a.b', 'c', false)",
    "SELECT nextval('s'), currval('s'), lastval()",
    "SELECT pg_advisory_lock(1), pg_try_advisory_lock(1, 2)",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT pg_advisory_unlock(1), pg_advisory_unlock_all()",
    "SELECT setseed(0.1)",
    "SELECT dblink_connect('a', 'dbname=b')",
    "SELECT pg_create_logical_replication_slot('a', 'b', true)",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET work_mem = 1 AS 'SELECT 1'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
    "CREATE RULE r AS ON INSERT TO t DO (INSERT INTO a VALUES (1); DELETE FROM b)",
    "ALTER ROLE a SET work_mem = 1",
    "ALTER DATABASE a RESET ALL",
    "ALTER SYSTEM SET work_mem = 1",
    "ALTER FUNCTION f() SET work_mem = 1",
    "ALTER TABLE t SET (a = 1), SET TABLESPACE b",
    "UPDATE t SET work_mem = 1",
    "SELECT 'SET a.b = 1', $$RESET ALL$$, E'it\\'s; SET a.b = 1', \"SET\" FROM t -- SET a.c = 1",
    "SELECT N'a', B'01', X'ff', U&'d\\0061t', U&\"d\\0061t\" FROM t",
    "SELECT 'a'\n  'b', 'c' -- d\n 'e'",
    "SELECT a /* b /* c */ ; */ , $1 FROM t",
    "SELECT $a$ $b$ ' ; $a$, a$b$c FROM t",
    "BEGIN; SET a.b = 1; COMMIT",
    ";; SELECT 1 ;; RESET ALL;",
    "SELECT 1.5e10, .5, 1_000, 0x1F, 1::int8, a.b[1:2], -1 @> 2, a->>'b', a #- '{c}' FROM t",
];

/// Parts that are inserted into texts.
const PARTS: &[&str] = &[
    " ",
    "\n",
    "\t",
    "\u{a0}",
    ";",
    "; ",
    "-- a ' \" $$\n",
    "/* a ' ; */",
    "/* /* */ */",
    "'",
    "''",
    "\"",
    "\"\"",
    "$$",
    "$a$",
    "E'",
    "\\'",
    "\\",
    "U&'",
    "U&\"",
    "N'",
    "é",
    "'é;'",
    "(",
    ")",
    "[",
    "]",
    ",",
    "=",
    " TO ",
    " LOCAL ",
    " SESSION ",
    "SET a.b = 1; ",
    "; RESET ALL",
    " TEMP ",
    " WITH HOLD ",
    "LISTEN a; ",
    "$1",
    "1",
    ".",
    "::text",
    " AS ",
    "pg_catalog.",
    "BEGIN ATOMIC ",
    " END",
    " INTO TEMP t ",
    "@",
    "-",
    "--",
    "/*",
    "*/",
    "_",
    "a$b",
    "x'1f'",
    "b'1'",
    "e'\\''",
    "u&'\\0061'",
];

/// A generator of random numbers (xorshift64*).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn choose<'a>(&mut self, texts: &'a [String]) -> &'a str {
        &texts[self.below(texts.len())]
    }

    /// A text of one to three statements, with up to three changes.
    pub(crate) fn text(&mut self, listed: &[String], others: &[String]) -> String {
        let mut text = String::new();
        for _ in 0..1 + self.below(3) {
            let statement = if self.below(3) == 0 { self.choose(others) } else { self.choose(listed) };
            if statement.len() <= MAX_CHANGED_BYTES {
                text.push_str(statement);
                text.push_str([";", "; ", ";\n"][self.below(3)]);
            }
        }
        for _ in 0..self.below(4) {
            self.change(&mut text);
        }
        text
    }

    fn change(&mut self, text: &mut String) {
        let places: Vec<usize> = match self.below(3) {
            // Where tokens begin.
            0 | 1 => token_places(text),
            _ => text.char_indices().map(|(at, _)| at).collect(),
        };
        if places.is_empty() {
            return;
        }
        let (at, other) = (places[self.below(places.len())], places[self.below(places.len())]);
        let (start, end) = (at.min(other), at.max(other));
        match self.below(6) {
            0..=2 => text.insert_str(at, PARTS[self.below(PARTS.len())]),
            3 if end - start < 40 => text.replace_range(start..end, ""),
            4 if end - start < 200 => {
                let part = text[start..end].to_owned();
                text.insert_str(at, &part);
            }
            _ => {
                let changed: String =
                    text[start..end]
                        .chars()
                        .map(|c| {
                            if c.is_ascii_lowercase() {
                                c.to_ascii_uppercase()
                            } else {
                                c.to_ascii_lowercase()
                            }
                        })
                        .collect();
                text.replace_range(start..end, &changed);
            }
        }
    }
}

fn token_places(text: &str) -> Vec<usize> {
    let mut tokens = Tokens::new(text.as_bytes(), LexerSettings::DEFAULT);
    let mut places = Vec::new();
    while let Ok(Some((_, place))) = tokens.next_with_place() {
        if text.is_char_boundary(place.start) {
            places.push(place.start);
        }
    }
    places
}

/// The files with SQL, and their statements.
pub(crate) fn corpus() -> (Vec<String>, Vec<String>) {
    let mut paths = Vec::new();
    add_files(Path::new(INSTALLED), &mut paths);
    if let Some(more) = std::env::var_os("LEXER_CORPUS") {
        add_files(Path::new(&more), &mut paths);
    }
    paths.sort();
    let mut files: Vec<String> = paths.iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    files.retain(|text| text.len() <= MAX_FILE_BYTES);
    // Lines for psql.
    for text in &mut files {
        *text = text.lines().filter(|line| !line.starts_with('\\')).collect::<Vec<_>>().join("\n");
    }
    let mut statements = Vec::new();
    for text in &files {
        let mut all = Statements::new(text.as_bytes(), LexerSettings::DEFAULT);
        while let Ok(Some(range)) = all.next_statement() {
            statements.push(text[range].to_owned());
        }
    }
    (files, statements)
}

fn add_files(directory: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            add_files(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            paths.push(path);
        }
    }
}
