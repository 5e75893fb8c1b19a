//! DEALLOCATE and EXECUTE of one prepared statement. Owns their forms, as far as the name has to be found.

use crate::reader::{cut, is};
use crate::token::{LexerSettings, SqlToken, Tokens};
use std::ops::Range;

/// Tokens before EXECUTE that are examined: EXPLAIN with its options.
const MAX_TOKENS: usize = 24;

/// What a text does with a prepared statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreparedUse {
    /// `DEALLOCATE name`.
    Deallocate,
    /// `EXECUTE name`, also behind EXPLAIN.
    Execute,
}

/// A prepared statement that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedName {
    /// What it does with it.
    pub name_use: PreparedUse,
    /// The name, in lower case unless it is in quotes.
    pub name: Vec<u8>,
    /// Where it is in the text, with its quotes.
    pub place: Range<usize>,
}

/// The prepared statement that `text` names, if it is a single DEALLOCATE or EXECUTE. Other texts are left after their first
/// letter. Names with escapes are not found.
pub fn prepared_name(text: &[u8]) -> Option<PreparedName> {
    let begins = text.iter().find(|byte| !byte.is_ascii_whitespace())?;
    if !matches!(begins, b'd' | b'D' | b'e' | b'E' | b'/' | b'-') {
        return None;
    }
    let mut tokens = Tokens::new(text, LexerSettings::DEFAULT);
    let first = tokens.next_token().ok()??;
    let name_use = match first {
        SqlToken::Word(word) if is(word, "deallocate") => PreparedUse::Deallocate,
        SqlToken::Word(word) if is(word, "execute") => PreparedUse::Execute,
        SqlToken::Word(word) if is(word, "explain") => pass_options(&mut tokens)?,
        _ => return None,
    };
    let mut named = tokens.next_with_place().ok()??;
    if name_use == PreparedUse::Deallocate && is_word(named.0, "prepare") {
        let behind = tokens.clone().next_token().ok()?;
        if matches!(behind, Some(SqlToken::Word(_) | SqlToken::QuotedName(_))) {
            named = tokens.next_with_place().ok()??;
        }
    }
    let name = match named.0 {
        SqlToken::Word(word) if name_use == PreparedUse::Deallocate && is(word, "all") => return None,
        SqlToken::Word(word) => word.to_ascii_lowercase(),
        SqlToken::QuotedName(name) => unquoted(name),
        _ => return None,
    };
    let name = cut(&name)?.to_vec();
    is_last(tokens, name_use).then_some(PreparedName { name_use, name, place: named.1 })
}

/// Passes the options of EXPLAIN, and EXECUTE.
fn pass_options(tokens: &mut Tokens<'_>) -> Option<PreparedUse> {
    let mut is_list = false;
    for at in 0..MAX_TOKENS {
        match tokens.next_token().ok()?? {
            SqlToken::Symbol(b'(') if at == 0 => is_list = true,
            SqlToken::Symbol(b')') if is_list => {
                return is_word(tokens.next_token().ok()??, "execute").then_some(PreparedUse::Execute);
            }
            SqlToken::Word(_) | SqlToken::Symbol(b',') if is_list => {}
            SqlToken::Word(word) if is(word, "execute") => return Some(PreparedUse::Execute),
            SqlToken::Word(word) if is(word, "analyze") || is(word, "analyse") || is(word, "verbose") => {}
            _ => return None,
        }
    }
    None
}

/// True if no other statement follows: only arguments, and a semicolon.
fn is_last(mut tokens: Tokens<'_>, name_use: PreparedUse) -> bool {
    let mut has_ended = false;
    loop {
        match tokens.next_token() {
            Ok(None) => return true,
            Ok(Some(SqlToken::Symbol(b';'))) => has_ended = true,
            Ok(Some(_)) if !has_ended && name_use == PreparedUse::Execute => {}
            _ => return false,
        }
    }
}

fn is_word(token: SqlToken<'_>, keyword: &str) -> bool {
    matches!(token, SqlToken::Word(word) if is(word, keyword))
}

/// A name without the doubling of its quotes.
fn unquoted(name: &[u8]) -> Vec<u8> {
    let mut was_quote = false;
    let is_kept = |byte: &&u8| {
        was_quote = **byte == b'"' && !was_quote;
        **byte != b'"' || was_quote
    };
    name.iter().filter(is_kept).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_single_statement_is_found() {
        for (text, name_use, name, place) in [
            ("DEALLOCATE p", PreparedUse::Deallocate, "p", "p"),
            ("deallocate prepare \"P\";", PreparedUse::Deallocate, "P", "\"P\""),
            ("DEALLOCATE prepare", PreparedUse::Deallocate, "prepare", "prepare"),
            (" /* x */ DEALLOCATE \"a\"\"b\" ; ", PreparedUse::Deallocate, "a\"b", "\"a\"\"b\""),
            ("EXECUTE S_1", PreparedUse::Execute, "s_1", "S_1"),
            ("execute s(1, 'a;b', $$;$$);", PreparedUse::Execute, "s", "s"),
            ("EXPLAIN EXECUTE s", PreparedUse::Execute, "s", "s"),
            ("explain analyze verbose execute s", PreparedUse::Execute, "s", "s"),
            ("explain (analyze, format json) execute \"s\" (1)", PreparedUse::Execute, "s", "\"s\""),
        ] {
            let found = prepared_name(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(
                (found.name_use, &found.name[..], &text[found.place]),
                (name_use, name.as_bytes(), place),
                "{text}"
            );
        }
    }

    #[test]
    fn other_texts_name_none() {
        for text in [
            "SELECT 1",
            "DEALLOCATE ALL",
            "DEALLOCATE PREPARE ALL",
            "DEALLOCATE p; SELECT 1",
            "EXECUTE p; EXECUTE q",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE CREATE TEMP TABLE x AS EXECUTE p",
            "EXPLAIN (ANALYZE) SELECT execute p",
            "EXPLAIN (FORMAT 'json') EXECUTE p",
            "DELETE FROM t",
            "END",
            "DEALLOCATE U&\"p\"",
            "DEALLOCATE 'p",
            "",
        ] {
            assert_eq!(prepared_name(text.as_bytes()), None, "{text}");
        }
    }
}
