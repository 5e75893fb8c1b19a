//! The queries about functions in the catalog of a database. Owns their texts and columns; interprets no source.
//!
//! Each text is one message: its SET LOCAL end with it, also after an error.

use super::catalog::{Edge, EdgeKind, FoundRoutine};
use crate::parameters::push_literal;
use crate::sql_client::{AnswerLimits, TextRow};
use sql::names::NameUse;
use sql::routines::{Doubt, Language, Routine};
use std::fmt::Write;

/// Longest source that is transferred, in bytes; the function of a longer one may change anything.
const MAX_SOURCE_BYTES: usize = 512 * 1024;
/// Maximum number of rows of one answer; a database with more has not been read completely.
pub const MAX_ROWS: usize = 20_000;
/// Maximum size of the rows of one answer, in bytes.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Objects of the system have smaller numbers (`FirstNormalObjectId`).
const FIRST_OF_USERS: u32 = 16_384;

/// Limits on the answers.
pub const LIMITS: AnswerLimits = AnswerLimits {
    message_bytes: MAX_SOURCE_BYTES as u32 * 2 + 64 * 1024,
    messages: MAX_ROWS + 1000,
    rows: MAX_ROWS,
    bytes: MAX_BYTES,
};

/// In front of each query: names are those of the catalog, whatever the role's settings are.
const PROLOGUE: &str = "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL statement_timeout = '5s'; \
    SET LOCAL lock_timeout = '1s'; SET LOCAL client_encoding = 'UTF8'; ";

/// The words of sources that may change a session, as a regular expression of PostgreSQL. SET is looked for where a
/// statement or a string may begin, since UPDATE contains it, too.
const WORDS: &str = r#"set_config|advisory|lastval|currval|setseed|set_limit|dblink_connect|replication_(slot|origin)|\m(temp|temporary|listen|unlisten|load|deallocate|discard|reset|prepare|hold|call|do)\M|pg_temp|(^|[;'"`$/>\n]|\\[ntr]|\m(begin|then|else|loop)\M)\s*set[\s"'/]"#;

/// Extensions whose functions in C keep state in the session: the extension, and the schema and the name of the functions
/// as patterns of LIKE.
const STATEFUL_EXTENSIONS: [(&str, &str, &str); 8] = [
    ("hypopg", "%", "%"),
    ("isn", "%", "isn_weak"),
    ("orafce", "dbms_output", "%"),
    ("orafce", "dbms_random", "%"),
    ("pg_variables", "%", "pgv_%"),
    ("session_variable", "%", "%"),
    ("set_user", "%", "%"),
    ("postgres_fdw", "%", "postgres_fdw_disconnect%"),
];

/// A text that changes when the settings change with which a session of the database begins: `ALTER ROLE … SET`, `ALTER
/// DATABASE … SET`.
const LOGIN_SETTINGS: &str = "(SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM pg_db_role_setting \
    WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())))";

/// A text that changes when a function, or what calls one without its name, changes; the version of the server; and a text
/// that changes with the settings of roles and of the database. Temporary objects do not count.
pub fn fingerprint() -> String {
    let mut sql = format!(
        "{PROLOGUE}WITH kept AS MATERIALIZED (SELECT oid, relname FROM pg_class \
         WHERE oid >= {FIRST_OF_USERS} AND relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f')) \
         SELECT concat_ws(' ', (SELECT oid FROM pg_database WHERE datname = current_database()), \
         (SELECT concat(count(*), '/', sum(hashtext(relname)::bigint # oid::bigint)) FROM kept), \
         (SELECT concat(count(*), '/', sum(p.xmin::text::bigint)) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
         WHERE p.oid >= {FIRST_OF_USERS} AND n.nspname NOT LIKE 'pg\\_temp\\_%')"
    );
    for (table, relation) in [
        ("pg_trigger", "tgrelid"),
        ("pg_rewrite", "ev_class"),
        ("pg_attrdef", "adrelid"),
        ("pg_policy", "polrelid"),
        ("pg_constraint", "conrelid"),
        ("pg_inherits", "inhrelid"),
    ] {
        let _ = write!(
            sql,
            ", (SELECT concat(count(*), '/', sum(c.xmin::text::bigint)) FROM {table} c JOIN kept ON kept.oid = c.{relation})"
        );
    }
    for table in ["pg_event_trigger", "pg_extension"] {
        let _ = write!(sql, ", (SELECT concat(count(*), '/', sum(xmin::text::bigint)) FROM {table})");
    }
    sql.push_str("), current_setting('server_version_num'), ");
    sql.push_str(LOGIN_SETTINGS);
    sql
}

/// The columns of [`FoundRoutine`].
fn select_routines(has_parsed_bodies: bool) -> String {
    // The body of BEGIN ATOMIC is not in `prosrc` (14 and later).
    let source = if has_parsed_bodies {
        "coalesce(nullif(p.prosrc, ''), pg_get_function_sqlbody(p.oid), '')"
    } else {
        "p.prosrc"
    };
    format!(
        "SELECT p.oid, n.nspname, p.proname, l.lanname, s.source FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang \
         CROSS JOIN LATERAL (SELECT {source}) AS whole(body) \
         CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(body) <= {MAX_SOURCE_BYTES} THEN body END) AS s(source) \
         WHERE p.oid >= {FIRST_OF_USERS} "
    )
}

/// The routines whose sources may change a session by themselves. With `all`, also those whose sources do not suggest it.
pub fn candidates(has_parsed_bodies: bool, all: bool) -> String {
    let select = select_routines(has_parsed_bodies);
    let mut sql = format!("{PROLOGUE}{select} AND l.lanname NOT IN ('internal', 'c')");
    if !all {
        sql.push_str(" AND (s.source IS NULL OR s.source ~* ");
        push_literal(&mut sql, WORDS);
        sql.push(')');
    }
    let _ = write!(
        sql,
        " UNION ALL {select} AND l.lanname = 'c' AND EXISTS (SELECT FROM pg_depend d \
        JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' \
        JOIN (VALUES "
    );
    for (at, (extension, schema, name)) in STATEFUL_EXTENSIONS.iter().enumerate() {
        let _ = write!(sql, "{}('{extension}', '{schema}', '{name}')", if at > 0 { ", " } else { "" });
    }
    let _ = write!(
        sql,
        ") AS known(extension, schema, name) ON e.extname = known.extension \
        AND n.nspname LIKE known.schema AND p.proname LIKE known.name \
        WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid) LIMIT {MAX_ROWS}"
    );
    sql
}

/// The routines whose sources contain one of these names.
pub fn callers<'a>(has_parsed_bodies: bool, names: impl Iterator<Item = &'a str>) -> String {
    let mut expression = String::new();
    for name in names {
        expression.push_str(if expression.is_empty() { r"(\m|\W)(" } else { "|" });
        for character in name.chars() {
            if character.is_ascii_punctuation() && character != '_' {
                expression.push('\\');
            }
            expression.push(character);
        }
    }
    expression.push_str(r")(\M|\W)");
    let mut sql = format!(
        "{PROLOGUE}{} AND l.lanname NOT IN ('internal', 'c') AND s.source ~* ",
        select_routines(has_parsed_bodies)
    );
    push_literal(&mut sql, &expression);
    let _ = write!(sql, " LIMIT {MAX_ROWS}");
    sql
}

/// What uses these routines without naming them in a statement: rows of [`Edge`].
///
/// A trigger on a table fires for writes to a partition's parent, to a table whose foreign keys cascade to it, and to a view
/// of it.
pub fn users(oids: &[u32]) -> String {
    let list = oids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!(
        "{PROLOGUE}WITH RECURSIVE dependents AS MATERIALIZED (\
         SELECT refobjid AS routine, classid, objid FROM pg_depend \
         WHERE refclassid = 'pg_proc'::regclass AND refobjid IN ({list})), \
         direct(routine, relation, usage) AS (\
         SELECT routine, tgrelid, 'w' FROM dependents JOIN pg_trigger t ON t.oid = objid \
         WHERE classid = 'pg_trigger'::regclass AND t.tgenabled <> 'D' \
         UNION SELECT routine, adrelid, 'w' FROM dependents JOIN pg_attrdef a ON a.oid = objid WHERE classid = 'pg_attrdef'::regclass \
         UNION SELECT routine, conrelid, 'w' FROM dependents JOIN pg_constraint c ON c.oid = objid \
         WHERE classid = 'pg_constraint'::regclass AND conrelid <> 0 \
         UNION SELECT routine, ev_class, 'a' FROM dependents JOIN pg_rewrite r ON r.oid = objid WHERE classid = 'pg_rewrite'::regclass \
         UNION SELECT routine, polrelid, 'a' FROM dependents JOIN pg_policy p ON p.oid = objid WHERE classid = 'pg_policy'::regclass), \
         reached AS (SELECT * FROM direct UNION \
         SELECT reached.routine, above.relation, reached.usage FROM reached CROSS JOIN LATERAL (\
         SELECT inhparent AS relation FROM pg_inherits WHERE inhrelid = reached.relation \
         UNION SELECT confrelid FROM pg_constraint WHERE contype = 'f' AND conrelid = reached.relation \
         AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd')) \
         UNION SELECT ev_class FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid \
         WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = reached.relation) AS above) \
         SELECT routine, usage, relname, 0 FROM reached JOIN pg_class c ON c.oid = relation \
         UNION SELECT routine, 'f', proname, p.oid FROM dependents JOIN pg_proc p ON p.oid = objid WHERE classid = 'pg_proc'::regclass \
         UNION SELECT evtfoid, 'e', '', 0 FROM pg_event_trigger \
         WHERE evtfoid IN ({list}) AND evtenabled <> 'D' AND evtevent <> 'login' LIMIT {MAX_ROWS}"
    )
}

/// A row of [`candidates`] or [`callers`].
pub fn routine(row: TextRow, doubt: Doubt) -> Option<FoundRoutine> {
    let [oid, schema, name, language, source] = <[_; 5]>::try_from(row).ok()?;
    let language = language?;
    let routine = source
        .filter(|_| language != "c")
        .map(|source| Routine { language: Language::of(&language), source: source.into() });
    Some(FoundRoutine::new(oid?.parse().ok()?, schema?, name?, routine, doubt))
}

/// A row of [`users`].
pub fn edge(row: TextRow) -> Option<Edge> {
    let [from, kind, name, oid] = <[_; 4]>::try_from(row).ok()?;
    let kind = match kind?.as_str() {
        "w" => EdgeKind::Relation(NameUse::Write),
        "a" => EdgeKind::Relation(NameUse::Any),
        "f" => EdgeKind::Routine(oid?.parse().ok()?),
        "e" => EdgeKind::SchemaChange,
        _ => return None,
    };
    Some(Edge { from: from?.parse().ok()?, kind, name: name? })
}
