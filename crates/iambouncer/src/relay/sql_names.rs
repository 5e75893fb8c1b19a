//! Statements of the protocol that SQL names: `DEALLOCATE name` and `EXECUTE name`. In PostgreSQL both have the same
//! names; on a server, those of clients are others. Owns the answer to the first and the new text of the second.
//!
//! Several statements in one message, and batches of the extended protocol, are left to the server, except for a named statement
//! that executes another one.

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
use super::internal_names;
use super::link::Link;
use super::session::ClientSession;
use super::session_state::StatementMessage;
use crate::answers::{Answer, ExpectedAnswer, LocalAnswer};
use crate::prepared::statement::Text;
use crate::prepared::{ServerUnnamed, Statement};
use sql::changes::MAX_TEXT_BYTES;
use sql::{PreparedName, PreparedUse, prepared_name};
use std::rc::Rc;
use std::sync::Arc;
use wire::backend::TxStatus;
use wire::limits::HEADER_BYTES;
use wire::scan::Frame;
use wire::{encode, rewrite, tag};

/// Longest simple query that is examined, in bytes.
const MAX_EXAMINED_BYTES: usize = 64 * 1024;

impl Exchange {
    /// Handles a simple query that names a statement of the client. True if it was consumed.
    #[inline]
    pub(super) fn uses_name(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed<bool> {
        if session.names.is_empty() || frame.len > MAX_EXAMINED_BYTES || self.answers.may_be_copying() {
            return Ok(false);
        }
        let Some(named) = prepared_name(self.whole(frame)?.get(HEADER_BYTES..).unwrap_or_default()) else {
            return Ok(false);
        };
        self.on_named_query(session, frame, &named)
    }

    #[cold]
    #[inline(never)]
    fn on_named_query(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        named: &PreparedName,
    ) -> Consumed<bool> {
        let Some(statement) = session.names.get(&named.name).cloned() else { return Ok(false) };
        let is_failed = matches!(&self.link, Link::Server(linked) if linked.status == TxStatus::Failed);
        if !self.answers.is_empty() {
            // The status of the transaction, and what the name means, depend on earlier answers.
            return Err(self.await_answer());
        }
        if self.answers.is_batch_open() {
            // In PostgreSQL, a simple query ends a batch that has no Sync.
            encode::empty(self.up.insert(), tag::frontend::SYNC);
            self.answers.push(ExpectedAnswer::Sync(Answer::Skip));
            return Err(NotConsumed::AwaitAnswer);
        }
        // A private statement exists on one server only, which drops it. A failed transaction refuses both.
        if is_failed || statement.is_private() {
            return Ok(false);
        }
        match named.name_use {
            PreparedUse::Deallocate => self.deallocate(session, frame, &named.name)?,
            PreparedUse::Execute => self.execute_named(session, frame, named, &statement)?,
        }
        Ok(true)
    }

    /// The statement for a Parse with this body. If it executes another one of the client, its text has that one's name on
    /// servers. `None` while answers decide what the name means.
    pub(super) fn statement_of_parse(&self, session: &ClientSession, body: &[u8]) -> Option<Rc<Statement>> {
        let statements = &session.pool.context.statements;
        let is_examined = body.len() <= MAX_TEXT_BYTES;
        let named = if is_examined { prepared_name(body) } else { None };
        let Some(named) = named.filter(|named| named.name_use == PreparedUse::Execute) else {
            return Some(statements.intern(body));
        };
        if self.answers.is_name_unsettled(&named.name) {
            return None;
        }
        let with_name = |name: &[u8]| [&body[..named.place.start], name, &body[named.place.end..]].concat();
        // It executes none itself, so nothing holds a chain of texts; each server has room for both.
        let is_possible = |statement: &&Rc<Statement>| {
            !statement.is_private() && statement.executed.is_none() && self.rules.max_prepared > 1
        };
        match session.names.get(&named.name).filter(is_possible) {
            Some(executed) => Some(statements.intern_executing(&with_name(&executed.name), executed)),
            // A client's own text is never that of such a statement.
            None => Some(match internal_names::escaped(&named.name) {
                Some(escaped) => statements.intern(&with_name(&escaped)),
                None => statements.intern(body),
            }),
        }
    }

    /// Makes sure that the server has the statement that another one executes, before anything depends on whether the server has
    /// that one: its result is described when it is parsed. False if an answer has to be awaited first.
    pub(super) fn has_executed(&mut self, session: &mut ClientSession, statement: &Statement) -> bool {
        match &statement.executed {
            None => true,
            Some(executed) => self.ensure_executed(session, statement, executed),
        }
    }

    /// True if the server has the statement that this one executes, or if it executes none.
    #[inline]
    pub(super) fn is_executed_current(&self, session: &ClientSession, statement: &Statement) -> bool {
        let Some(executed) = &statement.executed else { return true };
        let Link::Server(linked) = &self.link else { return true };
        linked.server.prepared.version(executed.id) == Some(session.pool.schema_version())
    }

    /// A Bind of a statement for which that is not so.
    #[cold]
    #[inline(never)]
    pub(super) fn bind_behind_executed(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        statement: &Statement,
    ) -> Consumed {
        if !self.has_executed(session, statement) || !self.is_executed_current(session, statement) {
            return Err(self.await_answer());
        }
        self.on_bind(session, frame)
    }

    #[cold]
    #[inline(never)]
    fn ensure_executed(
        &mut self,
        session: &mut ClientSession,
        statement: &Statement,
        executed: &Arc<Text>,
    ) -> bool {
        let executed = session.pool.context.statements.adopt(executed);
        if self.must_await(&executed) {
            return false;
        }
        if let Some(changes) = &statement.changes {
            self.discard_foreign_sequences(session, changes);
        }
        if !self.has_current(session, &executed) {
            self.prepare(session, &executed);
        }
        true
    }

    /// Only the client drops the statement: the server keeps it for other clients.
    fn deallocate(&mut self, session: &mut ClientSession, frame: Frame, name: &[u8]) -> Consumed {
        let Link::Server(linked) = &self.link else { return Ok(()) };
        let status = linked.status;
        self.discard_message(frame)?;
        self.retry.clear();
        session.names.remove(name);
        session.info.prepared_count.set(session.names.len() as u32);
        let mut messages = Vec::new();
        encode::command_complete(&mut messages, "DEALLOCATE");
        encode::ready_for_query_in(&mut messages, status);
        self.answers.push(ExpectedAnswer::Local(LocalAnswer::messages(messages)));
        self.send_local_answers();
        Ok(())
    }

    /// Sends the text with the name that the statement has on the server.
    fn execute_named(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        named: &PreparedName,
        statement: &Rc<Statement>,
    ) -> Consumed {
        if self.rules.refuses_pins {
            let mut pins = self.pins_of_query(session, frame)?;
            pins.add(session.pins_of_prepared(
                &statement.body,
                statement.changes.as_deref(),
                &statement.calls,
            ));
            if !pins.is_empty() {
                let answer = ExpectedAnswer::Query { deallocates: false };
                return self.refuse_pin(session, frame, answer, pins, &statement.body);
            }
        }
        if self.rules.reads_statements {
            // Its arguments may call functions.
            self.record_query(session, frame)?;
        }
        if let Some(changes) = &statement.changes {
            self.record_statement(session, changes, &statement.body, StatementMessage::Query)?;
        }
        if self.rules.follows && session.pool.database.functions.may_change() {
            self.record_cached_calls(session, &statement.body, &statement.calls);
        }
        let text = self.whole(frame)?.get(HEADER_BYTES..).unwrap_or_default();
        let before = text.get(..named.place.start).unwrap_or_default();
        let behind = text.get(named.place.end..).unwrap_or_default();
        let query = [before, &statement.name[..], behind].concat();
        self.discard_message(frame)?;
        self.retry.clear();
        self.start_clock(session);
        if !self.ensure_prepared(session, statement) {
            // Otherwise the server would skip the query after an error of the Parse.
            encode::empty(self.up.insert(), tag::frontend::SYNC);
            self.answers.push(ExpectedAnswer::Sync(Answer::Skip));
        }
        if let Some(linked) = self.link.server() {
            linked.server.unnamed.set_unless_own(ServerUnnamed::None);
        }
        rewrite::query(self.up.insert(), &query);
        self.answers.push(ExpectedAnswer::Query { deallocates: false });
        Ok(())
    }
}
