//! Names of a database whose use changes a session: functions, and relations whose triggers, rules or defaults call one.
//! Owns which uses of a name count; which names they are, the catalog of the database says.

use crate::changes::{MAX_TEXT_BYTES, SessionChanges};
use crate::features::Feature;
use crate::reader::{Reader, cut, is, is_any, is_keyword};
use crate::statements::Statements;
use crate::token::{LexerSettings, SqlToken, until_zero};
use std::borrow::Cow;
use std::collections::HashMap;

/// How a name has to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameUse {
    /// A function is called.
    Call,
    /// A relation is written: it has a trigger, or a default.
    Write,
    /// A relation is used: it is a view, or has a policy.
    Any,
}

/// Bits of the set of hashes that decides which texts are read.
const HASH_BITS: usize = 4096;

/// Names whose use changes a session.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChangingNames {
    names: HashMap<Box<str>, Vec<(NameUse, SessionChanges)>>,
    /// What a command that changes the schema changes in its session: event triggers.
    of_schema_changes: SessionChanges,
    /// A bit for the hash of each name; empty without names.
    hashes: Vec<u64>,
    /// Some name contains a character that needs quotes, so that every text is read.
    has_quoted: bool,
}

/// Words of statements that write.
const WRITING: [&str; 6] = ["insert", "update", "delete", "merge", "copy", "truncate"];
/// Words at the beginning of commands that change the schema, and call no function.
const OF_SCHEMA: [&str; 6] = ["alter", "drop", "grant", "revoke", "comment", "security"];
/// Words between CREATE and the kind of the object.
const BEFORE_KIND: [&str; 9] =
    ["or", "replace", "temp", "temporary", "global", "local", "unlogged", "recursive", "constraint"];
/// Kinds of objects whose CREATE calls no function.
const DEFINITIONS: [&str; 9] =
    ["function", "procedure", "trigger", "rule", "policy", "view", "aggregate", "operator", "event"];

/// What the first words of a statement say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StatementKind {
    /// It calls the functions that it names.
    Ordinary,
    /// It only defines what calls them.
    Definition,
    /// It changes the schema, and calls the functions that it names.
    Creation,
    /// DO, whose strings are code.
    Code,
    /// PREPARE: it calls them later.
    Preparation,
}

impl StatementKind {
    fn of(mut tokens: Reader<'_>) -> Self {
        let Some(SqlToken::Word(first)) = tokens.next() else { return Self::Ordinary };
        if is(first, "alter") && tokens.peek().is_some_and(|kind| is_keyword(kind, &["table"])) {
            // A default of a new column is evaluated.
            Self::Creation
        } else if is_any(first, &OF_SCHEMA) {
            Self::Definition
        } else if is(first, "create") {
            let kind = tokens.find(|token| !is_keyword(*token, &BEFORE_KIND));
            if kind.is_some_and(|kind| is_keyword(kind, &DEFINITIONS)) {
                Self::Definition
            } else {
                Self::Creation
            }
        } else if is(first, "do") {
            Self::Code
        } else if is(first, "prepare") {
            Self::Preparation
        } else {
            Self::Ordinary
        }
    }
}

impl ChangingNames {
    /// True if there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds what this use of a name changes.
    pub fn add(&mut self, name: &str, usage: NameUse, changes: &SessionChanges) {
        let name = name.to_ascii_lowercase();
        self.add_hash(hash(name.as_bytes()));
        self.has_quoted |= !name.bytes().all(continues_name);
        let uses = self.names.entry(name.into()).or_default();
        match uses.iter_mut().find(|(known, _)| *known == usage) {
            Some((_, known)) => known.add(changes),
            None => uses.push((usage, changes.clone())),
        }
    }

    /// Adds what every command that changes the schema changes in its session.
    pub fn add_schema_changes(&mut self, changes: &SessionChanges) {
        self.of_schema_changes.add(changes);
        for word in OF_SCHEMA.iter().chain(&["create"]) {
            self.add_hash(hash(word.as_bytes()));
        }
    }

    /// The names, their uses, and what these change; in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, NameUse, &SessionChanges)> {
        self.names
            .iter()
            .flat_map(|(name, uses)| uses.iter().map(move |(usage, changes)| (&**name, *usage, changes)))
    }

    fn add_hash(&mut self, hash: usize) {
        self.hashes.resize(HASH_BITS / 64, 0);
        self.hashes[hash / 64] |= 1 << (hash % 64);
    }

    /// What a text changes by the names that it uses; `None` if nothing. The text ends with its first zero byte, if it
    /// has one. What the text changes otherwise, [`SessionChanges::of`] says; also that a text is too long.
    #[inline]
    pub fn changes_of(&self, text: &[u8]) -> Option<Box<SessionChanges>> {
        if self.is_empty() || !self.may_occur_in(text) { None } else { self.read(text) }
    }

    /// True if one of the words of the text may be one of the names.
    pub(crate) fn may_occur_in(&self, text: &[u8]) -> bool {
        if self.has_quoted {
            return true;
        }
        let (mut state, mut is_word) = (HASH_START, false);
        for &byte in text {
            if continues_name(byte) {
                state = hash_step(state, byte);
                is_word = true;
            } else if std::mem::take(&mut is_word)
                && self.has_hash(hash_end(std::mem::replace(&mut state, HASH_START)))
            {
                return true;
            }
        }
        is_word && self.has_hash(hash_end(state))
    }

    fn has_hash(&self, hash: usize) -> bool {
        self.hashes.get(hash / 64).is_some_and(|bits| bits >> (hash % 64) & 1 > 0)
    }

    #[inline(never)]
    fn read(&self, text: &[u8]) -> Option<Box<SessionChanges>> {
        let text = until_zero(text);
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let mut changes = SessionChanges::default();
        let mut statements = Statements::new(text, LexerSettings::DEFAULT);
        while let Ok(Some(range)) = statements.next_statement() {
            self.add_statement(&mut changes, &text[range]);
        }
        (changes != SessionChanges::default()).then(|| Box::new(changes))
    }

    fn add_statement(&self, changes: &mut SessionChanges, text: &[u8]) {
        let kind = StatementKind::of(Reader::new(text));
        match kind {
            StatementKind::Ordinary => self.add_uses(changes, text),
            StatementKind::Definition => changes.add(&self.of_schema_changes),
            StatementKind::Creation => {
                changes.add(&self.of_schema_changes);
                self.add_uses(changes, text);
            }
            StatementKind::Code => {
                for token in Reader::new(text) {
                    if let SqlToken::String(code) | SqlToken::DollarString(code) = token {
                        self.add_uses(changes, code);
                    }
                }
            }
            StatementKind::Preparation => {
                let mut later = SessionChanges::default();
                self.add_uses(&mut later, text);
                if later != SessionChanges::default() {
                    changes.begins.insert(Feature::UnknownCode);
                }
            }
        }
    }

    /// Adds what the uses of names in this code change. It need not be complete: what cannot be read ends it.
    pub(crate) fn add_uses(&self, changes: &mut SessionChanges, code: &[u8]) {
        if self.names.is_empty() {
            return;
        }
        let writes = Reader::new(code).any(|token| is_keyword(token, &WRITING));
        let mut tokens = Reader::new(code);
        while let Some(token) = tokens.next() {
            let (SqlToken::Word(name) | SqlToken::QuotedName(name)) = token else { continue };
            let name = String::from_utf8_lossy(name).to_ascii_lowercase().replace("\"\"", "\"");
            let name = cut(name.as_bytes()).map_or(Cow::Borrowed(&*name), String::from_utf8_lossy);
            for (usage, of_use) in self.names.get(&*name).into_iter().flatten() {
                let counts = match usage {
                    NameUse::Call => tokens.peek() == Some(SqlToken::Symbol(b'(')),
                    NameUse::Write => writes,
                    NameUse::Any => true,
                };
                if counts {
                    changes.add(of_use);
                }
            }
        }
    }
}

/// True for bytes of names without quotes.
fn continues_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || byte >= 0x80
}

/// The hash of no bytes. The hash is FNV-1a, of names in lower case.
const HASH_START: u32 = 0x811c_9dc5;

fn hash_step(state: u32, byte: u8) -> u32 {
    (state ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
}

fn hash_end(state: u32) -> usize {
    (state ^ state >> 16) as usize % HASH_BITS
}

fn hash(name: &[u8]) -> usize {
    hash_end(name.iter().fold(HASH_START, |state, byte| hash_step(state, *byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::Features;
    use proptest::prelude::*;

    fn names() -> ChangingNames {
        let mut names = ChangingNames::default();
        let mut tenant = SessionChanges::default();
        tenant.add_setting("app.tenant");
        names.add("Set_Tenant", NameUse::Call, &tenant);
        names.add("audited", NameUse::Write, &tenant);
        names.add("my view", NameUse::Any, &tenant);
        names
    }

    fn changes(text: &str) -> SessionChanges {
        names().changes_of(text.as_bytes()).map(|changes| *changes).unwrap_or_default()
    }

    #[test]
    fn a_call_counts_and_a_column_of_that_name_does_not() {
        for text in [
            "SELECT set_tenant('a')",
            "SELECT * FROM public.\"set_tenant\" ($1)",
            "WITH x AS (SELECT SET_TENANT(1)) SELECT 1; SELECT 2",
            "CALL set_tenant(1)",
            "CREATE TABLE t AS SELECT set_tenant(1)",
            "ALTER TABLE t ADD COLUMN a text DEFAULT set_tenant(1)",
            "DO $$ BEGIN PERFORM set_tenant(1); END $$",
            "INSERT INTO audited VALUES (1)",
            "copy public.audited from stdin",
            "SELECT * FROM \"my view\"",
        ] {
            assert_eq!(changes(text).settings, ["app.tenant".into()], "{text}");
        }
        for text in [
            "SELECT set_tenant FROM t",
            "SELECT 'set_tenant(1)' /* set_tenant(1) */",
            "SELECT * FROM audited",
            "CREATE OR REPLACE FUNCTION set_tenant(a text) RETURNS void LANGUAGE sql AS 'SELECT 1'",
            "CREATE TRIGGER t BEFORE INSERT ON audited EXECUTE FUNCTION set_tenant()",
            "DROP FUNCTION set_tenant(text)",
            "GRANT EXECUTE ON FUNCTION set_tenant(text) TO a",
            "SELECT 'unterminated; SELECT set_tenant(1)",
        ] {
            assert_eq!(changes(text), SessionChanges::default(), "{text}");
        }
    }

    #[test]
    fn a_prepared_call_is_not_seen_when_it_is_executed() {
        assert_eq!(
            changes("PREPARE p AS SELECT set_tenant(1)").begins,
            Features::of(&[Feature::UnknownCode])
        );
    }

    #[test]
    fn an_event_trigger_is_called_by_commands_that_change_the_schema() {
        let mut names = ChangingNames::default();
        let mut locks = SessionChanges::default();
        locks.begins.insert(Feature::AdvisoryLock);
        names.add_schema_changes(&locks);
        for text in ["CREATE TABLE t (a int)", "alter table t add b int", "DROP FUNCTION f()"] {
            assert!(names.changes_of(text.as_bytes()).is_some(), "{text}");
        }
        assert!(names.changes_of(b"SELECT 1").is_none());
    }

    #[test]
    fn without_names_nothing_is_read() {
        assert!(ChangingNames::default().changes_of(b"SELECT set_tenant(1)").is_none());
    }

    proptest! {
        #[test]
        fn a_name_is_found_at_any_place(before in "[ -~]{0,30}", after in "[ (.,;)]{0,3}") {
            let mut names = ChangingNames::default();
            names.add("set_tenant", NameUse::Call, &SessionChanges::default());
            let text = format!("{before} Set_Tenant{after}");
            prop_assert!(names.may_occur_in(text.as_bytes()));
        }
    }
}
