//! What clients know of the results of their prepared statements. Owns the comparison with the server that executes one:
//! drivers describe a statement once and then read its rows as described, so it must not return others. PostgreSQL reports
//! an error if the result of a statement has changed since it was prepared (`RevalidateCachedQuery`); a server on which it
//! is prepared later would not notice.

use super::decision::{Consumed, NotConsumed};
use super::exchange::{Exchange, FlushState};
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::answers::{ExpectedAnswer, RefusalReason};
use crate::prepared::{Description, Statement};
use std::rc::Rc;
use wire::backend::TxStatus;
use wire::limits::{HEADER_BYTES, MAX_WHOLE_BYTES};
use wire::scan::Frame;
use wire::{encode, rewrite, tag};

/// How far the comparison for a Bind has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Inspection {
    /// None has begun.
    #[default]
    None,
    /// The server has been asked to describe this statement.
    Described(u64),
    /// The server has been asked to prepare it again, and to describe it.
    Prepared(u64),
}

impl Exchange {
    /// Compares what the client knows of a statement with the server's copy of it, before a Bind. True if the Bind was
    /// refused, since the result has changed.
    ///
    /// The copy may be older than what the client knows, so one that differs is first prepared again.
    #[cold]
    #[inline(never)]
    pub(super) fn refuses_changed_result(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        (name, statement): (&[u8], &Rc<Statement>),
        (known, copy): (Description, Option<Description>),
    ) -> Consumed<bool> {
        let id = statement.id;
        let is_failed = matches!(&self.link, Link::Server(linked) if linked.status == TxStatus::Failed);
        let is_compared = !is_failed && !statement.is_private() && !self.answers.may_be_copying();
        let is_described_next = self.is_described_next(frame);
        if !is_compared || copy.is_some_and(|copy| copy.is_that_of(known)) || is_described_next {
            self.inspection = Inspection::None;
            if is_described_next {
                // The client will know what it gets.
                session.names.forget_description(name);
            }
            return Ok(false);
        }
        if self.answers.inspects(id) {
            return Err(self.await_answer());
        }
        let is_described = self.inspection == Inspection::Described(id);
        let is_prepared = self.inspection == Inspection::Prepared(id);
        match copy {
            // It is too long to be compared.
            Some(copy) if !copy.is_known() && (is_described || is_prepared) => {
                self.inspection = Inspection::None;
                Ok(false)
            }
            Some(_) if is_prepared => {
                self.inspection = Inspection::None;
                self.refuse(session, frame, ExpectedAnswer::Bind(0), RefusalReason::ChangedResult, b"")?;
                Ok(true)
            }
            Some(copy) if !copy.is_known() => Err(self.inspect(session, statement, false)),
            _ => Err(self.inspect(session, statement, true)),
        }
    }

    /// Asks the server to describe its copy of a statement, after it has prepared it (again) if `prepares`.
    fn inspect(
        &mut self,
        session: &mut ClientSession,
        statement: &Rc<Statement>,
        prepares: bool,
    ) -> NotConsumed {
        self.retry.clear();
        self.inspects_first = self.begins_batch();
        self.start_clock(session);
        if prepares {
            self.prepare(session, statement);
        }
        rewrite::describe_statement(self.up.insert(), &statement.name);
        self.answers.push(ExpectedAnswer::Inspect(statement.id));
        self.inspection =
            if prepares { Inspection::Prepared(statement.id) } else { Inspection::Described(statement.id) };
        // An earlier Flush does not concern these messages.
        self.flush = FlushState::Due;
        NotConsumed::AwaitAnswer
    }

    /// The server has dropped the statement that it was asked to describe, or can no longer use it. Nothing else of the batch
    /// has been sent, so the Bind that waits is handled again after a Sync. True if so.
    #[cold]
    pub(super) fn inspects_again(&mut self) -> bool {
        if !self.inspects_first || !self.answers.replace_inspection() {
            return false;
        }
        encode::empty(self.up.insert(), tag::frontend::SYNC);
        self.forget_descriptions();
        true
    }

    /// What has been received or begun does not concern later messages.
    pub(super) fn forget_descriptions(&mut self) {
        self.inspection = Inspection::None;
        self.description = Description::UNKNOWN;
        self.undescribed = 0;
    }

    /// True if this Bind makes the unnamed portal, and the message behind it describes that.
    pub(super) fn is_described_next(&self, frame: Frame) -> bool {
        let front = self.up.front();
        let next = front.get(frame.len..).unwrap_or_default();
        front.get(HEADER_BYTES) == Some(&0)
            && next.first() == Some(&tag::frontend::DESCRIBE)
            && next.get(HEADER_BYTES..HEADER_BYTES + 2) == Some(b"P\0")
    }

    /// Records a description that the client or the pooler has asked for. True if it is discarded.
    #[inline(never)]
    pub(super) fn on_description(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
    ) -> Result<bool, CloseReason> {
        let Some((id, is_inspected)) = self.answers.described() else {
            return self.on_answer(session, frame.tag);
        };
        if frame.tag == tag::backend::PARAMETER_DESCRIPTION {
            self.description = Description::UNKNOWN;
        }
        // Others may be complete or not, by chance.
        if frame.len <= MAX_WHOLE_BYTES as usize {
            self.description.add(self.down.message(frame));
        }
        if frame.tag != tag::backend::PARAMETER_DESCRIPTION {
            let description = std::mem::take(&mut self.description);
            if let Some(linked) = self.link.server() {
                linked.server.prepared.describe(id, description);
            }
            if !is_inspected {
                session.names.describe(id, description);
            }
        }
        self.on_answer(session, frame.tag)
    }
}
