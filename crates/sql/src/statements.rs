//! The statements of a text. Owns which semicolons separate them: not those in parentheses (CREATE RULE) nor in the body
//! of a routine that begins with BEGIN ATOMIC.

use crate::token::{LexerSettings, SqlToken, Tokens, Unreadable};
use std::ops::Range;

/// The statements of a text, without empty ones, in bytes from the beginning of the text. Semicolons are not included.
pub struct Statements<'a> {
    tokens: Tokens<'a>,
}

/// What has been read of a statement.
#[derive(Default)]
struct StatementProgress {
    parentheses: u32,
    /// Words at the beginning, as far as they may be those of CREATE FUNCTION.
    head: StatementHead,
    /// BEGIN ATOMIC and CASE without their END.
    blocks: u32,
}

/// The beginning of a statement.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum StatementHead {
    #[default]
    Nothing,
    Create,
    CreateOr,
    CreateOrReplace,
    /// CREATE [OR REPLACE] FUNCTION or PROCEDURE.
    Routine,
    Other,
}

impl StatementHead {
    fn then(self, word: &[u8]) -> Self {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        let is_routine = || is("function") || is("procedure");
        match self {
            Self::Nothing if is("create") => Self::Create,
            Self::Create if is("or") => Self::CreateOr,
            Self::CreateOr if is("replace") => Self::CreateOrReplace,
            Self::Create | Self::CreateOrReplace if is_routine() => Self::Routine,
            Self::Routine => Self::Routine,
            _ => Self::Other,
        }
    }
}

impl StatementProgress {
    fn add(&mut self, token: SqlToken<'_>) {
        match token {
            SqlToken::Symbol(b'(' | b'[') => self.parentheses += 1,
            SqlToken::Symbol(b')' | b']') => self.parentheses = self.parentheses.saturating_sub(1),
            SqlToken::Word(word) => {
                self.head = self.head.then(word);
                if self.head == StatementHead::Routine && self.parentheses == 0 {
                    self.add_word_of_routine(word);
                }
                return;
            }
            _ => {}
        }
        if self.head != StatementHead::Routine {
            self.head = StatementHead::Other;
        }
    }

    fn add_word_of_routine(&mut self, word: &[u8]) {
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        if is("begin") || self.blocks > 0 && is("case") {
            self.blocks += 1;
        } else if is("end") {
            self.blocks = self.blocks.saturating_sub(1);
        }
    }

    fn is_inside(&self) -> bool {
        self.parentheses > 0 || self.blocks > 0
    }
}

impl<'a> Statements<'a> {
    /// The statements of `text`.
    pub fn new(text: &'a [u8], settings: LexerSettings) -> Self {
        Self { tokens: Tokens::new(text, settings) }
    }

    /// The next statement; `None` after the last.
    ///
    /// # Errors
    /// The rest cannot be read.
    pub fn next_statement(&mut self) -> Result<Option<Range<usize>>, Unreadable> {
        let mut progress = StatementProgress::default();
        let mut range: Option<Range<usize>> = None;
        loop {
            let Some((token, place)) = self.tokens.next_with_place()? else {
                return if progress.blocks > 0 { Err(Unreadable::Body) } else { Ok(range) };
            };
            if token == SqlToken::Symbol(b';') && !progress.is_inside() {
                match range {
                    Some(range) => return Ok(Some(range)),
                    None => continue,
                }
            }
            progress.add(token);
            range = Some(range.map_or(place.start, |range| range.start)..place.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<&str> {
        let mut statements = Statements::new(text.as_bytes(), LexerSettings::DEFAULT);
        let all = std::iter::from_fn(|| statements.next_statement().transpose());
        all.map(|range| &text[range.unwrap()]).collect()
    }

    #[test]
    fn semicolons_separate_statements() {
        assert_eq!(statements("a; b ;; /* c; */ 'd;' ;"), ["a", "b", "'d;'"]);
        assert_eq!(statements(" -- only a comment"), [""; 0]);
        assert_eq!(statements(";;"), [""; 0]);
    }

    #[test]
    fn semicolons_within_a_statement_do_not() {
        let rule = "CREATE RULE r AS ON INSERT TO t DO (INSERT INTO a VALUES (1); DELETE FROM b)";
        assert_eq!(statements(&format!("{rule}; c")), [rule, "c"]);
        for create in ["CREATE FUNCTION", "create or replace procedure"] {
            let routine =
                format!("{create} f(begin int) BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END");
            assert_eq!(statements(&format!("{routine}; c; d")), [&routine, "c", "d"]);
        }
        let other = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1; SELECT 2'";
        assert_eq!(statements(&format!("{other}; BEGIN; END")), [other, "BEGIN", "END"]);
        assert_eq!(statements("BEGIN; CASE; END"), ["BEGIN", "CASE", "END"]);
    }

    #[test]
    fn a_body_in_which_begin_is_a_name_hides_no_statement() {
        let text =
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 begin; END; SET a.b = 1";
        let mut statements = Statements::new(text.as_bytes(), LexerSettings::DEFAULT);
        assert_eq!(statements.next_statement(), Err(Unreadable::Body));
    }
}
