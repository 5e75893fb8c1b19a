//! What a text may change in its session. A superset: a statement may fail, or set what was set already. What has
//! changed in fact, the server is asked.

use crate::commands;
use crate::features::{Feature, Features};
use crate::filter;
use crate::statements::Statements;
use crate::token::{LexerSettings, Unreadable, until_zero};
use crate::values;

/// Maximum number of settings that a text may name; one with more counts as unreadable.
const MAX_SETTINGS: usize = 256;
/// Longest text that is read, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024 * 1024;

/// What the statements of a text may change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionChanges {
    /// Settings that may have another value afterwards, in lower case, without duplicates.
    pub settings: Vec<Box<str>>,
    /// Those that return to the value with which the session began: RESET, and SET … TO DEFAULT.
    pub resets: Vec<Box<str>>,
    /// RESET ALL: all of them, except …
    pub resets_all: bool,
    /// … those that are set behind it.
    pub set_after_reset: Vec<Box<str>>,
    /// One of the statements is COPY, for which the client may send more.
    pub has_copy: bool,
    /// One of the statements is SET or RESET, possibly LOCAL.
    pub has_set: bool,
    /// One of the statements is CALL: what it changes, the database's catalog says.
    pub has_call: bool,
    /// State that the session may have afterwards.
    pub begins: Features,
    /// State that the session may no longer have afterwards.
    pub ends: Features,
}

impl SessionChanges {
    /// What `text` may change; `None` if nothing. The text ends with its first zero byte, if it has one. It is read with
    /// [`LexerSettings::DEFAULT`]. The time is proportional to its length.
    #[inline]
    pub fn of(text: &[u8]) -> Option<Box<Self>> {
        let text = until_zero(text);
        if text.len() > MAX_TEXT_BYTES {
            Some(Box::new(Self::unreadable()))
        } else if filter::may_change_session(text) {
            Self::read(text)
        } else {
            None
        }
    }

    #[inline(never)]
    pub(crate) fn read(text: &[u8]) -> Option<Box<Self>> {
        let mut changes = Self::default();
        let mut statements = Statements::new(text, LexerSettings::DEFAULT);
        loop {
            if changes.settings.len() > MAX_SETTINGS {
                return Some(Box::new(Self::unreadable()));
            }
            match statements.next_statement() {
                Ok(Some(range)) => commands::add(&mut changes, &text[range]),
                Ok(None) => break,
                // PostgreSQL reads a text as a whole before it runs the first statement.
                Err(Unreadable::Unterminated) => return None,
                Err(Unreadable::Backslash | Unreadable::Encoding | Unreadable::Body) => {
                    changes.begins.insert(Feature::UnreadableText);
                    break;
                }
            }
        }
        let has_copy = std::mem::take(&mut changes.has_copy);
        let changes_nothing = changes == Self::default();
        changes.has_copy = has_copy;
        (!changes_nothing).then(|| Box::new(changes))
    }

    /// One of the statements is DISCARD ALL.
    pub fn discards_all(&self) -> bool {
        self.ends == Features::ALL
    }

    /// True if a setting may return to its first value.
    pub fn resets_any(&self) -> bool {
        self.resets_all || !self.resets.is_empty() || self.discards_all()
    }

    /// True if texts in this encoding of a client can be read: a byte below 0x80 is always a character.
    pub fn can_read_encoding(client_encoding: &str) -> bool {
        values::has_plain_characters(client_encoding.as_bytes())
    }

    /// Code that is not known may change anything.
    pub fn unknown_code() -> Self {
        Self { begins: Features::of(&[Feature::UnknownCode]), ..Self::default() }
    }

    /// A text that cannot be read may change anything.
    pub fn unreadable() -> Self {
        Self { begins: Features::of(&[Feature::UnreadableText]), ..Self::default() }
    }

    /// Adds what another text or a function may change. Its resets are settings that may have another value.
    pub fn add(&mut self, other: &Self) {
        other.settings.iter().for_each(|name| self.add_setting(name));
        self.has_call |= other.has_call;
        self.begins.add(other.begins);
        self.ends.add(other.ends);
        if other.resets_all || self.settings.len() > MAX_SETTINGS {
            self.begins.insert(Feature::UnknownCode);
        }
    }

    /// Adds a setting.
    pub(crate) fn add_setting(&mut self, name: &str) {
        add_name(&mut self.settings, name);
        self.resets.retain(|known| &**known != name);
        if self.resets_all {
            add_name(&mut self.set_after_reset, name);
        }
    }

    /// Adds a setting that returns to its first value.
    pub(crate) fn add_reset(&mut self, name: &str) {
        add_name(&mut self.settings, name);
        add_name(&mut self.resets, name);
        self.set_after_reset.retain(|known| &**known != name);
    }

    /// Adds RESET ALL.
    pub(crate) fn add_reset_all(&mut self) {
        self.resets_all = true;
        self.set_after_reset.clear();
    }
}

fn add_name(names: &mut Vec<Box<str>>, name: &str) {
    if names.len() <= MAX_SETTINGS && !names.iter().any(|known| &**known == name) {
        names.push(name.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parts of texts, of which some change the session.
    const PARTS: [&str; 34] = [
        "SELECT ",
        "set_config",
        "('a.b', 'c', false)",
        "(",
        ")",
        ";",
        " ",
        "\n",
        "--",
        "/*",
        "*/",
        "'",
        "''",
        "$$",
        "$a$",
        "\"",
        "E'\\''",
        "U&\"",
        "SET ",
        "a.b = 1",
        "RESET ALL",
        "TEMP ",
        "CREATE ",
        "INTO ",
        "TABLE t",
        "pg_advisory_lock",
        "BEGIN ATOMIC ",
        "END",
        "LISTEN x",
        "DO ",
        "lastval()",
        "PREPARE p AS ",
        "é",
        "1",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// What is not read would have changed nothing.
        #[test]
        fn the_filter_passes_only_texts_without_changes(parts in proptest::collection::vec(0..PARTS.len(), 0..12)) {
            let text: String = parts.into_iter().map(|at| PARTS[at]).collect();
            if SessionChanges::of(text.as_bytes()).is_none() {
                prop_assert!(SessionChanges::read(text.as_bytes()).is_none(), "{}", text);
            }
        }

        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SessionChanges::read(&bytes);
        }
    }
}
