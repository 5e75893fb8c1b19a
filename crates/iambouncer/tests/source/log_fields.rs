//! Every structured field of a log line is in the table of fields, and the other way round. Owns the reading of the calls.

use crate::{assert_none, files};
use std::collections::BTreeSet;

const MACROS: [&str; 6] = [
    "tracing::error!(",
    "tracing::warn!(",
    "tracing::info!(",
    "tracing::debug!(",
    "tracing::trace!(",
    "warn_unauthenticated!(",
];
/// Arguments of the last one before its fields.
const CONTEXT_AND_KIND: usize = 2;

/// The product's code without its unit tests.
fn product() -> Vec<(String, String)> {
    let all = ["crates/iambouncer/src", "crates/rds-iam/src"].into_iter().flat_map(|at| files(at, &[".rs"]));
    let all = all.filter(|(path, _)| !path.ends_with("/tests.rs") && !path.ends_with("_tests.rs"));
    all.map(|(path, text)| (path, text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()))
        .collect()
}

/// The arguments of a call whose text begins after its opening parenthesis.
fn arguments(text: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    let (mut depth, mut in_text) = (0, false);
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_text => {
                found.last_mut().unwrap().extend([Some(character), characters.next()].into_iter().flatten());
                continue;
            }
            '"' => in_text = !in_text,
            _ if in_text => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(String::new());
                continue;
            }
            _ => {}
        }
        found.last_mut().unwrap().push(character);
    }
    found.into_iter().map(|argument| argument.trim().to_owned()).collect()
}

/// The fields of a call: the arguments before its message.
fn fields(name: &str, text: &str) -> Vec<String> {
    let skipped = if name == MACROS[5] { CONTEXT_AND_KIND } else { 0 };
    let arguments = arguments(text).into_iter().skip(skipped);
    let fields = arguments.take_while(|argument| !argument.starts_with('"') && !argument.is_empty());
    let name_of = |field: String| {
        let name = field.split(" = ").next().unwrap().trim_start_matches(['%', '?']);
        name.strip_prefix("r#").unwrap_or(name).to_owned()
    };
    fields.map(name_of).collect()
}

fn used() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, text) in product() {
        // The definition of the macro.
        for name in MACROS.into_iter().filter(|_| !path.ends_with("/log_limit.rs")) {
            for (at, _) in text.match_indices(name) {
                let of_call = fields(name, &text[at + name.len()..]);
                found.extend(of_call.into_iter().map(|field| (path.clone(), field)));
            }
        }
    }
    assert!(found.len() > 100, "{}", found.len());
    found
}

/// The table in docs/logging.md, which is generated.
fn documented() -> BTreeSet<String> {
    let known = iambouncer::cli::log_fields().map(|(name, _)| name.to_owned());
    known.collect()
}

#[test]
fn every_field_of_a_log_line_is_documented() {
    let documented = documented();
    let missing = used().into_iter().filter(|(_, field)| !documented.contains(field));
    let missing: Vec<_> = missing.map(|(path, field)| format!("{path}: {field}")).collect();
    assert_none("fields that are not in cli/log/field_table.rs", &missing);
}

#[test]
fn every_documented_field_is_in_use_and_none_is_that_of_a_line() {
    let mut used: BTreeSet<String> = used().into_iter().map(|(_, field)| field).collect();
    // Added by the macro in log_limit.rs.
    used.insert("left_out".to_owned());
    let unused: Vec<_> = documented().into_iter().filter(|field| !used.contains(field)).collect();
    assert_none("documented fields that no line has", &unused);
    let reserved: Vec<_> =
        ["time", "level", "message", "pid"].into_iter().filter(|name| used.contains(*name)).collect();
    assert!(reserved.is_empty(), "{reserved:?}");
}

#[test]
fn fields_end_at_the_message() {
    let text = "%client, id = a(b, \"x, y\"), r#type = ?c, \"closing: {d}, {e}\", f) g";
    assert_eq!(fields(MACROS[0], text), ["client", "id", "type"]);
    assert_eq!(fields(MACROS[5], "context, \"kind\", user, \"text\")"), ["user"]);
    assert_eq!(fields(MACROS[1], "\"text\")"), [""; 0]);
}
