//! Tokens of a text. Owns strings, comments and identifiers, whose rules decide what the rest of the text is. Keywords
//! are words like others.

use std::ops::Range;

/// What the text is read with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LexerSettings {
    /// `standard_conforming_strings`: a backslash in `'…'` is an ordinary character.
    pub standard_conforming_strings: bool,
    /// A byte below 0x80 may be part of a longer character of `client_encoding`.
    pub ascii_in_characters: bool,
}

impl LexerSettings {
    /// PostgreSQL's default, with an encoding that servers support, too.
    pub const DEFAULT: Self = Self { standard_conforming_strings: true, ascii_in_characters: false };
}

/// A token. Slices are parts of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SqlToken<'a> {
    /// A keyword or an identifier without quotes.
    Word(&'a [u8]),
    /// `"…"`, without the outer quotes.
    QuotedName(&'a [u8]),
    /// `U&"…"`, which may contain escapes.
    EscapedName(&'a [u8]),
    /// `'…'` or `N'…'`, without the outer quotes; may contain `''`.
    String(&'a [u8]),
    /// `E'…'`, `U&'…'`, `B'…'` or `X'…'`.
    EscapedString(&'a [u8]),
    /// `$tag$…$tag$`, without the tags.
    DollarString(&'a [u8]),
    /// `$1`.
    Parameter(&'a [u8]),
    /// Digits, and a decimal point; an exponent is a word.
    Number(&'a [u8]),
    /// A part of an operator, or punctuation.
    Symbol(u8),
}

/// Why a text cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// A string, a name in quotes or a comment has no end. PostgreSQL refuses the text as a whole.
    Unterminated,
    /// A backslash in `'…'` with `standard_conforming_strings = off`.
    Backslash,
    /// Bytes above 0x7f in an encoding in which those below may belong to a character.
    Encoding,
    /// A body that begins with BEGIN ATOMIC, in which these words may be names, has no END.
    Body,
}

/// The tokens of a text, up to its first zero byte.
#[derive(Debug, Clone)]
pub struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
    settings: LexerSettings,
}

/// The text without its first zero byte and what is behind that.
pub(crate) fn until_zero(text: &[u8]) -> &[u8] {
    &text[..memchr::memchr(0, text).unwrap_or(text.len())]
}

impl<'a> Tokens<'a> {
    /// The tokens of `text`.
    pub fn new(text: &'a [u8], settings: LexerSettings) -> Self {
        Self { text: until_zero(text), at: 0, settings }
    }

    /// The next token; `None` at the end of the text.
    ///
    /// # Errors
    /// The rest cannot be read.
    pub fn next_token(&mut self) -> Result<Option<SqlToken<'a>>, Unreadable> {
        Ok(self.next_with_place()?.map(|(token, _)| token))
    }

    /// The same, with its place in the text.
    ///
    /// # Errors
    /// The rest cannot be read.
    pub fn next_with_place(&mut self) -> Result<Option<(SqlToken<'a>, Range<usize>)>, Unreadable> {
        if self.at == 0 && self.settings.ascii_in_characters && !self.text.is_ascii() {
            return Err(Unreadable::Encoding);
        }
        self.skip_blanks()?;
        let from = self.at;
        let Some(&first) = self.text.get(from) else { return Ok(None) };
        let token = match first {
            b'\'' => self.plain_string(self.at + 1)?,
            b'"' => SqlToken::QuotedName(self.quoted(self.at + 1, b'"')?),
            b'$' => self.dollar()?,
            b'0'..=b'9' => self.number(),
            b'.' if self.byte(1).is_some_and(|byte| byte.is_ascii_digit()) => self.number(),
            _ if begins_word(first) => self.word()?,
            _ => {
                self.at += 1;
                SqlToken::Symbol(first)
            }
        };
        Ok(Some((token, from..self.at)))
    }

    /// The byte at this distance from the position.
    fn byte(&self, distance: usize) -> Option<u8> {
        self.text.get(self.at + distance).copied()
    }

    fn skip_blanks(&mut self) -> Result<(), Unreadable> {
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c), _) => self.at += 1,
                (Some(b'-'), Some(b'-')) => self.skip_line(),
                (Some(b'/'), Some(b'*')) => self.skip_block()?,
                _ => return Ok(()),
            }
        }
    }

    /// Skips the rest of a line, without its end.
    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
    }

    /// Skips a block comment. They nest.
    fn skip_block(&mut self) -> Result<(), Unreadable> {
        let mut depth = 0_u32;
        loop {
            match (self.byte(0), self.byte(1)) {
                (Some(b'/'), Some(b'*')) => (depth, self.at) = (depth + 1, self.at + 2),
                (Some(b'*'), Some(b'/')) => {
                    (depth, self.at) = (depth - 1, self.at + 2);
                    if depth == 0 {
                        return Ok(());
                    }
                }
                (Some(_), _) => self.at += 1,
                (None, _) => return Err(Unreadable::Unterminated),
            }
        }
    }

    /// The content of a string or name that begins at `from`, in which only a doubled quote stands for a quote.
    fn quoted(&mut self, from: usize, quote: u8) -> Result<&'a [u8], Unreadable> {
        let mut end = from;
        loop {
            let rest = self.text.get(end..).unwrap_or_default();
            end += rest.iter().position(|&byte| byte == quote).ok_or(Unreadable::Unterminated)?;
            if self.text.get(end + 1) != Some(&quote) {
                self.at = end + 1;
                return Ok(&self.text[from..end]);
            }
            end += 2;
        }
    }

    fn plain_string(&mut self, from: usize) -> Result<SqlToken<'a>, Unreadable> {
        let content = self.quoted(from, b'\'')?;
        if !self.settings.standard_conforming_strings && content.contains(&b'\\') {
            return Err(Unreadable::Backslash);
        }
        Ok(SqlToken::String(content))
    }

    /// The content of a string with backslashes. It continues in a string after a line break, which has them, too.
    fn backslash_string(&mut self, from: usize) -> Result<SqlToken<'a>, Unreadable> {
        let mut end = from;
        loop {
            match (self.text.get(end), self.text.get(end + 1)) {
                (Some(b'\\'), Some(_)) | (Some(b'\''), Some(b'\'')) => end += 2,
                (Some(b'\''), _) => {
                    self.at = end + 1;
                    match self.continuation() {
                        Some(next) => end = next,
                        None => return Ok(SqlToken::EscapedString(&self.text[from..end])),
                    }
                }
                (Some(_), _) => end += 1,
                (None, _) => return Err(Unreadable::Unterminated),
            }
        }
    }

    /// Where the content of a string continues that has ended at the position: behind blanks with a line break, and
    /// comments that end with one.
    fn continuation(&self) -> Option<usize> {
        let mut rest = self.clone();
        let mut has_line_break = false;
        loop {
            match (rest.byte(0)?, rest.byte(1)) {
                (b' ' | b'\t' | 0x0b | 0x0c, _) => rest.at += 1,
                (b'\n' | b'\r', _) => (has_line_break, rest.at) = (true, rest.at + 1),
                (b'-', Some(b'-')) => rest.skip_line(),
                (b'\'', _) if has_line_break => return Some(rest.at + 1),
                _ => return None,
            }
        }
    }

    /// `$1`, `$tag$…$tag$`, or a single character.
    fn dollar(&mut self) -> Result<SqlToken<'a>, Unreadable> {
        let from = self.at;
        let rest = &self.text[from + 1..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits > 0 {
            self.at += 1 + digits;
            return Ok(SqlToken::Parameter(&rest[..digits]));
        }
        let is_tag =
            |(place, byte): &(usize, &u8)| begins_word(**byte) || *place > 0 && byte.is_ascii_digit();
        let tag = rest.iter().enumerate().take_while(is_tag).count();
        if rest.get(tag) != Some(&b'$') {
            self.at += 1;
            return Ok(SqlToken::Symbol(b'$'));
        }
        let (delimiter, content) = self.text[from..].split_at(tag + 2);
        let length = find(content, delimiter).ok_or(Unreadable::Unterminated)?;
        self.at += delimiter.len() + length + delimiter.len();
        Ok(SqlToken::DollarString(&content[..length]))
    }

    fn number(&mut self) -> SqlToken<'a> {
        let rest = &self.text[self.at..];
        let length = rest.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'.')).count();
        self.at += length;
        SqlToken::Number(&rest[..length])
    }

    /// A word, or a string or name with a prefix.
    fn word(&mut self) -> Result<SqlToken<'a>, Unreadable> {
        match (self.byte(0), self.byte(1), self.byte(2)) {
            (Some(b'e' | b'E'), Some(b'\''), _) => return self.backslash_string(self.at + 2),
            (Some(b'n' | b'N'), Some(b'\''), _) => return self.plain_string(self.at + 2),
            (Some(b'b' | b'B' | b'x' | b'X'), Some(b'\''), _) => {
                return Ok(SqlToken::EscapedString(self.quoted(self.at + 2, b'\'')?));
            }
            (Some(b'u' | b'U'), Some(b'&'), Some(b'\'')) => {
                return Ok(SqlToken::EscapedString(self.quoted(self.at + 3, b'\'')?));
            }
            (Some(b'u' | b'U'), Some(b'&'), Some(b'"')) => {
                return Ok(SqlToken::EscapedName(self.quoted(self.at + 3, b'"')?));
            }
            _ => {}
        }
        let rest = &self.text[self.at..];
        let continues = |byte: &&u8| begins_word(**byte) || byte.is_ascii_digit() || **byte == b'$';
        let length = rest.iter().take_while(continues).count();
        self.at += length;
        Ok(SqlToken::Word(&rest[..length]))
    }
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// The first place of `part` in `text`.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let first = part.first()?;
    let mut from = 0;
    loop {
        from += text.get(from..)?.iter().position(|byte| byte == first)?;
        if text[from..].starts_with(part) {
            return Some(from);
        }
        from += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens_with(text: &str, settings: LexerSettings) -> Result<Vec<SqlToken<'_>>, Unreadable> {
        let mut tokens = Tokens::new(text.as_bytes(), settings);
        std::iter::from_fn(|| tokens.next_token().transpose()).collect()
    }

    fn tokens(text: &str) -> Vec<SqlToken<'_>> {
        tokens_with(text, LexerSettings::DEFAULT).unwrap()
    }

    fn word(text: &str) -> SqlToken<'_> {
        SqlToken::Word(text.as_bytes())
    }

    #[test]
    fn strings_end_where_postgresql_ends_them() {
        use SqlToken::*;
        for (text, token) in [
            ("'a''b'", String(b"a''b")),
            (r"'a\'", String(br"a\")),
            (r"E'a\'b'", EscapedString(br"a\'b")),
            (r"e'a''\\'", EscapedString(br"a''\\")),
            (r"U&'\'", EscapedString(br"\")),
            ("N'a'", String(b"a")),
            ("x'1F'", EscapedString(b"1F")),
            ("$$a'b$$", DollarString(b"a'b")),
            ("$a$ $b$ $$ $a $a$", DollarString(b" $b$ $$ $a ")),
            ("\"a\"\"b\"", QuotedName(b"a\"\"b")),
            ("u&\"\\0061\"", EscapedName(b"\\0061")),
        ] {
            assert_eq!(tokens(text), [token], "{text}");
            assert_eq!(tokens(&format!("{text};")), [token, Symbol(b';')], "{text}");
        }
    }

    #[test]
    fn a_string_with_backslashes_continues_with_backslashes() {
        let continued = [SqlToken::EscapedString(b"a' -- c\n 'b\\'"), word("x")];
        assert_eq!(tokens("E'a' -- c\n 'b\\'' x"), continued);
        assert_eq!(tokens(r"E'a' 'b\'"), [SqlToken::EscapedString(b"a"), SqlToken::String(br"b\")]);
    }

    #[test]
    fn a_dollar_belongs_to_the_word_before_it() {
        assert_eq!(tokens("a$b$ c"), [word("a$b$"), word("c")]);
        assert_eq!(tokens("$1$a$x$a$"), [SqlToken::Parameter(b"1"), SqlToken::DollarString(b"x")]);
        assert_eq!(tokens("1$$x$$"), [SqlToken::Number(b"1"), SqlToken::DollarString(b"x")]);
    }

    #[test]
    fn comments_are_skipped_also_within_operators() {
        assert_eq!(tokens("a/* /* ' */ */b -- '\nc"), [word("a"), word("b"), word("c")]);
        assert_eq!(
            tokens("1+--'\n2"),
            [SqlToken::Number(b"1"), SqlToken::Symbol(b'+'), SqlToken::Number(b"2")]
        );
    }

    #[test]
    fn a_text_ends_with_its_first_zero_byte() {
        assert_eq!(tokens("a\0'"), [word("a")]);
    }

    #[test]
    fn what_has_no_end_is_unreadable() {
        for text in ["'a", "\"a", "E'a\\'", "$$a$", "/* /* */", "U&'a", "$a$ $A$"] {
            assert_eq!(tokens_with(text, LexerSettings::DEFAULT), Err(Unreadable::Unterminated), "{text}");
        }
    }

    #[test]
    fn what_depends_on_more_than_the_text_is_unreadable() {
        let off = LexerSettings { standard_conforming_strings: false, ..LexerSettings::DEFAULT };
        assert_eq!(tokens_with(r"'\'", off), Err(Unreadable::Backslash));
        assert_eq!(tokens_with("'a'", off).unwrap(), [SqlToken::String(b"a")]);
        let sjis = LexerSettings { ascii_in_characters: true, ..LexerSettings::DEFAULT };
        assert_eq!(tokens_with("SELECT 'ä'", sjis), Err(Unreadable::Encoding));
        assert_eq!(tokens_with("a", sjis).unwrap(), [word("a")]);
    }
}
