//! Headers, and the length of files and functions.

use crate::{assert_none, files, sources};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
/// In the header of a file that is longer.
const REASON: &str = "long because";

#[test]
fn every_file_says_what_it_owns() {
    let found: Vec<_> = files("crates", &[".rs"])
        .into_iter()
        .filter(|(_, text)| !text.trim_start_matches("#!/usr/bin/env cargo").starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert_none("files without a header", &found);
}

#[test]
fn files_are_short_or_say_why_not() {
    let is_long = |text: &str| text.lines().count() > MAX_FILE_LINES && !text.to_lowercase().contains(REASON);
    let found: Vec<_> = files("crates", &[".rs"])
        .into_iter()
        .filter(|(_, text)| is_long(text))
        .map(|(path, _)| path)
        .collect();
    assert_none("files too long", &found);
}

/// First line and length of the functions of a file that rustfmt has formatted.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let words =
            code.split_whitespace().take_while(|word| !word.contains('(') || word.starts_with("pub("));
        let is_function =
            words.clone().any(|word| word == "fn") && !code.starts_with("//") && !code.starts_with('"');
        if !is_function || code.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        if let Some(length) = lines[at..].iter().position(|line| *line == end) {
            found.push((at + 1, length + 1));
        }
    }
    found
}

#[test]
fn functions_fit_a_screen() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        for (line, length) in functions(&text) {
            if length > MAX_FUNCTION_LINES {
                found.push(format!("{path}:{line}: {length} lines"));
            }
        }
    }
    assert_none("functions too long", &found);
}

#[test]
fn the_length_of_a_function_is_counted_to_its_own_end() {
    let text =
        "impl A {\n    pub(super) fn a(\n        b: u8,\n    ) {\n        if b {\n        }\n    }\n}\n";
    assert_eq!(functions(text), [(2, 6)]);
}
