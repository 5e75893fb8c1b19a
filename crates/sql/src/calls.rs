//! Calls of functions that change their session, and temporary objects, anywhere in a statement. Owns their names and
//! forms.

use crate::changes::SessionChanges;
use crate::features::{Feature, Features};
use crate::reader::{MAX_NAME_BYTES, Reader, is, is_any};
use crate::token::SqlToken;
use crate::values::{READING, check_value, is_no_setting_of_session};

/// Tokens of the arguments of `set_config` that are examined.
const MAX_ARGUMENT_TOKENS: usize = 48;

/// Functions that change a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Other,
    SetConfig,
    SetLimit,
    Begins(Feature),
    Ends(Feature),
}

pub(crate) fn function(name: &[u8]) -> Function {
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

/// Words between CREATE or INTO and TEMP.
const BEFORE_TEMP: [&str; 5] = ["or", "replace", "global", "local", "unlogged"];

/// CREATE TEMP and SELECT INTO TEMP, of which the tokens passed so far are the beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Temporary {
    No,
    /// INSERT or MERGE, whose INTO names a table.
    Writes,
    /// CREATE, INTO, and words that may follow.
    MayFollow,
    /// The object, unless ON COMMIT DROP follows: these words have been passed.
    Created {
        of_on_commit_drop: usize,
    },
}

/// The end of a CREATE TEMP TABLE whose table ends with the transaction.
const ON_COMMIT_DROP: [&str; 3] = ["on", "commit", "drop"];

impl Temporary {
    fn pass(&mut self, token: SqlToken<'_>, begins: &mut Features) {
        let was = *self;
        let name = match token {
            SqlToken::Word(name) | SqlToken::QuotedName(name) => name,
            _ => b"",
        };
        let is_before = is(name, "create") || is(name, "into") && was != Self::Writes;
        let is_end = token == SqlToken::Symbol(b';');
        *self = match was {
            Self::MayFollow if is_any(name, &BEFORE_TEMP) => return,
            Self::MayFollow if is_any(name, &["temp", "temporary"]) => Self::Created { of_on_commit_drop: 0 },
            Self::Created { of_on_commit_drop: at } if !is_before && !is_end => {
                match ON_COMMIT_DROP.get(at) {
                    Some(word) if is(name, word) && at + 1 == ON_COMMIT_DROP.len() => Self::No,
                    Some(word) if is(name, word) => Self::Created { of_on_commit_drop: at + 1 },
                    _ => Self::Created { of_on_commit_drop: usize::from(is(name, ON_COMMIT_DROP[0])) },
                }
            }
            _ if is_before => Self::MayFollow,
            _ if is_any(name, &["insert", "merge"]) => Self::Writes,
            _ => Self::No,
        };
        if matches!(was, Self::Created { .. }) && (is_before || is_end) {
            begins.insert(Feature::TemporaryObject);
        }
    }
}

/// Adds calls of functions, CREATE TEMP and SELECT INTO TEMP, and objects in pg_temp.
pub(crate) fn add_calls(changes: &mut SessionChanges, mut tokens: Reader<'_>) {
    let mut temporary = Temporary::No;
    while let Some(token) = tokens.next() {
        temporary.pass(token, &mut changes.begins);
        match token {
            SqlToken::Word(name) | SqlToken::QuotedName(name) => {
                if starts_temporary(name) {
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
    if matches!(temporary, Temporary::Created { .. }) {
        changes.begins.insert(Feature::TemporaryObject);
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
    let name = match name_argument(&mut tokens) {
        NameArgument::Plain(name) => name,
        NameArgument::Computed if rest_of_set_config(tokens).1 => return,
        NameArgument::Computed | NameArgument::Long => {
            return changes.begins.insert(Feature::ComputedSetting);
        }
    };
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if name.len() > MAX_NAME_BYTES || name.contains('\'') {
        return changes.begins.insert(Feature::ComputedSetting);
    }
    if is_no_setting_of_session(changes, &name) {
        return;
    }
    let (value, is_local) = rest_of_set_config(tokens);
    match value {
        Some(value) => check_value(changes, &name, std::iter::once(value), is_local),
        // It may be any value. The schema of temporary objects is noticed when the value is read; with `true` it is not.
        None if READING.contains(&name.as_str()) => changes.begins.insert(Feature::UnreadableText),
        None => {}
    }
    if !is_local {
        changes.add_setting(&name);
    }
}

/// The first argument of `set_config`.
enum NameArgument<'a> {
    /// A string, possibly with a cast.
    Plain(&'a [u8]),
    /// Anything else.
    Computed,
    /// Its end was not looked for.
    Long,
}

/// Reads the first argument of `set_config` and the comma behind it.
fn name_argument<'a>(tokens: &mut Reader<'a>) -> NameArgument<'a> {
    let (mut name, mut depth, mut was_colon) = (None, 0_u32, false);
    for (at, token) in tokens.by_ref().take(MAX_ARGUMENT_TOKENS).enumerate() {
        match token {
            SqlToken::Symbol(b')') if depth == 0 => return NameArgument::Computed,
            SqlToken::Symbol(b',') if depth == 0 => {
                return name.map_or(NameArgument::Computed, NameArgument::Plain);
            }
            SqlToken::Symbol(b'(' | b'[') => depth += 1,
            SqlToken::Symbol(b')' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        let is_colon = token == SqlToken::Symbol(b':');
        let is_cast = is_colon || was_colon && matches!(token, SqlToken::Word(_));
        was_colon = is_colon;
        match token {
            SqlToken::String(text) if at == 0 => name = Some(text),
            _ if is_cast => {}
            _ => name = None,
        }
    }
    NameArgument::Long
}

/// The second argument of `set_config`, if it is a plain string, and whether the third one is `true`.
fn rest_of_set_config<'a>(tokens: Reader<'a>) -> (Option<SqlToken<'a>>, bool) {
    let (mut depth, mut argument) = (0_u32, 0_usize);
    // The first token of each argument, and how many it has.
    let mut arguments = [(None, 0); 2];
    for token in tokens.take(MAX_ARGUMENT_TOKENS) {
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
