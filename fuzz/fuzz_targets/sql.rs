//! Fuzzes the reading of SQL. Owns these properties: no text panics, tokens and statements are parts of the text in their
//! order, and a name is found where it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sql::SessionChanges;
use sql::statements::Statements;
use sql::token::{LexerSettings, Tokens};

/// Characters of a statement in a summary.
const SUMMARY_CHARS: usize = 80;

fuzz_target!(|input: (bool, bool, &[u8])| {
    let (standard_conforming_strings, ascii_in_characters, text) = input;
    let settings = LexerSettings { standard_conforming_strings, ascii_in_characters };
    let mut end = 0;
    let mut tokens = Tokens::new(text, settings);
    while let Ok(Some((_, place))) = tokens.next_with_place() {
        assert!(place.start >= end && place.end > place.start && place.end <= text.len());
        end = place.end;
    }
    let mut end = 0;
    let mut statements = Statements::new(text, settings);
    while let Ok(Some(place)) = statements.next_statement() {
        assert!(place.start >= end && place.end <= text.len());
        end = place.end;
    }
    if let Some(named) = sql::prepared_name(text) {
        assert!(named.place.end <= text.len() && !named.place.is_empty());
    }
    let _ = SessionChanges::of(text);
    assert!(sql::summary(text, SUMMARY_CHARS).chars().count() <= SUMMARY_CHARS + 1);
});
