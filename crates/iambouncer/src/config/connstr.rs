//! PgBouncer's connection strings: `host=db1 password='it''s' port=5432`.
//!
//! Owns splitting and quoting; independent of the keys.

use std::ops::Range;

use zeroize::Zeroizing;

/// One `key=value` and its position. No `Debug`: the value may be a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The key as written.
    pub key: String,
    /// Position of the key in the text.
    pub key_bytes: Range<usize>,
    /// The value without its quotes.
    pub value: Zeroizing<String>,
    /// Position of the value in the text, including quotes.
    pub value_bytes: Range<usize>,
}

/// A syntax error and its position. The text never contains a value, which could be a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    /// What is wrong.
    pub message: &'static str,
    /// Its position in the text.
    pub bytes: Range<usize>,
}

/// Splits a connection string into its pairs, in order.
pub fn parse(text: &str) -> Result<Vec<Pair>, SyntaxError> {
    let mut pairs = Vec::new();
    let mut position = skip_space(text, 0);
    while position < text.len() {
        let pair = parse_pair(text, position)?;
        position = skip_space(text, pair.value_bytes.end);
        pairs.push(pair);
    }
    Ok(pairs)
}

fn parse_pair(text: &str, start: usize) -> Result<Pair, SyntaxError> {
    let key_end = find(text, start, |letter| letter == '=' || letter.is_whitespace());
    let equals = skip_space(text, key_end);
    if !text[equals..].starts_with('=') {
        return Err(SyntaxError { message: "expected key=value", bytes: start..key_end });
    }
    if key_end == start {
        return Err(SyntaxError { message: "a key is missing before \"=\"", bytes: equals..equals + 1 });
    }
    let value_start = skip_space(text, equals + 1);
    let (value, value_end) = if text[value_start..].starts_with('\'') {
        parse_quoted(text, value_start)?
    } else {
        let end = find(text, value_start, char::is_whitespace);
        (text[value_start..end].to_owned(), end)
    };
    if value.is_empty() {
        return Err(SyntaxError { message: "the value is empty", bytes: start..value_end });
    }
    Ok(Pair {
        key: text[start..key_end].to_owned(),
        key_bytes: start..key_end,
        value: Zeroizing::new(value),
        value_bytes: value_start..value_end,
    })
}

/// Parses from the opening quote; returns the value and the position after the closing quote.
fn parse_quoted(text: &str, open: usize) -> Result<(String, usize), SyntaxError> {
    let mut value = String::new();
    let mut position = open + 1;
    loop {
        let quote = find(text, position, |letter| letter == '\'');
        value.push_str(&text[position..quote]);
        if quote == text.len() {
            return Err(SyntaxError { message: "unterminated quoted value", bytes: open..open + 1 });
        }
        position = quote + 1;
        if !text[position..].starts_with('\'') {
            break;
        }
        value.push('\'');
        position += 1;
    }
    match text[position..].chars().next() {
        Some(letter) if !letter.is_whitespace() => Err(SyntaxError {
            message: "expected a space after the closing quote (write a quote inside as two quotes)",
            bytes: position - 1..position,
        }),
        _ => Ok((value, position)),
    }
}

fn find(text: &str, from: usize, matches: impl Fn(char) -> bool) -> usize {
    text[from..].find(matches).map_or(text.len(), |offset| from + offset)
}

fn skip_space(text: &str, from: usize) -> usize {
    find(text, from, |letter| !letter.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).expect(text).into_iter().map(|pair| (pair.key, pair.value.to_string())).collect()
    }

    fn message(text: &str) -> &'static str {
        parse(text).err().expect(text).message
    }

    #[test]
    fn splits_plain_and_quoted_values() {
        let found = pairs("host=db1 dbname='a''b'  port = 5432 password='x y='");
        let expected = [("host", "db1"), ("dbname", "a'b"), ("port", "5432"), ("password", "x y=")];
        assert_eq!(found, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(pairs("  "), []);
        assert_eq!(pairs("password=a'b")[0].1, "a'b");
    }

    #[test]
    fn errors_describe_the_problem() {
        assert_eq!(message("host"), "expected key=value");
        assert_eq!(message("=5"), "a key is missing before \"=\"");
        assert_eq!(message("host="), "the value is empty");
        assert_eq!(message("host=''"), "the value is empty");
        assert_eq!(message("password='abc''"), "unterminated quoted value");
        assert!(message("password='a'b'").starts_with("expected a space"));
    }

    #[test]
    fn positions_of_keys_and_values_are_returned() {
        let text = "a='ü' bc=d";
        let found = parse(text).expect("valid");
        assert_eq!(&text[found[0].value_bytes.clone()], "'ü'");
        assert_eq!(&text[found[1].key_bytes.clone()], "bc");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\PC|['= \t]){0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn quoted_values_round_trip(value in "[^\0]{1,30}") {
            let text = format!("k='{}'", value.replace('\'', "''"));
            proptest::prop_assert_eq!(&*parse(&text).expect("quoted")[0].value, &value);
        }
    }
}
