//! A statement for people, without its values. Owns what is left out.

use crate::token::{LexerSettings, SqlToken, Tokens};

/// The beginning of a text, without strings, numbers and comments, in at most this many characters.
pub fn summary(text: &[u8], max_chars: usize) -> String {
    let mut tokens = Tokens::new(text, LexerSettings::DEFAULT);
    let mut out = String::new();
    let mut end = 0;
    while let Ok(Some((token, place))) = tokens.next_with_place() {
        if place.start > end && !out.is_empty() {
            out.push(' ');
        }
        end = place.end;
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
    }
}
