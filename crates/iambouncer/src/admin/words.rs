//! The words of a command: plain, in double quotes or in single quotes. Owns the rules for quotes, in which a doubled
//! quote stands for one.

use crate::quoted_text;

/// The first word of a text without its quotes, and the rest. `=` is a word of its own. `None` if there is none, or
/// its quote is not closed.
pub(super) fn take(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let first = text.chars().next()?;
    match first {
        '"' | '\'' => quoted_text::read(&text[1..], first),
        '=' => Some(("=".to_owned(), &text[1..])),
        _ => {
            let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
            Some((text[..end].to_owned(), &text[end..]))
        }
    }
}

/// The only word of a text; empty if there is none. `None` if there are several.
pub(super) fn at_most_one(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some(String::new());
    }
    take(text).filter(|(_, rest)| rest.trim().is_empty()).map(|(word, _)| word)
}

/// Key and value of `key = value` or `key TO value`. A value without quotes may have several words.
pub(super) fn assignment(text: &str) -> Option<(String, String)> {
    let (key, rest) = take(text)?;
    let (between, rest) = take(rest)?;
    if between != "=" && !between.eq_ignore_ascii_case("to") {
        return None;
    }
    let rest = rest.trim();
    let value = if rest.starts_with(['"', '\'']) { at_most_one(rest)? } else { rest.to_owned() };
    (!key.is_empty() && !rest.is_empty()).then_some((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_may_be_in_quotes() {
        assert_eq!(take(" pause \"a\""), Some(("pause".to_owned(), " \"a\"")));
        assert_eq!(take("\"My \"\"db\"\"\"x"), Some(("My \"db\"".to_owned(), "x")));
        assert_eq!(take("'it''s' "), Some(("it's".to_owned(), " ")));
        assert_eq!(take("\"open"), None);
        assert_eq!(take("  "), None);
        assert_eq!(at_most_one(" 'one' "), Some("one".to_owned()));
        assert_eq!(at_most_one("one two"), None);
        assert_eq!(at_most_one(""), Some(String::new()));
    }

    #[test]
    fn assignments_have_an_equals_sign_or_to() {
        let pair = |key: &str, value: &str| Some((key.to_owned(), value.to_owned()));
        assert_eq!(assignment("pool_mode=session"), pair("pool_mode", "session"));
        assert_eq!(assignment("\"pool_mode\" = 'session'"), pair("pool_mode", "session"));
        assert_eq!(assignment("a to \"b\""), pair("a", "b"));
        assert_eq!(assignment("server_reset_query = DISCARD ALL"), pair("server_reset_query", "DISCARD ALL"));
        assert_eq!(assignment("x = 'a;  b'"), pair("x", "a;  b"));
        assert_eq!(assignment("x = ''"), pair("x", ""));
        for wrong in ["", "x", "x =", "x 5", "= 5", "x = 'open", "x = 'a' 'b'"] {
            assert_eq!(assignment(wrong), None, "{wrong}");
        }
    }
}
