//! Words of an HBA line. Owns spaces, commas, quotes and comments; independent of what the words mean.

use crate::quoted_text;

/// One token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HbaToken {
    /// A word.
    Word {
        /// Without its quotes.
        text: String,
        /// In double quotes: never a keyword.
        is_quoted: bool,
    },
    /// `,`.
    Comma,
    /// The end of the line, or a comment.
    End,
}

/// The tokens of a line, one after the other.
pub(super) struct HbaTokens<'a> {
    rest: &'a str,
    current: HbaToken,
}

/// The spaces of C's `isspace`.
fn is_space(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

impl<'a> HbaTokens<'a> {
    pub(super) fn new(line: &'a str) -> Result<Self, String> {
        let mut tokens = Self { rest: line, current: HbaToken::End };
        tokens.advance()?;
        Ok(tokens)
    }

    pub(super) fn current(&self) -> &HbaToken {
        &self.current
    }

    /// Consumes the current token and the rest of the line, which is returned.
    pub(super) fn take_rest(&mut self) -> &'a str {
        self.current = HbaToken::End;
        std::mem::take(&mut self.rest)
    }

    pub(super) fn advance(&mut self) -> Result<(), String> {
        let text = self.rest.trim_start_matches(is_space);
        let first = text.chars().next();
        (self.current, self.rest) = match first {
            None | Some('#') => (HbaToken::End, ""),
            Some(',') => (HbaToken::Comma, &text[1..]),
            Some('"') => {
                let (text, rest) = quoted_text::read(&text[1..], '"').ok_or("unterminated quoted string")?;
                (HbaToken::Word { text, is_quoted: true }, rest)
            }
            Some(_) => {
                let is_end = |c: char| matches!(c, ',' | '#' | '"') || is_space(c);
                let end = text.find(is_end).unwrap_or(text.len());
                (HbaToken::Word { text: text[..end].to_owned(), is_quoted: false }, &text[end..])
            }
        };
        Ok(())
    }

    /// Consumes a comma.
    pub(super) fn take_comma(&mut self) -> Result<bool, String> {
        let is_comma = self.current == HbaToken::Comma;
        if is_comma {
            self.advance()?;
        }
        Ok(is_comma)
    }

    /// The current token, if it is an unquoted word.
    pub(super) fn bare_word(&self) -> Option<&str> {
        match &self.current {
            HbaToken::Word { text, is_quoted: false } => Some(text),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        let mut tokens = HbaTokens::new(line).unwrap();
        let mut found = Vec::new();
        while *tokens.current() != HbaToken::End {
            found.push(match tokens.current() {
                HbaToken::Word { text, is_quoted: true } => format!("<{text}>"),
                HbaToken::Word { text, .. } => text.clone(),
                _ => ",".to_owned(),
            });
            tokens.advance().unwrap();
        }
        found
    }

    #[test]
    fn words_end_at_spaces_commas_quotes_and_comments() {
        assert_eq!(words("a\tb,c , d# e"), ["a", "b", ",", "c", ",", "d"]);
        assert_eq!(words("a\"b c\"d map=x"), ["a", "<b c>", "d", "map=x"]);
        assert_eq!(words("\"q\"\"r\" \"#,\" \"\""), ["<q\"r>", "<#,>", "<>"]);
        assert!(words(" \t\x0b").is_empty() && words("# local all").is_empty());
        assert!(HbaTokens::new("\"a \"\" b").is_err());
    }
}
