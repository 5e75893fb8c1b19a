//! The words that `docs/style.md` avoids, in code, comments, log lines and documentation.

use crate::{assert_none, files, root};

/// Files that list the words, or that others have written.
/// The pages of measurements keep the words of the run that wrote them.
const EXEMPT: [&str; 4] =
    ["docs/style.md", "crates/iambouncer/tests/source/", "bench/RESULTS.md", "bench/TOKENS.md"];
const HEADING: &str = "## Words to avoid";

/// Names that were replaced before 0.1.0, as they would stand in code.
const OLD_NAMES: [&str; 51] = [
    "Introduction",
    "introductions",
    "Vitals",
    "vitals",
    "Heart",
    "ProofDesk",
    "AwsDesk",
    "Welcome",
    "Greeting",
    "Succession",
    "succession",
    "TakeOver",
    "lending::",
    "growth::",
    "sweep::",
    "calm_down",
    "hungry",
    "cry",
    "Errand",
    "errand",
    "bell",
    "bells_rung",
    "Team",
    "Door",
    "Seat",
    "Guest",
    "Ending",
    "Farewell",
    "Fault",
    "Cause",
    "Verdict",
    "verdict",
    "weigh",
    "disown",
    "has_news",
    "Ebb",
    "Flight",
    "Turn",
    "ForgetfulQuery",
    "OwnQuery",
    "fn own(",
    "fn part(",
    "fn say(",
    "fn me(",
    "fn beat(",
    "struct Need",
    "struct Shown",
    "struct Seen",
    "struct Wanted",
    "struct Asked",
    "struct Held",
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
    for (path, text) in checked_files() {
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
    for (path, text) in checked_files().into_iter().filter(|(path, _)| path.ends_with(".rs")) {
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
