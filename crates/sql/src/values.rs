//! Values and names of settings that need more care than others: those that decide how texts are read, where objects are
//! created, or that end with the transaction.

use crate::changes::SessionChanges;
use crate::features::Feature;
use crate::reader::{contains, is};
use crate::token::SqlToken;

/// Settings that decide how the next texts are read.
pub(crate) const READING: [&str; 2] = ["client_encoding", "standard_conforming_strings"];
/// Settings of the current transaction, whose names end with it.
const OF_TRANSACTION: [&str; 3] =
    ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];
/// Encodings that a database can have: a byte below 0x80 is always a character (manual, "Character Set Support").
/// Without signs between letters and digits.
const PLAIN_ENCODINGS: [&str; 16] = [
    "utf8",
    "unicode",
    "sqlascii",
    "latin",
    "iso8859",
    "win125",
    "windows125",
    "win866",
    "windows866",
    "win874",
    "windows874",
    "koi8",
    "euccn",
    "euckr",
    "euctw",
    "eucj",
];

/// True if a value of this name does not follow the client: it ends with its transaction, or it is the seed, which cannot
/// be read.
pub(crate) fn is_no_setting_of_session(changes: &mut SessionChanges, name: &str) -> bool {
    let is_seed = name == "seed";
    if is_seed {
        changes.begins.insert(Feature::RandomSeed);
    }
    is_seed || OF_TRANSACTION.contains(&name)
}

/// Values that make the following texts unreadable, or temporary objects of ordinary statements.
pub(crate) fn check_value<'a>(
    changes: &mut SessionChanges,
    name: &str,
    tokens: impl IntoIterator<Item = SqlToken<'a>>,
    is_local: bool,
) {
    // Objects that are created in this transaction can be looked for at its end.
    let temporary = if is_local { Feature::TemporaryObject } else { Feature::TemporarySchema };
    let mut was_string = false;
    for token in tokens {
        let is_string = matches!(token, SqlToken::String(_));
        if std::mem::replace(&mut was_string, is_string) && is_string && name == "search_path" {
            // One string in two parts.
            changes.begins.insert(temporary);
        }
        let value = match token {
            SqlToken::Word(text)
            | SqlToken::QuotedName(text)
            | SqlToken::String(text)
            | SqlToken::Number(text) => text,
            SqlToken::EscapedString(_) | SqlToken::EscapedName(_) | SqlToken::DollarString(_) => b"?",
            _ => continue,
        };
        match name {
            _ if is(value, "to") || is(value, "default") => {}
            "search_path" if value == b"?" || contains(value, "pg_temp") => {
                changes.begins.insert(temporary);
            }
            "standard_conforming_strings"
                if !["on", "true", "yes", "1"].iter().any(|known| is(value, known)) =>
            {
                changes.begins.insert(Feature::UnreadableText);
            }
            "client_encoding" if !has_plain_characters(value) => {
                changes.begins.insert(Feature::UnreadableText);
            }
            _ => {}
        }
    }
}

/// True for encodings in which a byte below 0x80 is always a character.
pub(crate) fn has_plain_characters(encoding: &[u8]) -> bool {
    let letters = encoding.iter().filter(|byte| byte.is_ascii_alphanumeric());
    let name: String = letters.map(|byte| char::from(byte.to_ascii_lowercase())).collect();
    PLAIN_ENCODINGS.iter().any(|plain| name.starts_with(plain))
}
