//! The words that `docs/style.md` avoids, in code, comments, log lines and documentation.

use crate::{assert_none, files, root};

/// Files that list the words, or that others have written.
const EXEMPT: [&str; 2] = ["docs/style.md", "crates/iambouncer/tests/source/"];
/// Files and directories whose words are checked already.
const CHECKED: &[&str] = &[
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "bench/NOTES.md",
    "docs/",
    "crates/iambouncer/src/auth/",
    "crates/iambouncer/src/cli/",
    "crates/iambouncer/src/client/",
    "crates/iambouncer/src/config/",
    "crates/iambouncer/src/doctor/",
    "crates/iambouncer/src/host_names/",
    "crates/iambouncer/src/http/",
    "crates/iambouncer/src/limits/",
    "crates/iambouncer/src/net/",
    "crates/iambouncer/src/stats/",
    "crates/iambouncer/src/client_error.rs",
    "crates/iambouncer/src/client_identity.rs",
    "crates/iambouncer/src/clients.rs",
    "crates/iambouncer/src/context.rs",
    "crates/iambouncer/src/credential_causes.rs",
    "crates/iambouncer/src/files.rs",
    "crates/iambouncer/src/health_state.rs",
    "crates/iambouncer/src/identities.rs",
    "crates/iambouncer/src/lib.rs",
    "crates/iambouncer/src/lifecycle.rs",
    "crates/iambouncer/src/log_limit.rs",
    "crates/iambouncer/src/login_failure.rs",
    "crates/iambouncer/src/main.rs",
    "crates/iambouncer/src/parameters.rs",
    "crates/iambouncer/src/pending_logins.rs",
    "crates/iambouncer/src/printable.rs",
    "crates/iambouncer/src/process.rs",
    "crates/iambouncer/src/sql_client.rs",
    "crates/iambouncer/tests/",
    "crates/rds-iam/",
    "crates/wire/",
    "crates/rds-sim/",
    "crates/rds-sim-pam/",
    "crates/rds-iam-examples/",
    "fuzz/",
    "crates/bench/",
];
const HEADING: &str = "## Words to avoid";

/// Names that were replaced before 0.1.0, as they would stand in code.
const OLD_NAMES: [&str; 24] = [
    "Introduction",
    "introductions::",
    "Vitals",
    "vitals::",
    "ProofDesk",
    "AwsDesk",
    "Welcome",
    "Succession",
    "TakeOver",
    "calm_down(",
    "fn cry(",
    "Errand",
    "bells_rung",
    "Team",
    ".me()",
    "Farewell",
    "crate::faults",
    "crate::causes",
    "fn weigh(",
    "disown",
    "has_news",
    "ForgetfulQuery",
    "OwnQuery",
    "struct Guest",
];

fn words() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/style.md")).unwrap();
    let table = text.split_once(HEADING).unwrap().1;
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    cells.flat_map(|cell| cell.split(',')).map(|word| word.trim().to_owned()).collect()
}

fn checked_files() -> Vec<(String, String)> {
    let all = files("", &[".rs", ".md"]);
    all.into_iter().filter(|(path, _)| !EXEMPT.iter().any(|exempt| path.starts_with(exempt))).collect()
}

/// True if the line has the word, or words, with nothing but a boundary on both sides.
fn has_word(line: &str, word: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(word).any(|(at, _)| {
        !is_letter(line[..at].chars().next_back()) && !is_letter(line[at + word.len()..].chars().next())
    })
}

#[test]
fn words_to_avoid_are_avoided() {
    let words = words();
    assert!(words.len() > 5, "{words:?}");
    let mut found = Vec::new();
    let all = checked_files().into_iter();
    for (path, text) in all.filter(|(path, _)| CHECKED.iter().any(|checked| path.starts_with(checked))) {
        for (at, line) in text.lines().enumerate() {
            let plain = line.replace('_', " ").to_lowercase();
            if let Some(word) = words.iter().find(|word| has_word(&plain, word)) {
                found.push(format!("{path}:{}: {word}: {}", at + 1, line.trim()));
            }
        }
    }
    assert_none("lines with words that docs/style.md avoids", &found);
}

#[test]
fn replaced_names_are_gone() {
    let mut found = Vec::new();
    for (path, text) in checked_files().into_iter().filter(|(path, _)| path != "CHANGELOG.md") {
        for (at, line) in text.lines().enumerate() {
            if let Some(name) = OLD_NAMES.iter().find(|name| has_word(line, name)) {
                found.push(format!("{path}:{}: {name}", at + 1));
            }
        }
    }
    assert_none("uses of names that were replaced", &found);
}

#[test]
fn words_are_found_between_boundaries_only() {
    assert!(has_word("a client is told why", "told"));
    assert!(!has_word("a stolder", "told"));
    assert!(has_word("told", "told"));
}
