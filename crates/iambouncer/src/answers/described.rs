//! Answers that describe a statement. Owns which of them the pooler has asked for, and what replaces that one after an
//! error.

use super::entry::{Answer, ExpectedAnswer};
use super::queue::ExpectedAnswers;

impl ExpectedAnswers {
    /// True if the answer at the front describes a shared statement.
    #[inline]
    pub fn is_described(&self) -> bool {
        self.described().is_some()
    }

    /// This statement, and true if only the pooler has asked for it.
    #[inline]
    pub fn described(&self) -> Option<(u64, bool)> {
        match self.front() {
            Some(&ExpectedAnswer::Describe(id)) if id > 0 => Some((id, false)),
            Some(&ExpectedAnswer::Inspect(id)) => Some((id, true)),
            _ => None,
        }
    }

    /// True if the pooler has asked for the description of this statement.
    pub fn inspects(&self, id: u64) -> bool {
        self.queue.iter().any(|entry| matches!(entry.answer, ExpectedAnswer::Inspect(known) if known == id))
    }

    /// True if only the pooler has asked for what the answer at the front describes.
    pub fn is_inspection(&self) -> bool {
        matches!(self.front(), Some(ExpectedAnswer::Inspect(_)))
    }

    /// The server has refused the description that the pooler alone has asked for, and skips to the Sync that is sent now.
    /// False if other answers are owed.
    pub fn replace_inspection(&mut self) -> bool {
        if self.queue.len() != 1 || !self.is_inspection() {
            return false;
        }
        self.queue.clear();
        self.add(ExpectedAnswer::Sync(Answer::Skip).into());
        true
    }
}
