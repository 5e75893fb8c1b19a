//! Handling of client requests. Owns the decision for each message type, except for messages that name prepared
//! statements, which belong to [`super::statements`]. Moving the bytes belongs to [`super::upstream`].

use super::decision::{Consumed, NotConsumed};
use super::exchange::{Exchange, FlushState, RequestState};
use super::internal_names;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use super::upstream::{bad_frame, violation};
use crate::answers::{Answer, ExpectedAnswer, LocalAnswer};
use crate::client_error;
use crate::config::PoolMode;
use crate::prepared::ServerUnnamed;
use crate::prepared::effect::{Effect, begins_transaction};
use sql::{Feature, Features};
use wire::frontend;
use wire::limits::HEADER_BYTES;
use wire::scan::{self, Frame};
use wire::{encode, rewrite, tag};

/// In statement pooling, the first word of a statement is searched for in this many bytes of a message.
const FIRST_WORD_BYTES: usize = 256;

impl Exchange {
    /// Handles the message at the front.
    pub(super) fn on_client_message(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        if frame.tag == tag::frontend::TERMINATE {
            if self.up.has_sendable() {
                return Err(NotConsumed::SendFirst);
            }
            if self.is_reading_state() {
                return Err(self.await_answer());
            }
            self.up.clear_received();
            return Err(CloseReason::ClientLeft.into());
        }
        // Rejected before a server is acquired for it.
        if frame.tag == tag::frontend::PASSWORD {
            return Err(CloseReason::Error(client_error::misplaced(
                "a password message outside of authentication",
            ))
            .into());
        }
        if self.request == RequestState::Refused {
            return self.skip_refused(frame);
        }
        if self.rules.forbids_requests
            && let Some(refused) = self.refuse_forbidden(session, frame)
        {
            return refused;
        }
        self.ensure_server(session)?;
        if self.has_unread() && is_answered(frame.tag) {
            self.check_unread(session)?;
        }
        if self.answers.skips_to_sync() && frame.tag != tag::frontend::SYNC {
            return self.discard_message(frame);
        }
        if self.answers.holds_sync() && is_answered(frame.tag) {
            self.send_syncs_before_message()?;
        }
        self.retry.next_message();
        match frame.tag {
            tag::frontend::QUERY => return self.on_query(session, frame),
            tag::frontend::FUNCTION_CALL => {
                if self.rules.follows && self.calls_unknown_function()? {
                    if self.rules.refuses_pins && !session.info.pins().contains(Feature::UnknownCode) {
                        let refused = Features::of(&[Feature::UnknownCode]);
                        return self.refuse_pin(session, frame, ExpectedAnswer::FunctionCall, refused, b"");
                    }
                    self.record_function_call(session);
                }
                self.retry.clear();
                self.forward_expecting(session, frame, ExpectedAnswer::FunctionCall);
            }
            tag::frontend::SYNC => return self.on_sync(session, frame),
            tag::frontend::PARSE => return self.on_parse(session, frame),
            tag::frontend::BIND => return self.on_bind(session, frame),
            tag::frontend::DESCRIBE => return self.on_describe(session, frame),
            tag::frontend::CLOSE => return self.on_close(session, frame),
            tag::frontend::EXECUTE => return self.on_execute(session, frame),
            tag::frontend::FLUSH => self.up.forward(frame),
            tag::frontend::COPY_DONE | tag::frontend::COPY_FAIL => {
                self.answers.push(ExpectedAnswer::CopyEnd);
                self.up.forward(frame);
                self.flush_held_sync();
            }
            other => return Err(bad_frame(scan::FrameError::UnknownTag(other)).into()),
        }
        Ok(())
    }

    /// Makes sure that the client has a server that is ready for a request.
    #[inline]
    fn ensure_server(&mut self, session: &mut ClientSession) -> Consumed {
        if !self.link.is_linked() {
            if matches!(self.link, Link::None | Link::Listening)
                && let Some(needed) = self.request_needs()?
            {
                return Err(NotConsumed::NeedBytes(needed));
            }
            if !self.try_link(session)? {
                return Err(NotConsumed::AwaitServer);
            }
        }
        if self.waits_for_internal_query(session) {
            self.request = RequestState::Held;
            return Err(NotConsumed::AwaitServer);
        }
        self.request = RequestState::Accepted;
        if self.answers.is_empty()
            && let Link::Server(linked) = &self.link
            && linked.server.stream.has_pending_input()
            && !self.answers.is_batch_open()
        {
            // Messages sent before the request are not part of its answer.
            return Err(NotConsumed::DrainServer);
        }
        Ok(())
    }

    /// Sends held Syncs before a message that the server answers.
    fn send_syncs_before_message(&mut self) -> Consumed {
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        let due = self.answers.take_syncs_before_message().ok_or(NotConsumed::AwaitAnswer)?;
        self.send_syncs(due);
        self.probe_copy();
        Ok(())
    }

    fn on_query(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        if self.uses_name(session, frame)? {
            return Ok(());
        }
        if self.rules.refuses_pins {
            let pins = self.pins_of_query(session, frame)?;
            if !pins.is_empty() {
                let text = self.up.front().get(HEADER_BYTES..).unwrap_or_default().to_vec();
                let answer = ExpectedAnswer::Query { deallocates: false };
                return self.refuse_pin(session, frame, answer, pins, &text);
            }
        }
        if self.rules.reads_statements {
            self.record_query(session, frame)?;
        }
        self.retry.clear();
        if let Link::Server(linked) = &mut self.link {
            // The server drops its unnamed statement (manual, "Extended Query"), unless it skips the query because of
            // an earlier error.
            let may_be_skipped = self.answers.is_batch_open() || !self.answers.is_empty();
            let now = if may_be_skipped { ServerUnnamed::Unknown } else { ServerUnnamed::None };
            linked.server.unnamed.set_unless_own(now);
        }
        let text = self.up.front().get(HEADER_BYTES..).unwrap_or_default();
        let deallocates = Effect::of(text) == Effect::Deallocates;
        self.forward_expecting(session, frame, ExpectedAnswer::Query { deallocates });
        Ok(())
    }

    /// Sends the Sync, or holds it while a COPY may be running that would ignore it.
    fn on_sync(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        if !self.answers.may_ignore_sync() {
            self.start_clock(session);
            self.answers.push(ExpectedAnswer::SYNC);
            self.up.forward(frame);
            self.retry.complete_if_open();
            return Ok(());
        }
        self.discard_message(frame)?;
        self.answers.hold_sync();
        self.flush_held_sync();
        Ok(())
    }

    /// The server may buffer the answer on which a held Sync depends.
    fn flush_held_sync(&mut self) {
        if self.answers.held_sync_needs_flush() {
            self.flush = FlushState::Due;
        }
    }

    fn on_execute(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        let mut effect = Effect::None;
        if session.has_effects {
            let front = self.up.front();
            let Some(portal) = frontend::execute_portal(front, frame.len).map_err(violation)? else {
                return Err(NotConsumed::NeedBytes(front.len() + 1));
            };
            effect = if portal.is_empty() { self.unnamed_portal } else { self.named_portals };
        }
        self.start_clock(session);
        self.answers.push(ExpectedAnswer::Execute {
            copies: effect == Effect::Copies,
            deallocates: effect == Effect::Deallocates,
        });
        self.record_execute();
        self.up.forward(frame);
        Ok(())
    }

    /// Sends what is due between two client messages: Syncs held for a COPY, and a Flush of the pooler.
    pub(super) fn send_due(&mut self) {
        let due = self.answers.take_due_syncs();
        self.send_syncs(due);
        if self.flush == FlushState::Due {
            self.flush = FlushState::Sent;
            encode::empty(self.up.insert(), tag::frontend::FLUSH);
        }
    }

    fn send_syncs(&mut self, count: usize) {
        for _ in 0..count {
            encode::empty(self.up.insert(), tag::frontend::SYNC);
        }
    }

    /// The client sends a message that the pooler answers, possibly during a COPY. The server must not complete a COPY
    /// into which the client has sent anything else. So the message waits until the COPY's state is known, or the
    /// server receives a message that ends the connection if it is still reading COPY data and has no effect otherwise.
    pub(super) fn guard_copy(&mut self) -> Consumed {
        if !self.answers.may_be_copying() {
            return Ok(());
        }
        if !self.answers.is_copy_unended() {
            return Err(self.await_answer());
        }
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        self.probe_copy();
        Ok(())
    }

    /// Closes a statement that does not exist.
    fn probe_copy(&mut self) {
        rewrite::close_statement(self.up.insert(), internal_names::NO_STATEMENT);
        self.answers.push(ExpectedAnswer::Close(Answer::Skip));
    }

    /// A message that depends on an earlier answer of the same batch waits for it. The Flush keeps the server from
    /// buffering that answer.
    pub(super) fn await_answer(&mut self) -> NotConsumed {
        if self.answers.is_batch_open() && self.flush == FlushState::None {
            self.flush = FlushState::Due;
        }
        NotConsumed::AwaitAnswer
    }

    /// Refuses what the rules do not allow. `None` if the message is allowed.
    #[cold]
    fn refuse_forbidden(&mut self, session: &ClientSession, frame: Frame) -> Option<Consumed> {
        if self.rules.refuses_simple_queries && frame.tag == tag::frontend::QUERY {
            return Some(Err(CloseReason::Error(client_error::simple_query_refused()).into()));
        }
        if self.rules.mode != PoolMode::Statement {
            return None;
        }
        let needed = frame.len.min(FIRST_WORD_BYTES);
        if self.up.front().len() < needed {
            return Some(Err(NotConsumed::NeedBytes(needed)));
        }
        self.begins_transaction(frame).then(|| self.refuse_transaction(session, frame))
    }

    /// True if the message begins a transaction block.
    fn begins_transaction(&self, frame: Frame) -> bool {
        let body = self.up.front().get(HEADER_BYTES..).unwrap_or_default();
        match frame.tag {
            tag::frontend::QUERY => begins_transaction(body),
            tag::frontend::PARSE => body
                .iter()
                .position(|&byte| byte == 0)
                .is_some_and(|end| begins_transaction(&body[end + 1..])),
            _ => false,
        }
    }

    /// Statement pooling does not allow transaction blocks. The request is refused without reaching a server.
    fn refuse_transaction(&mut self, session: &ClientSession, frame: Frame) -> Consumed {
        let error = client_error::transaction_in_statement_mode();
        // Earlier messages of the batch cannot be undone.
        if self.answers.is_batch_open() {
            return Err(CloseReason::Error(error).into());
        }
        if self.answers.may_be_copying() {
            return Err(NotConsumed::AwaitAnswer);
        }
        self.discard_message(frame)?;
        session.pool.context.process.client_counters.count_error(&error.code);
        let is_query = frame.tag == tag::frontend::QUERY;
        if !is_query {
            self.request = RequestState::Refused;
        }
        self.answer_locally(|out| {
            error.encode_error(out);
            if is_query {
                encode::ready_for_query(out);
            }
        });
        Ok(())
    }

    /// Discards a message of a refused batch; the batch ends with its Sync.
    fn skip_refused(&mut self, frame: Frame) -> Consumed {
        self.discard_message(frame)?;
        if frame.tag == tag::frontend::SYNC {
            self.request = RequestState::Accepted;
            self.answer_locally(encode::ready_for_query);
        }
        Ok(())
    }

    /// Answers a message of the client after everything that is owed to it.
    fn answer_locally(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        let mut messages = Vec::new();
        encode(&mut messages);
        self.answers.push(ExpectedAnswer::Local(LocalAnswer::messages(messages)));
        self.send_local_answers();
    }

    /// Handles a cancel request for a query that has not reached a server: the pooler answers it.
    pub(super) fn cancel_waiting_request(&mut self, session: &mut ClientSession) -> Result<(), CloseReason> {
        #[cfg(feature = "otlp")]
        self.trace_ended_wait(session, Some(&client_error::canceled_while_waiting().code));
        self.link = self.unlinked();
        session.info.state.set(crate::clients::ClientState::Idle);
        session.info.time(|timing| timing.query_at = None);
        let counters = &session.pool.context.process.client_counters;
        counters.count_error(&client_error::canceled_while_waiting().code);
        loop {
            let header = scan::header(self.up.front(), self.rules.max_message_bytes).map_err(bad_frame)?;
            let Some(frame) = header.filter(|frame| frame.len <= self.up.front().len()) else {
                if header.is_none_or(|frame| frame.tag != tag::frontend::QUERY) {
                    // The batch's Sync has not been received yet.
                    self.answer_locally(|out| client_error::canceled_while_waiting().encode_error(out));
                    self.request = RequestState::Refused;
                    return Ok(());
                }
                // The request is larger than the buffer; the rest of it is discarded.
                let Some(frame) = header else { break };
                self.up.discard(frame);
                break;
            };
            self.up.discard(frame);
            if matches!(frame.tag, tag::frontend::QUERY | tag::frontend::SYNC | tag::frontend::FUNCTION_CALL)
            {
                break;
            }
        }
        self.answer_locally(|out| {
            client_error::canceled_while_waiting().encode_error(out);
            encode::ready_for_query(out);
        });
        Ok(())
    }
}

/// True for messages that the server answers, except Sync.
fn is_answered(tag: u8) -> bool {
    matches!(
        tag,
        tag::frontend::QUERY
            | tag::frontend::FUNCTION_CALL
            | tag::frontend::PARSE
            | tag::frontend::BIND
            | tag::frontend::DESCRIBE
            | tag::frontend::EXECUTE
            | tag::frontend::CLOSE
    )
}
