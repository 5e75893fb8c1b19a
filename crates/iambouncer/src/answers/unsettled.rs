//! Names and statements changed by unanswered messages. Owns the decision whether a message may depend on such a change
//! already: within its own batch it may, since both fail together; across a Sync it may not, since the earlier batch
//! may still fail and undo the change while the later one succeeds.

use super::entry::StateChange;
use std::collections::HashMap;

/// Unanswered changes, numbered: they are answered in the order in which they were sent.
#[derive(Default)]
pub(super) struct PendingChanges {
    sent: u64,
    answered: u64,
    /// Changes before this number belong to a batch that has been ended by a Sync or a query.
    sealed: u64,
    names: HashMap<Box<[u8]>, u64>,
    /// The unnamed statement, which changes most often.
    unnamed: Option<u64>,
    statements: HashMap<u64, u64>,
}

impl PendingChanges {
    pub(super) fn push(&mut self, change: &StateChange) {
        match change.changed_name() {
            Some(b"") => self.unnamed = Some(self.sent),
            Some(name) => {
                self.names.insert(name.into(), self.sent);
            }
            None => {}
        }
        if let Some(id) = change.statement_id() {
            self.statements.insert(id, self.sent);
        }
        self.sent += 1;
    }

    /// The oldest change is answered or will not happen.
    pub(super) fn pop(&mut self, change: &StateChange) {
        let number = self.answered;
        self.answered += 1;
        if let Some(id) = change.statement_id()
            && self.statements.get(&id) == Some(&number)
        {
            self.statements.remove(&id);
        }
        let Some(name) = change.changed_name() else { return };
        if self.last_change(name) == Some(number) {
            if name.is_empty() {
                self.unnamed = None;
            } else {
                self.names.remove(name);
            }
        }
    }

    /// True if an unanswered message changes what this name means.
    pub(super) fn changes(&self, name: &[u8]) -> bool {
        self.last_change(name).is_some()
    }

    fn last_change(&self, name: &[u8]) -> Option<u64> {
        if name.is_empty() { self.unnamed } else { self.names.get(name).copied() }
    }

    /// A Sync or a query ends the batch.
    #[inline]
    pub(super) fn seal(&mut self) {
        self.sealed = self.sent;
    }

    /// True while a change of an earlier batch is unanswered.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.answered < self.sealed
    }

    #[inline]
    pub(super) fn has_name(&self, name: &[u8]) -> bool {
        self.any() && self.last_change(name).is_some_and(|number| number < self.sealed)
    }

    #[inline]
    pub(super) fn has_statement(&self, id: u64) -> bool {
        self.any() && self.statements.get(&id).is_some_and(|number| *number < self.sealed)
    }

    /// True when all changes are answered.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.answered
    }
}
