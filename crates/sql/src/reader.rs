//! The tokens of one statement, for those who look for words in it. Owns the forms of names.

use crate::token::{LexerSettings, SqlToken, Tokens};

/// Longest name of a setting; PostgreSQL has none that long.
pub(crate) const MAX_NAME_BYTES: usize = 128;
/// Longest identifier that a server uses (`NAMEDATALEN` less the final zero).
const MAX_IDENTIFIER_BYTES: usize = 63;

/// The tokens of a statement that can be read.
#[derive(Clone)]
pub(crate) struct Reader<'a>(Tokens<'a>);

impl<'a> Iterator for Reader<'a> {
    type Item = SqlToken<'a>;

    fn next(&mut self) -> Option<SqlToken<'a>> {
        self.0.next_token().ok().flatten()
    }
}

impl<'a> Reader<'a> {
    /// The tokens of this text.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self(Tokens::new(text, LexerSettings::DEFAULT))
    }

    /// The next token, which is not passed.
    pub(crate) fn peek(&self) -> Option<SqlToken<'a>> {
        self.clone().next()
    }

    /// Passes this keyword, if it is next. Before a dot it is a name.
    pub(crate) fn passes(&mut self, keyword: &str) -> bool {
        let mut rest = self.clone();
        let is_word = matches!(rest.next(), Some(SqlToken::Word(next)) if is(next, keyword));
        let is_next = is_word && rest.peek() != Some(SqlToken::Symbol(b'.'));
        if is_next {
            *self = rest;
        }
        is_next
    }

    /// A name, possibly with dots, in lower case. Names of settings do not depend on case, even in quotes. `None` if it contains a
    /// quote.
    pub(crate) fn setting_name(&mut self) -> Option<String> {
        let mut name = String::new();
        loop {
            match self.next()? {
                SqlToken::Word(part) | SqlToken::QuotedName(part) if !part.contains(&b'"') => {
                    name.push_str(&String::from_utf8_lossy(cut(part)?).to_ascii_lowercase());
                }
                _ => return None,
            }
            match self.peek() {
                Some(SqlToken::Symbol(b'.')) => {
                    self.next();
                    name.push('.');
                }
                _ => return (name.len() <= MAX_NAME_BYTES).then_some(name),
            }
        }
    }
}

/// An identifier as the server reads it: the rest of a longer one is ignored. `None` if where it is cut depends on the encoding
/// of the server.
pub(crate) fn cut(identifier: &[u8]) -> Option<&[u8]> {
    match identifier.get(..MAX_IDENTIFIER_BYTES) {
        Some(kept) if identifier.len() > MAX_IDENTIFIER_BYTES => identifier.is_ascii().then_some(kept),
        _ => Some(identifier),
    }
}

/// True if the word is this keyword.
pub(crate) fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// True if the word is one of these keywords.
pub(crate) fn is_any(word: &[u8], keywords: &[&str]) -> bool {
    keywords.iter().any(|keyword| is(word, keyword))
}

/// True if the token is a word that is one of these keywords.
pub(crate) fn is_keyword(token: SqlToken<'_>, keywords: &[&str]) -> bool {
    matches!(token, SqlToken::Word(word) if is_any(word, keywords))
}

/// True if the text of a token contains this, ignoring case.
pub(crate) fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_of_a_setting_is_cut_as_by_the_server() {
        let name = |text: &str| Reader::new(text.as_bytes()).setting_name();
        let long = "x".repeat(MAX_IDENTIFIER_BYTES + 1);
        assert_eq!(name(&format!("{long}.{long}")), Some(format!("{0}.{0}", &long[1..])));
        assert_eq!(name(&format!("\"ä{long}\"")), None, "that depends on the encoding");
    }
}
