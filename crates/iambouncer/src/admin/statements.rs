//! The statements of a console client: those of one message, and prepared ones. Owns their limits.

use super::formats::Formats;
use crate::client_error::{Blame, ClientError};
use std::collections::HashMap;
use std::rc::Rc;

/// Statements in one simple query.
pub(super) const MAX_STATEMENTS: usize = 64;
/// Maximum number of prepared statements, and of portals, of a console client.
const MAX_NAMES: usize = 1000;
/// Maximum size of the prepared statements of a console client, in bytes.
const MAX_KEPT_BYTES: usize = 1024 * 1024;

/// Splits a text into statements at semicolons outside quotes.
pub(super) fn split(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let (mut start, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (';', None) => {
                statements.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    statements.push(&text[start..]);
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

/// A portal: its statement and the result formats.
#[derive(Clone)]
pub(super) struct Portal {
    pub(super) text: Rc<str>,
    pub(super) formats: Formats,
}

/// The prepared statements and portals of a client.
#[derive(Default)]
pub(super) struct Prepared {
    statements: HashMap<Vec<u8>, Rc<str>>,
    portals: HashMap<Vec<u8>, Portal>,
    kept_bytes: usize,
}

impl Prepared {
    /// Start of a Parse: the unnamed statement is closed even if the Parse fails.
    pub(super) fn begin_parse(&mut self, name: &[u8]) -> Result<(), ClientError> {
        if name.is_empty() {
            self.close_statement(name);
        } else if self.statements.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            let text = format!("prepared statement \"{name}\" already exists");
            return Err(ClientError::new(Blame::Client, "42P05", text));
        }
        Ok(())
    }

    pub(super) fn keep_statement(&mut self, name: &[u8], text: &str) -> Result<(), ClientError> {
        let bytes = name.len() + text.len();
        if self.statements.len() >= MAX_NAMES || self.kept_bytes + bytes > MAX_KEPT_BYTES {
            return Err(too_many());
        }
        self.kept_bytes += bytes;
        self.statements.insert(name.to_vec(), text.into());
        Ok(())
    }

    pub(super) fn keep_portal(&mut self, name: &[u8], portal: Portal) -> Result<(), ClientError> {
        if !name.is_empty() && self.portals.contains_key(name) {
            let name = String::from_utf8_lossy(name);
            return Err(ClientError::new(
                Blame::Client,
                "42P03",
                format!("cursor \"{name}\" already exists"),
            ));
        }
        if self.portals.len() >= MAX_NAMES {
            return Err(too_many());
        }
        self.portals.insert(name.to_vec(), portal);
        Ok(())
    }

    pub(super) fn statement(&self, name: &[u8]) -> Result<Rc<str>, ClientError> {
        self.statements.get(name).cloned().ok_or_else(|| missing("26000", "prepared statement", name))
    }

    pub(super) fn portal(&self, name: &[u8]) -> Result<Portal, ClientError> {
        self.portals.get(name).cloned().ok_or_else(|| missing("34000", "portal", name))
    }

    pub(super) fn close_statement(&mut self, name: &[u8]) {
        if let Some(text) = self.statements.remove(name) {
            self.kept_bytes -= name.len() + text.len();
        }
    }

    pub(super) fn close_portal(&mut self, name: &[u8]) {
        self.portals.remove(name);
    }

    /// Portals last until the end of the transaction, and every batch is a transaction of its own.
    pub(super) fn end_batch(&mut self) {
        self.portals.clear();
    }
}

fn too_many() -> ClientError {
    ClientError::new(Blame::Client, "54000", "too many or too long statements on one console connection")
}

fn missing(code: &'static str, kind: &str, name: &[u8]) -> ClientError {
    let name = String::from_utf8_lossy(name);
    ClientError::new(Blame::Client, code, format!("{kind} \"{name}\" does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_semicolon_in_quotes_does_not_end_a_statement() {
        assert_eq!(split("show pools; ;show lists;"), ["show pools", "show lists"]);
        assert_eq!(split("set a = 'x;''y;'; pause \"d;b\""), ["set a = 'x;''y;'", " pause \"d;b\""]);
        assert_eq!(split("set a = 'x; y"), ["set a = 'x; y"]);
        assert!(split(" ;; ").is_empty());
    }

    #[test]
    fn prepared_statements_are_limited_in_number_and_in_size() {
        let mut prepared = Prepared::default();
        let text = "x".repeat(60_000);
        let kept = (0..100).take_while(|n| prepared.keep_statement(&[*n], &text).is_ok()).count();
        assert_eq!(kept, MAX_KEPT_BYTES / 60_001);
        prepared.close_statement(&[0]);
        assert!(prepared.keep_statement(&[0], &text).is_ok());
        let mut prepared = Prepared::default();
        let names = (0..2000_u32).take_while(|n| prepared.keep_statement(&n.to_be_bytes(), "").is_ok());
        assert_eq!(names.count(), MAX_NAMES);
    }
}
