//! Texts in quotes, in which a doubled quote stands for one. Owns where such a text ends; the caller has found its first
//! quote.

/// Splits a text that begins after an opening quote: what is inside, with doubled quotes as written, and what follows the
/// closing quote. `None` if there is no closing quote.
pub fn split(text: &str, quote: char) -> Option<(&str, &str)> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Some((&text[..at], &text[at + quote.len_utf8()..]));
        }
    }
    None
}

/// As [`split`], with one quote in place of two.
pub fn read(text: &str, quote: char) -> Option<(String, &str)> {
    let (inside, rest) = split(text, quote)?;
    let one = quote.to_string();
    Some((inside.replace(&one.repeat(2), &one), rest))
}

/// A text in quotes.
pub fn quoted(text: &str, quote: char) -> String {
    let one = quote.to_string();
    format!("{quote}{}{quote}", text.replace(quote, &one.repeat(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_quote_does_not_end_the_text() {
        assert_eq!(split("a\"\"b\" c", '"'), Some(("a\"\"b", " c")));
        assert_eq!(read("a\"\"b\" c", '"'), Some(("a\"b".to_owned(), " c")));
        assert_eq!(read("it''s'", '\''), Some(("it's".to_owned(), "")));
        assert_eq!(read("\"\"\"\"\"x", '"'), Some(("\"\"".to_owned(), "x")));
        assert_eq!(read("\"", '"'), Some((String::new(), "")));
        assert_eq!((read("open", '"'), read("a\"\"", '"'), read("", '"')), (None, None, None));
    }
}
