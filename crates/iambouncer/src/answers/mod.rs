//! The answers that a server owes to one client, in order. Owns the queue, the rules by which an answer completes an
//! entry, and the classification of messages that no entry explains; it never reads or sends bytes (see
//! [`crate::relay`]).
//!
//! The queue never expects fewer answers than the server may give. Where the number depends on when the server reads a
//! message (a Sync that a COPY may ignore), the message is not sent until that is known: see `copy.rs`.
//!
//! Rules: manual, "Message Flow", sections "Extended Query" and "COPY Operations"; `docs/protocol.md` has the table.

mod copy;
mod described;
mod entry;
mod queue;
mod unsettled;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use entry::{Answer, Expectation, ExpectedAnswer, LocalAnswer, RefusalReason, Rollback, StateChange};
pub use queue::{ExpectedAnswers, Mismatch, Ready};
