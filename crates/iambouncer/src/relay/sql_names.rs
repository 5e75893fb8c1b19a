//! Statements of the protocol that SQL names: `DEALLOCATE name` and `EXECUTE name`. In PostgreSQL both have the same
//! names; on a server, those of clients are others. Owns the answer to the first and the new text of the second.
//!
//! Several statements in one message, and batches of the extended protocol, are left to the server, except for a named statement
//! that executes another one.

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
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
        if session.names.is_empty() || body.len() > MAX_TEXT_BYTES {
            return Some(statements.intern(body));
        }
        let named = prepared_name(body).filter(|named| named.name_use == PreparedUse::Execute);
        let Some(named) = named else { return Some(statements.intern(body)) };
        if self.answers.is_name_unsettled(&named.name) {
            return None;
        }
        let executed = session.names.get(&named.name).filter(|statement| !statement.is_private());
        let Some(executed) = executed else { return Some(statements.intern(body)) };
        let body = [&body[..named.place.start], &executed.name, &body[named.place.end..]].concat();
        Some(statements.intern_executing(&body, executed))
    }

    /// Makes sure that the server has the statement that another one executes, before a message names that one. False if its
    /// answer has to be awaited first.
    #[cold]
    #[inline(never)]
    pub(super) fn ensure_executed(&mut self, session: &mut ClientSession, executed: &Arc<Text>) -> bool {
        let executed = session.pool.context.statements.adopt(executed);
        if self.must_await(&executed) {
            return false;
        }
        if self.rules.follows && session.pool.database.functions.may_change() {
            self.record_cached_calls(session, &executed.body, &executed.calls);
        }
        self.ensure_prepared(session, &executed);
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
