//! A client's own statement names. Owns one client's map; it costs nothing until the first named Parse.

use super::description::Description;
use super::statement::{Statement, Text};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Hashed at every Bind: the standard hash costs 3 % of a prepared query. Keys collide only with names of the same
/// client, at most [`MAX_NAMES`] of them.
type Names = HashMap<Box<[u8]>, NamedStatement, foldhash::fast::RandomState>;

/// Maximum number of names per client.
const MAX_NAMES: usize = 64 * 1024;
/// Maximum size of the names of one client and of the texts that they name, in bytes.
const MAX_TEXT_BYTES: usize = 256 * 1024 * 1024;

/// Maximum number of names of a client whose statements are compared with what they were described as.
const MAX_DESCRIBED: usize = 4096;

/// A statement that has a name.
pub struct NamedStatement {
    /// The statement.
    pub statement: Rc<Statement>,
    /// How it was described to the client.
    pub description: Description,
}

/// Name to statement, for one client.
#[derive(Default)]
pub struct ClientNames(Option<Box<Names>>);

impl ClientNames {
    /// True while another statement is within the client's limits.
    pub fn has_room_for(&self, name: &[u8], statement: &Statement) -> bool {
        let Some(names) = self.0.as_ref() else { return true };
        let bytes = |name: &[u8], statement: &Statement| name.len() + statement.body.len();
        let added = bytes(name, statement);
        // The sum is computed only for statements that could exceed the limit.
        let is_small = added < MAX_TEXT_BYTES / MAX_NAMES;
        let taken = || names.iter().map(|(name, named)| bytes(name, &named.statement)).sum::<usize>();
        names.len() < MAX_NAMES && (is_small || taken() + added <= MAX_TEXT_BYTES)
    }

    /// The statement with this name.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<&Rc<Statement>> {
        Some(&self.named(name)?.statement)
    }

    /// The same with its description.
    #[inline]
    pub fn named(&self, name: &[u8]) -> Option<&NamedStatement> {
        self.0.as_ref()?.get(name)
    }

    /// The statement with this name is being described again.
    pub fn forget_description(&mut self, name: &[u8]) {
        if let Some(named) = self.0.as_mut().and_then(|names| names.get_mut(name)) {
            named.description = Description::UNKNOWN;
        }
    }

    /// Records how this statement was described, for those of its names that have no description.
    pub fn describe(&mut self, id: u64, description: Description) {
        let names = self.0.iter_mut().filter(|names| names.len() <= MAX_DESCRIBED);
        for named in names.flat_map(|names| names.values_mut()).filter(|named| named.statement.id == id) {
            if !named.description.is_known() {
                named.description = description;
            }
        }
    }

    /// Assigns a name to a statement that has not been described.
    pub fn insert(&mut self, name: &[u8], statement: Rc<Statement>) {
        self.insert_described(name, statement, Description::UNKNOWN);
    }

    /// Assigns a name to a statement.
    pub fn insert_described(&mut self, name: &[u8], statement: Rc<Statement>, description: Description) {
        self.0.get_or_insert_default().insert(name.into(), NamedStatement { statement, description });
    }

    /// Removes a name and returns its statement.
    pub fn remove(&mut self, name: &[u8]) -> Option<Rc<Statement>> {
        let map = self.0.as_mut()?;
        let removed = map.remove(name);
        if map.is_empty() {
            self.0 = None;
        }
        removed.map(|named| named.statement)
    }

    /// The client's name of this statement; any of them if there are several.
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        let (name, _) = self.0.as_ref()?.iter().find(|(_, named)| named.statement.id == id)?;
        Some(name)
    }

    /// True if one of the statements exists only on the client's server.
    pub fn has_private(&self) -> bool {
        self.0.as_ref().is_some_and(|names| names.values().any(|named| named.statement.is_private()))
    }

    /// Keeps only the names for which `keeps` is true, and returns the others.
    pub fn take_except(&mut self, keeps: impl Fn(&[u8]) -> bool) -> Self {
        let Some(names) = self.0.take() else { return Self::default() };
        let (kept, dropped): (Names, Names) = names.into_iter().partition(|(name, _)| keeps(name));
        self.0 = (!kept.is_empty()).then(|| Box::new(kept));
        Self(Some(Box::new(dropped)))
    }

    /// All names with their texts and descriptions, which can be passed to another worker.
    pub fn texts(&self) -> Vec<(Box<[u8]>, Arc<Text>, Description)> {
        let names = self.0.iter().flat_map(|names| names.iter());
        names.map(|(name, named)| (name.clone(), named.statement.text(), named.description)).collect()
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |map| map.len())
    }

    /// True if there are no names.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}
