//! Client messages that name prepared statements. Owns their renaming, and decides what is added, held back, answered
//! by the pooler or left to the server; [`crate::prepared`] records which server has which statement. The unnamed
//! statement belongs to [`super::unnamed`].

use super::decision::{Consumed, NotConsumed};
use super::descriptions::Inspection;
use super::exchange::Exchange;
use super::internal_names;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use super::session_state::StatementMessage;
use super::upstream::violation;
use crate::answers::{Answer, ExpectedAnswer, LocalAnswer, StateChange};
use crate::client_error;
use crate::prepared::{Effect, Statement};
use sql::{Feature, Features};
use std::rc::Rc;
use wire::backend::TxStatus;
use wire::frontend::{self, Named, NamedKind};
use wire::limits::{HEADER_BYTES, MAX_NAME_BYTES};
use wire::rewrite;
use wire::scan::Frame;

/// Longest named Parse that is shared, in bytes: the whole message has to fit in memory. A client with a longer one
/// keeps its server until it closes the statement.
const MAX_SHARED_PARSE_BYTES: usize = 16 * 1024 * 1024;
/// Longest Describe or Close, in bytes: a kind and a name.
const MAX_NAMED_BYTES: usize = HEADER_BYTES + 1 + MAX_NAME_BYTES + 1;

impl Exchange {
    /// The message at the front, if all of it has been received.
    pub(super) fn whole(&self, frame: Frame) -> Consumed<&[u8]> {
        let bytes = self.up.front();
        bytes.get(..frame.len).ok_or(NotConsumed::NeedBytes(frame.len))
    }

    pub(super) fn on_parse(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        self.retry.clear();
        let front = self.up.front();
        if frame.len <= HEADER_BYTES {
            return Err(violation(wire::FormatError::Truncated).into());
        }
        let Some(named) = frontend::parse_is_named(front) else {
            return Err(NotConsumed::NeedBytes(front.len() + 1));
        };
        if !named {
            return self.on_unnamed_parse(session, frame);
        }
        if self.rules.max_prepared == 0 && session.names.is_empty() {
            if self.rules.refuses_pins {
                return self.refuse_parse(session, frame);
            }
            if self.rules.follows {
                // What it changes is not examined.
                session.pin(Features::of(&[Feature::UnreadableText]), b"");
            }
            return self.on_untracked_parse(session, frame);
        }
        if frame.len > MAX_SHARED_PARSE_BYTES {
            return self.on_private_parse(session, frame);
        }
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        let message = self.whole(frame)?;
        let parse = frontend::parse(message).map_err(violation)?;
        if self.answers.is_name_unsettled(parse.name) {
            return Err(self.await_answer());
        }
        let Some(statement) = self.statement_of_parse(session, parse.body) else {
            return Err(self.await_answer());
        };
        let name: Box<[u8]> = parse.name.into();
        if !self.has_executed(session, &statement) || self.must_await(&statement) {
            return Err(self.await_answer());
        }
        if let Some(changes) = &statement.changes {
            self.discard_foreign_sequences(session, changes);
        }
        if self.is_on_server(&statement) {
            // Whether a failed transaction refuses it depends on outstanding answers.
            if self.is_refused_by_transaction(&statement) && self.answers.owes_ready() {
                return Err(self.await_answer());
            }
            self.guard_copy()?;
        }
        session.pool.stats.count(|t| t.client_parses += 1);
        session.has_effects |= statement.effect != Effect::None;
        self.discard_message(frame)?;
        self.start_clock(session);
        #[cfg(feature = "otlp")]
        self.find_trace_parent_in(&statement.body);
        self.parse_shared(session, name, &statement)?;
        Ok(())
    }

    fn parse_shared(
        &mut self,
        session: &mut ClientSession,
        name: Box<[u8]>,
        statement: &Rc<Statement>,
    ) -> Result<(), CloseReason> {
        if session.names.get(&name).is_some() {
            // The name is in use. Parsing the shared name a second time makes the server report that in its own words.
            // If the server did not have the statement after all, it now has the right one.
            log_duplicate(session, &name);
            self.ensure_prepared(session, statement);
            rewrite::parse(self.up.insert(), &statement.name, &statement.body);
            self.answers.push(ExpectedAnswer::Parse(Answer::Forward).with(StateChange::duplicate(name)));
            return Ok(());
        }
        if !session.names.has_room_for(&name, statement) {
            return Err(CloseReason::Error(client_error::too_many_statements()));
        }
        session.names.insert(&name, statement.clone());
        session.info.prepared_count.set(session.names.len() as u32);
        if !self.has_current(session, statement) {
            self.add_to_server(session, statement);
            let change = StateChange::name(name, None, statement.id);
            self.answers.push(ExpectedAnswer::Parse(Answer::Forward).with(change));
        } else if self.is_refused_by_transaction(statement) {
            // Lets the server report the error.
            rewrite::parse(self.up.insert(), &statement.name, &statement.body);
            self.answers.push(ExpectedAnswer::Parse(Answer::Forward).with(StateChange::name(name, None, 0)));
        } else {
            self.answers.push(
                ExpectedAnswer::Local(LocalAnswer::ParseComplete).with(StateChange::name(name, None, 0)),
            );
        }
        Ok(())
    }

    pub(super) fn on_bind(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        let front = self.up.front();
        let Some(head) = frontend::bind_head(front, frame.len).map_err(violation)? else {
            return Err(NotConsumed::NeedBytes(front.len() + 1));
        };
        if head.statement.is_empty() {
            return self.on_unnamed_bind(session, frame);
        }
        let Some(named) = session.names.named(head.statement) else {
            return self.on_unknown_bind(session, frame);
        };
        let (statement, known) = (named.statement.clone(), named.description);
        if self.answers.is_name_unsettled(head.statement) {
            return Err(self.await_answer());
        }
        if !self.is_executed_current(session, &statement) {
            return self.bind_behind_executed(session, frame, &statement);
        }
        if self.must_await(&statement) {
            return Err(self.await_answer());
        }
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        let (portal_len, head_len) = (head.portal.len(), head.head_len);
        let copy = self.link.server().and_then(|linked| linked.server.prepared.touch_described(statement.id));
        let is_known = known.is_known();
        let agrees = copy.is_some_and(|copy| copy.is_that_of(known));
        if is_known && (!agrees || self.inspection != Inspection::None) {
            let name: Box<[u8]> = head.statement.into();
            if self.refuses_changed_result(session, frame, (&name, &statement), (known, copy))? {
                return Ok(());
            }
        }
        let executed = statement.executed.as_ref().map(|text| session.pool.context.statements.adopt(text));
        self.undescribed = if agrees && is_known || portal_len > 0 { 0 } else { statement.id };
        if self.rules.refuses_pins {
            let mut pins =
                session.pins_of_prepared(&statement.body, statement.changes.as_deref(), &statement.calls);
            if let Some(executed) = &executed {
                pins.add(session.pins_of_prepared(&executed.body, None, &executed.calls));
            }
            if !pins.is_empty() {
                return self.refuse_pin(session, frame, ExpectedAnswer::Bind(0), pins, &statement.body);
            }
        }
        if let Some(changes) = &statement.changes {
            self.record_statement(session, changes, &statement.body, StatementMessage::Bind)?;
        }
        if self.rules.follows && session.pool.database.functions.may_change() {
            self.record_cached_calls(session, &statement.body, &statement.calls);
            if let Some(executed) = &executed {
                self.record_cached_calls(session, &executed.body, &executed.calls);
            }
        }
        self.record_portal(session, portal_len == 0, statement.effect);
        session.pool.stats.count(|t| t.binds += 1);
        self.start_clock(session);
        let begins = self.begins_batch();
        if copy.is_none() {
            self.prepare(session, &statement);
        } else if begins && statement.executed.is_none() {
            let may_change_result = !is_known || self.is_described_next(frame);
            self.retry.begin(self.up.sendable_bytes(), may_change_result);
        }
        self.forward_bind(frame, (portal_len, head_len), &statement.name, statement.id);
        Ok(())
    }

    /// Forwards the Bind at the front under another statement name; `lengths` are those of its portal name and of its
    /// head. The values are forwarded unchanged, whatever their size.
    #[inline]
    pub(super) fn forward_bind(&mut self, frame: Frame, lengths: (usize, usize), name: &[u8], id: u64) {
        let (portal_len, head_len) = lengths;
        let (out, front) = self.up.insert_and_front();
        rewrite::bind(out, &front[HEADER_BYTES..][..portal_len], name, frame.len - head_len);
        self.answers.push(ExpectedAnswer::Bind(id));
        self.replace_head(frame, head_len);
    }

    /// Drops the head of the message at the front after it has been replaced; the rest of the message follows.
    #[inline]
    pub(super) fn replace_head(&mut self, frame: Frame, head_len: usize) {
        self.up.replace_front(frame, head_len);
    }

    /// Records what executing the new portal may do.
    #[inline]
    pub(super) fn record_portal(&mut self, session: &ClientSession, is_unnamed: bool, effect: Effect) {
        if !session.has_effects {
            return;
        }
        if is_unnamed {
            self.unnamed_portal = effect;
        } else if self.named_portals != Effect::Copies && effect != Effect::None {
            self.named_portals = effect;
        }
    }

    /// True when nothing is under way that sending this batch again could overtake or repeat.
    #[inline]
    pub(super) fn begins_batch(&self) -> bool {
        self.answers.begins_batch()
            && matches!(&self.link, Link::Server(linked) if linked.status == TxStatus::Idle)
    }

    /// The Describe or Close at the front, if all of it has been received.
    fn named(&self, frame: Frame) -> Consumed<Named<'_>> {
        if frame.len > MAX_NAMED_BYTES {
            return Err(violation(wire::FormatError::NameTooLong).into());
        }
        Ok(frontend::named(self.whole(frame)?).map_err(violation)?)
    }

    pub(super) fn on_describe(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        let named = self.named(frame)?;
        if named.target == NamedKind::Portal {
            let is_unnamed = named.name.is_empty();
            self.start_clock(session);
            let described = if is_unnamed { std::mem::take(&mut self.undescribed) } else { 0 };
            self.answers.push(ExpectedAnswer::Describe(described));
            self.up.forward(frame);
            return Ok(());
        }
        if named.name.is_empty() {
            return self.on_unnamed_describe(session, frame);
        }
        let Some(statement) = session.names.get(named.name).cloned() else {
            let escaped = internal_names::escaped(named.name);
            return self.on_unknown_describe(session, frame, escaped);
        };
        if self.answers.is_name_unsettled(named.name) {
            return Err(self.await_answer());
        }
        let name: Box<[u8]> = named.name.into();
        if !self.has_executed(session, &statement) || self.must_await(&statement) {
            return Err(self.await_answer());
        }
        self.discard_message(frame)?;
        session.names.forget_description(&name);
        self.start_clock(session);
        let begins = self.begins_batch();
        if self.ensure_prepared(session, &statement) && begins && statement.executed.is_none() {
            self.retry.begin(self.up.sendable_bytes(), true);
        }
        rewrite::describe_statement(self.up.insert(), &statement.name);
        self.answers.push(ExpectedAnswer::Describe(statement.id));
        Ok(())
    }

    pub(super) fn on_close(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        self.retry.clear();
        let named = self.named(frame)?;
        let is_statement = named.target == NamedKind::Statement;
        if is_statement && named.name.is_empty() {
            self.on_unnamed_close(session, frame);
            return Ok(());
        }
        if is_statement && self.answers.is_name_unsettled(named.name) {
            return Err(self.await_answer());
        }
        let known =
            session.names.get(named.name).filter(|_| is_statement).map(|statement| statement.is_private());
        let escaped = internal_names::escaped(named.name).filter(|_| is_statement);
        let name: Box<[u8]> = named.name.into();
        let Some(is_private) = known else {
            return self.on_unknown_close(session, frame, escaped);
        };
        if !is_private {
            self.guard_copy()?;
        }
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        self.discard_message(frame)?;
        self.start_clock(session);
        let before = session.names.remove(&name);
        session.info.prepared_count.set(session.names.len() as u32);
        if let Some(statement) = before.as_ref().filter(|_| is_private) {
            // No other client uses it.
            rewrite::close_statement(self.up.insert(), &statement.name);
            if let Link::Server(linked) = &mut self.link {
                linked.server.prepared.remove(statement.id);
            }
            self.answers
                .push(ExpectedAnswer::Close(Answer::Forward).with(StateChange::name(name, before, 0)));
        } else {
            // Only the client drops it: the server keeps it for other clients.
            self.answers.push(
                ExpectedAnswer::Local(LocalAnswer::CloseComplete).with(StateChange::name(name, before, 0)),
            );
        }
        Ok(())
    }
}

/// PgBouncer's words; there the client is disconnected.
fn log_duplicate(session: &ClientSession, name: &[u8]) {
    if !session.pool.context.config().settings.log_pooler_errors {
        return;
    }
    let identity = session.info.identity();
    tracing::warn!(
        id = session.info.id,
        client = %session.info.remote(),
        user = %identity.user,
        database = %identity.database,
        "prepared statement '{}' was already prepared",
        String::from_utf8_lossy(name)
    );
}
