//! Escaping of untrusted text for output. Owns the characters that could control a terminal or forge a line: names
//! and messages of clients, servers and AWS are escaped for logs, reports and terminals.
//!
//! Messages to clients are not escaped.

use std::fmt::{self, Write};

/// The escape of a character that must not be printed; `None` if it may be.
fn escape(c: char) -> Option<Escaped> {
    match c {
        '\n' => Some(Escaped::Short("\\n")),
        '\r' => Some(Escaped::Short("\\r")),
        '\t' => Some(Escaped::Short("\\t")),
        // C0 with ESC, DEL, and C1 with the one-byte CSI.
        c if c.is_control() => Some(Escaped::Number(c)),
        // Characters that reorder or hide text, or end a line in some programs.
        '\u{061c}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}' => Some(Escaped::Number(c)),
        _ => None,
    }
}

enum Escaped {
    Short(&'static str),
    Number(char),
}

impl Escaped {
    fn write(&self, out: &mut impl Write) -> fmt::Result {
        match self {
            Self::Short(text) => out.write_str(text),
            Self::Number(c) if c.is_ascii() => write!(out, "\\x{:02x}", u32::from(*c)),
            Self::Number(c) => write!(out, "\\u{{{:x}}}", u32::from(*c)),
        }
    }
}

/// Escapes all text written through it.
pub struct Escaping<W>(pub W);

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain_from = 0;
        for (at, c) in text.char_indices() {
            if let Some(escaped) = escape(c) {
                self.0.write_str(&text[plain_from..at])?;
                escaped.write(&mut self.0)?;
                plain_from = at + c.len_utf8();
            }
        }
        self.0.write_str(&text[plain_from..])
    }
}

/// Escapes a text so that it is one line.
pub fn line(text: &str) -> String {
    let mut out = Escaping(String::with_capacity(text.len()));
    // Writing to a String cannot fail.
    let _ = out.write_str(text);
    out.0
}

/// Escapes a text of the pooler that may have several lines.
pub fn lines(text: &str) -> String {
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Writes a value after `name=`, in quotes if it could be ambiguous.
pub fn write_value(out: &mut impl Write, value: &str) -> fmt::Result {
    let is_plain = |c: char| !c.is_whitespace() && !matches!(c, '"' | '\\' | '=') && escape(c).is_none();
    if !value.is_empty() && value.chars().all(is_plain) {
        return out.write_str(value);
    }
    write_quoted(out, value)
}

/// Writes a value in quotes.
pub fn write_quoted(out: &mut impl Write, value: &str) -> fmt::Result {
    out.write_char('"')?;
    for c in value.chars() {
        match escape(c) {
            Some(escaped) => escaped.write(out)?,
            None if matches!(c, '"' | '\\') => write!(out, "\\{c}")?,
            None => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            line("a\nb\r\t\u{1b}[2J\u{9b}1m\u{202e}\u{2028}é"),
            "a\\nb\\r\\t\\x1b[2J\\u{9b}1m\\u{202e}\\u{2028}é"
        );
        assert_eq!(lines("a\n\u{7}b"), "a\n\\x07b");
    }

    #[test]
    fn a_value_cannot_imitate_other_fields() {
        let shown = |value: &str| {
            let mut out = String::new();
            write_value(&mut out, value).unwrap();
            out
        };
        assert_eq!(shown("app"), "app");
        assert_eq!(shown(""), "\"\"");
        assert_eq!(shown("x database=y"), "\"x database=y\"");
        assert_eq!(shown("a\"\\\n"), "\"a\\\"\\\\\\n\"");
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_line_without_controls(text in "\\PC*|.*|[\u{0}-\u{ff}]*") {
            prop_assert!(!line(&text).chars().any(char::is_control));
        }
    }
}
