//! What clients know of the results of their prepared statements. Owns the comparison with the server that executes one:
//! drivers describe a statement once and then read its rows as described, so it must not return others. PostgreSQL reports
//! an error if the result of a statement has changed since it was prepared (`RevalidateCachedQuery`); a server on which it
//! is prepared later would not notice.

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::answers::{ExpectedAnswer, RefusalReason};
use crate::prepared::{Description, Statement};
use std::rc::Rc;
use wire::backend::TxStatus;
use wire::limits::HEADER_BYTES;
use wire::rewrite;
use wire::scan::Frame;
use wire::tag;

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
        statement: &Rc<Statement>,
        known: Description,
    ) -> Consumed<bool> {
        let id = statement.id;
        let copy = self.link.server().and_then(|linked| linked.server.prepared.touch_described(id));
        let is_failed = matches!(&self.link, Link::Server(linked) if linked.status == TxStatus::Failed);
        let is_compared = !is_failed && !statement.is_private() && !self.answers.may_be_copying();
        if !is_compared || copy.is_some_and(|copy| copy.is_that_of(known)) || self.is_described_next(frame) {
            self.inspection = Inspection::None;
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
        self.start_clock(session);
        if prepares {
            self.prepare(session, statement);
        }
        rewrite::describe_statement(self.up.insert(), &statement.name);
        self.answers.push(ExpectedAnswer::Inspect(statement.id));
        self.inspection =
            if prepares { Inspection::Prepared(statement.id) } else { Inspection::Described(statement.id) };
        self.await_answer()
    }

    /// True if the message behind this one describes a portal: the client learns then what it gets.
    pub(super) fn is_described_next(&self, frame: Frame) -> bool {
        let next = self.up.front().get(frame.len..).unwrap_or_default();
        next.first() == Some(&tag::frontend::DESCRIBE) && next.get(HEADER_BYTES) == Some(&b'P')
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
        self.description.add(self.down.message(frame));
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
