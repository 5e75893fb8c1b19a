//! What is found in a text, compared with the tree of PostgreSQL's own parser: on the SQL that PostgreSQL installs, on a list of
//! statements that change sessions, and on random changes of both.
//!
//! Longer runs: `LEXER_TEXTS=1000000 cargo test -p sql --test postgres_parser`; `LEXER_SEED` repeats a run, `LEXER_CORPUS` is a
//! directory with more files. Needs what `tools/drivers` installs.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed unwrap is a failed test

mod facts;
mod parser;
mod texts;

use facts::Tree;
use parser::{Parsed, Parser};
use sql::statements::Statements;
use sql::token::{LexerSettings, SqlToken, Tokens, Unreadable};
use sql::{Feature, SessionChanges};
use texts::Random;

/// Random texts of a run of all tests.
const DEFAULT_TEXTS: u64 = 20_000;

fn number_of(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// What a run has seen.
#[derive(Default)]
struct Count {
    refused: usize,
    unreadable: usize,
    changing: usize,
    compared: usize,
    /// Texts for which a client would keep its server although the parser finds no reason.
    kept_without_reason: usize,
}

/// Compares one text that PostgreSQL accepts.
fn compare(text: &str, parsed: &Parsed, count: &mut Count) {
    count.compared += 1;
    let changes = SessionChanges::of(text.as_bytes()).map(|changes| *changes).unwrap_or_default();
    if changes.begins.contains(Feature::UnreadableText) {
        count.unreadable += 1;
        return;
    }
    compare_tokens(text, &parsed.quoted);
    compare_statements(text, &parsed.statements());
    let tree = Tree::of(&parsed.tree);
    count.changing += usize::from(!tree.is_empty());
    if let Some(missing) = tree.missing_in(&changes) {
        panic!("{missing} was not found in:\n{text}\n{changes:?}");
    }
    count.kept_without_reason += usize::from(tree.is_empty() && !changes.begins.is_empty());
}

/// Strings and names in quotes begin and end at the same places.
fn compare_tokens(text: &str, theirs: &[[usize; 2]]) {
    let mut tokens = Tokens::new(text.as_bytes(), LexerSettings::DEFAULT);
    let mut ours = Vec::new();
    loop {
        match tokens.next_with_place() {
            Ok(Some((token, place))) => {
                if matches!(
                    token,
                    SqlToken::String(_)
                        | SqlToken::EscapedString(_)
                        | SqlToken::DollarString(_)
                        | SqlToken::QuotedName(_)
                        | SqlToken::EscapedName(_)
                ) {
                    ours.push(place);
                }
            }
            Ok(None) => break,
            Err(error) => panic!("{error:?}:\n{text}"),
        }
    }
    // The N of N'…' is a token of its own there; 'a'\n'b' is one string.
    let begins = |at: usize| ours.iter().any(|place| place.start == at || place.start + 1 == at);
    let ends = |at: usize| ours.iter().any(|place| place.end == at);
    for [start, end] in theirs {
        assert!(begins(*start) && ends(*end), "{} in:\n{text}\n{ours:?}", &text[*start..*end]);
    }
    for place in &ours {
        let is_within = theirs.iter().any(|[start, end]| place.start + 1 >= *start && place.end <= *end);
        assert!(is_within, "{} in:\n{text}\n{theirs:?}", &text[place.clone()]);
    }
}

/// The statements are the same. Where END may be a name, within BEGIN ATOMIC, a statement may be found in parts.
fn compare_statements(text: &str, theirs: &[[usize; 2]]) {
    let mut statements = Statements::new(text.as_bytes(), LexerSettings::DEFAULT);
    let mut ours = Vec::new();
    while let Some(range) = statements.next_statement().expect("it was read before") {
        ours.push(range);
    }
    let has_body = text.to_ascii_lowercase().contains("atomic");
    let is_one = |our: &std::ops::Range<usize>| {
        theirs.iter().any(|[start, end]| *start <= our.start && our.end <= *end)
    };
    let has_as_many = ours.len() == theirs.len() || has_body && ours.len() > theirs.len();
    assert!(has_as_many && ours.iter().all(is_one), "{ours:?} {theirs:?} in:\n{text}");
}

fn compare_all(parser: &mut Parser, texts: &[String], count: &mut Count) {
    for text in texts {
        match parser.parse(text) {
            Some(parsed) => compare(text, &parsed, count),
            None => count.refused += 1,
        }
    }
}

fn report(what: &str, count: &Count) {
    println!(
        "{what}: {} texts compared, {} of which change the session; {} unreadable; {} refused by PostgreSQL; \
         in {} a client would keep its server without a reason",
        count.compared, count.changing, count.unreadable, count.refused, count.kept_without_reason
    );
}

#[test]
fn everything_that_the_parser_finds_is_found() {
    let mut parser = Parser::start();
    let listed: Vec<String> = texts::LISTED.iter().map(|text| (*text).to_owned()).collect();
    let mut count = Count::default();
    compare_all(&mut parser, &listed, &mut count);
    assert_eq!(count.refused, 0, "a statement of the list is wrong");
    report("statements of the list", &count);

    let (files, statements) = texts::corpus();
    let mut count = Count::default();
    compare_all(&mut parser, &files, &mut count);
    compare_all(&mut parser, &statements, &mut count);
    assert!(count.compared > 1000, "PostgreSQL's files were not found");
    report("files and their statements", &count);

    let seed = number_of("LEXER_SEED", u64::from(std::process::id()));
    println!("LEXER_SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut count = Count::default();
    for _ in 0..number_of("LEXER_TEXTS", DEFAULT_TEXTS) {
        compare_all(&mut parser, &[random.text(&listed, &statements)], &mut count);
    }
    report("random texts", &count);
}

#[test]
fn a_text_without_an_end_is_refused_by_both() {
    let texts = ["SELECT 'a", "SELECT \"a", "SELECT $a$ b", "SELECT 1 /* a", "SELECT E'a\\'"];
    let mut parser = Parser::start();
    for text in texts {
        assert!(parser.parse(text).is_none(), "{text}");
        let mut statements = Statements::new(text.as_bytes(), LexerSettings::DEFAULT);
        assert_eq!(statements.next_statement(), Err(Unreadable::Unterminated), "{text}");
    }
}
