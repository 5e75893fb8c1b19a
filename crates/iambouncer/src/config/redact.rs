//! Redacts a source line for display: values that are or may be secret become `***`.
//!
//! Handles malformed lines, since those are the ones displayed; hides what is ambiguous.

use std::ops::Range;

use super::keys::is_displayable;

const MASK: &str = "***";

/// The redacted line, with the column and length of the marked part adjusted.
pub(super) fn redact_line(line: &str, column: u32, length: u32) -> (String, u32, u32) {
    let chars: Vec<char> = line.chars().collect();
    let start = (column.saturating_sub(1) as usize).min(chars.len());
    let end = start.saturating_add(length as usize).min(chars.len());
    let mut shown = String::new();
    let mut count = 0;
    let (mut shown_start, mut shown_end) = (None, None);
    let mut position = 0;
    for hidden in secret_ranges(&chars).into_iter().chain(std::iter::once(chars.len()..chars.len())) {
        while position < hidden.end {
            shown_start = shown_start.or_else(|| (position >= start).then_some(count));
            shown_end = shown_end.or_else(|| (position >= end).then_some(count));
            if position < hidden.start {
                shown.push(chars[position]);
                (position, count) = (position + 1, count + 1);
            } else {
                shown.push_str(MASK);
                (position, count) = (hidden.end, count + MASK.len());
            }
        }
    }
    let first = shown_start.unwrap_or(count);
    let last = shown_end.unwrap_or(count).max(first);
    let narrow = super::diagnostics::clamp;
    (shown, narrow(first + 1), narrow(last - first))
}

/// The characters to hide. The first `=` is that of the entry and hides its value only if the key looks like a
/// password; every later `key=` is part of a connection string. Loose words after hidden text are hidden, too: they
/// may belong to a password with spaces but without quotes.
fn secret_ranges(chars: &[char]) -> Vec<Range<usize>> {
    let Some(entry) = find(chars, 0, |letter| letter == '=') else { return Vec::new() };
    let mut position = skip_space(chars, entry + 1);
    let key = &chars[key_before(chars, entry)];
    if looks_secret(key) || is_ldap_options(key) {
        return std::iter::once(position..chars.len()).collect();
    }
    let mut ranges = Vec::new();
    while let Some(equals) = find(chars, position, |letter| letter == '=') {
        let key = key_before(chars, equals);
        hide_loose_words(chars, position..key.start, &mut ranges);
        let value = skip_space(chars, equals + 1);
        position = value_end(chars, value);
        let name = &chars[key];
        if looks_secret(name) || !is_displayable(&name.iter().collect::<String>()) {
            ranges.push(value..position);
        }
    }
    hide_loose_words(chars, position..chars.len(), &mut ranges);
    ranges
}

fn hide_loose_words(chars: &[char], between: Range<usize>, ranges: &mut Vec<Range<usize>>) {
    let start = skip_space(chars, between.start);
    let end =
        chars[..between.end].iter().rposition(|letter| !letter.is_whitespace()).map_or(0, |last| last + 1);
    if !ranges.is_empty() && start < end {
        ranges.push(start..end);
    }
}

/// These have the form of a connection string, with other rules for quotes.
fn is_ldap_options(key: &[char]) -> bool {
    key.iter().collect::<String>().contains("ldap")
}

fn looks_secret(key: &[char]) -> bool {
    key.iter().collect::<String>().to_ascii_lowercase().contains("pass")
}

/// The word before `equals`, separated by spaces at most.
fn key_before(chars: &[char], equals: usize) -> Range<usize> {
    let end = chars[..equals].iter().rposition(|letter| !letter.is_whitespace()).map_or(0, |last| last + 1);
    let is_word = |letter: &char| letter.is_alphanumeric() || *letter == '_';
    let start = chars[..end].iter().rposition(|letter| !is_word(letter)).map_or(0, |before| before + 1);
    start..end
}

fn skip_space(chars: &[char], from: usize) -> usize {
    find(chars, from, |letter| !letter.is_whitespace()).unwrap_or(chars.len())
}

fn value_end(chars: &[char], start: usize) -> usize {
    if chars.get(start) != Some(&'\'') {
        return find(chars, start, char::is_whitespace).unwrap_or(chars.len());
    }
    let mut position = start + 1;
    while let Some(quote) = find(chars, position, |letter| letter == '\'') {
        if chars.get(quote + 1) != Some(&'\'') {
            // Text attached to the closing quote is an error, and may be the rest of the secret.
            return find(chars, quote, char::is_whitespace).unwrap_or(chars.len());
        }
        position = quote + 2;
    }
    chars.len()
}

fn find(chars: &[char], from: usize, matches: impl Fn(char) -> bool) -> Option<usize> {
    (from..chars.len()).find(|index| matches(chars[*index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        redact_line(line, 1, 1).0
    }

    #[test]
    fn passwords_misspelled_keys_and_unclosed_quotes_are_hidden() {
        assert_eq!(shown("db = host=a password='x ''y' port=1"), "db = host=a password=*** port=1");
        assert_eq!(shown("db = passwrod=hunter2 host=a"), "db = passwrod=*** host=a");
        assert_eq!(shown("db = pwd='hunter2 and more"), "db = pwd=***");
        assert_eq!(shown("db = password='ab'cd' host=a"), "db = password=*** host=a");
        assert_eq!(shown("password = hunter 2"), "password = ***");
        assert_eq!(
            shown("auth_ldap_options = ldapserver=h ldapbindpasswd=\"a 2=3\""),
            "auth_ldap_options = ***"
        );
        assert_eq!(shown("db = password=my hunter 2 host=a x"), "db = password=*** *** host=a ***");
        assert_eq!(shown("db = password = hunter2 = 3"), "db = password = *** = ***");
    }

    #[test]
    fn plain_settings_are_shown_unchanged() {
        assert_eq!(shown("defualt_pool_size = 20"), "defualt_pool_size = 20");
        assert_eq!(shown("[databases"), "[databases");
    }

    #[test]
    fn marks_move_with_the_text() {
        assert_eq!(
            redact_line("d = password=abcdefgh port=x", 28, 1),
            ("d = password=*** port=x".into(), 23, 1)
        );
        assert_eq!(redact_line("d = password=abcdefgh", 14, 8), ("d = password=***".into(), 14, 3));
        assert_eq!(redact_line("", 1, 0), (String::new(), 1, 0));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_marks_stay_inside(line in "(\\PC|[='\" ]|pass|host){0,40}", column in 0u32..50, length in 0u32..50) {
            let (shown, start, count) = redact_line(&line, column, length);
            proptest::prop_assert!((start + count) as usize <= shown.chars().count() + 1);
        }
    }
}
