//! What the first word of a statement reveals about the protocol: whether the statement may read COPY data or drop
//! prepared statements. Owns this inspection of the text; SQL is never examined further.

/// Effects of a statement that its answer does not announce in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effect {
    /// Neither.
    #[default]
    None,
    /// It begins with COPY.
    Copies,
    /// It begins with DISCARD or DEALLOCATE.
    Deallocates,
}

impl Effect {
    /// Examines the beginning of a text, which ends with a zero byte if it is complete. If the first word is
    /// incomplete, the text counts as a COPY, the case that needs more care.
    #[inline]
    pub fn of(text: &[u8]) -> Self {
        match text.first() {
            // Nearly all texts begin with another letter.
            Some(b'a' | b'b' | b'e'..=b'z' | b'A' | b'B' | b'E'..=b'Z') => Self::None,
            _ => Self::of_any(text),
        }
    }

    #[inline(never)]
    fn of_any(text: &[u8]) -> Self {
        let Some(text) = skip_blanks(text) else { return Self::Copies };
        if is_cut_off(text) {
            return Self::Copies;
        }
        match text.first() {
            Some(b'c' | b'C') if begins_with_any(text, &["COPY"]) => Self::Copies,
            Some(b'd' | b'D') if begins_with_any(text, &["DISCARD", "DEALLOCATE"]) => Self::Deallocates,
            _ => Self::None,
        }
    }
}

/// True if the available text ends within its first word, which could be one of the words in question.
fn is_cut_off(text: &[u8]) -> bool {
    ["COPY", "DISCARD", "DEALLOCATE"]
        .iter()
        .any(|word| text.len() <= word.len() && word.as_bytes()[..text.len()].eq_ignore_ascii_case(text))
}

/// True if a failed transaction accepts the text: it ends the transaction or is empty.
pub fn ends_transaction(text: &[u8]) -> bool {
    match skip_blanks(text) {
        None | Some([] | [0, ..]) => true,
        Some(text) => begins_with_any(text, &["COMMIT", "END", "ROLLBACK", "ABORT", "PREPARE"]),
    }
}

/// True if the text begins a transaction block.
pub fn begins_transaction(text: &[u8]) -> bool {
    skip_blanks(text).is_some_and(|text| begins_with_any(text, &["BEGIN", "START"]))
}

fn begins_with_any(text: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| {
        let is_end = |byte: &u8| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..));
        text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
            && text.get(word.len()).is_none_or(is_end)
    })
}

/// Skips white space, comments and empty statements. `None` inside a comment that continues after `text`.
fn skip_blanks(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        text = match text {
            [b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b';', rest @ ..] => rest,
            [b'-', b'-', rest @ ..] => {
                let end = rest.iter().position(|&b| matches!(b, b'\n' | b'\r' | 0))?;
                &rest[end..]
            }
            [b'/', b'*', rest @ ..] => skip_block(rest)?,
            _ => return Some(text),
        };
    }
}

/// Skips the rest of a block comment. Block comments nest (manual, "Lexical Structure").
fn skip_block(mut text: &[u8]) -> Option<&[u8]> {
    let mut depth = 1;
    loop {
        text = match text {
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                if depth == 0 {
                    return Some(rest);
                }
                rest
            }
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            // The end of the text.
            [0, ..] => return Some(text),
            [_, rest @ ..] => rest,
            [] => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides_regardless_of_preceding_blanks() {
        for (text, effect) in [
            ("COPY t FROM STDIN", Effect::Copies),
            ("\n\t copy t from stdin", Effect::Copies),
            ("-- a comment\ncopy t from stdin", Effect::Copies),
            ("/* a /* nested */ comment */ Copy t FROM STDIN", Effect::Copies),
            (";; ;copy t from stdin", Effect::Copies),
            ("/* it does not end", Effect::Copies),
            ("discard all", Effect::Deallocates),
            ("/**/DEALLOCATE ALL", Effect::Deallocates),
            ("copycat", Effect::None),
            ("SELECT 'copy'", Effect::None),
            ("delete from t", Effect::None),
            ("-- only a comment\0\0\0", Effect::None),
            ("/* only a comment\0\0\0", Effect::None),
            ("-", Effect::None),
            ("", Effect::Copies),
            ("CO", Effect::Copies),
            ("-- cut off\n d", Effect::Copies),
            ("cu", Effect::None),
            ("\0\0\0", Effect::None),
        ] {
            assert_eq!(Effect::of(text.as_bytes()), effect, "{text}");
        }
    }

    #[test]
    fn transaction_statements_are_recognized() {
        assert!(
            ["begin", " BEGIN;", "start transaction"].iter().all(|text| begins_transaction(text.as_bytes()))
        );
        assert!(["beginning", "select 1", ""].iter().all(|text| !begins_transaction(text.as_bytes())));
        assert!(
            ["rollback to a", "END", "commit\0\0\0", "\0\0\0"].iter().all(|t| ends_transaction(t.as_bytes()))
        );
        assert!(["select 1", "ending"].iter().all(|text| !ends_transaction(text.as_bytes())));
    }
}
