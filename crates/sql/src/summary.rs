//! A statement for people, without its values. Owns what is left out.

use crate::token::{LexerSettings, SqlToken, Tokens};

/// The beginning of a text, without strings, numbers and comments, in at most this many characters.
pub fn summary(text: &[u8], max_chars: usize) -> String {
    let mut tokens = Tokens::new(text, LexerSettings::DEFAULT);
    let mut out = String::new();
    let (mut end, mut was_number) = (0, false);
    while let Ok(Some((token, place))) = tokens.next_with_place() {
        if place.start > end && !out.is_empty() {
            out.push(' ');
        }
        // The rest of a number such as 0x1F.
        let continues_number =
            was_number && place.start == end && matches!(token, SqlToken::Word(_) | SqlToken::Number(_));
        end = place.end;
        was_number = matches!(token, SqlToken::Number(_));
        if continues_number {
            continue;
        }
        match token {
            SqlToken::Word(_)
            | SqlToken::QuotedName(_)
            | SqlToken::EscapedName(_)
            | SqlToken::Symbol(_)
            | SqlToken::Parameter(_) => {
                out.push_str(&String::from_utf8_lossy(&text[place]));
            }
            SqlToken::String(_)
            | SqlToken::EscapedString(_)
            | SqlToken::DollarString(_)
            | SqlToken::Number(_) => {
                out.push('?');
            }
        }
        if out.chars().count() > max_chars {
            return out.chars().take(max_chars).collect();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_no_values() {
        let text = b"SELECT  set_config('app.key', 'secret', 1) /* secret */ FROM \"T\" WHERE a = $1";
        assert_eq!(summary(text, 100), "SELECT set_config(?, ?, ?) FROM \"T\" WHERE a = $1");
        assert_eq!(summary(text, 6), "SELECT");
        assert_eq!(summary(b"SELECT 'secret", 100), "SELECT");
        assert_eq!(summary(b"SELECT 0xDEADBEEF, 1.5e3", 100), "SELECT ?, ?");
    }
}
