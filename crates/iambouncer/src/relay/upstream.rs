//! From the client to the server. Owns the decision when a server is needed, and which bytes are forwarded unchanged;
//! messages that name prepared statements belong to [`super::statements`].

use super::decision::{Consumed, NotConsumed};
use super::downstream::MAX_UNSENT_HEAD_BYTES;
use super::exchange::{Exchange, FlushState, RequestState};
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::answers::Expectation;
use crate::client_error;
use crate::worker::{self, buffer::SMALL_BLOCK_BYTES};
use std::task::{Context, Poll, ready};
use wire::encode::{self, ErrorReport};
use wire::scan::{self, Event, Frame, FrameError};
use wire::tag;

/// Bytes that are copied so that a head can follow them; a larger amount is sent first.
const MAX_SPILL_BYTES: usize = 4096;
/// Size of the head above which nothing is added before it is sent; one more message may exceed it.
const MAX_HEAD_BYTES: usize = 1024 * 1024;
/// Bytes of requests that a client without a server may buffer: a full buffer requests a server.
const FULL_BUFFER_BYTES: usize = SMALL_BLOCK_BYTES;

/// Maximum number of answers owed to a client before reading from it pauses; one more buffer of requests may exceed it.
const MAX_ANSWERS_OWED: usize = 16 * 1024;

/// The same while the server sends none, and the client's buffered requests are read only to detect a disconnect.
const MAX_ANSWERS_OWED_AT_ALL: usize = 16 * MAX_ANSWERS_OWED;

/// Bytes sent to a server since its last message, above which nothing more is read from the client while answers are
/// owed. So an error early in a long pipeline is reported while the client is still sending.
const MAX_UNANSWERED_BYTES: usize = 512 * 1024;

impl Exchange {
    /// Sends pending bytes, examines what was received, and receives once. Ready: there was progress, and another call
    /// may make more. Pending: the client, the server or the pool wakes this task.
    pub(super) fn poll_upstream(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let mut received = false;
        loop {
            if self.up.has_sendable() {
                match self.poll_send_upstream(cx) {
                    Poll::Ready(sent) => sent?,
                    Poll::Pending => return poll_disconnect(session),
                }
                continue;
            }
            if let Some(linked) = self.link.server() {
                match linked.server.stream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    // Back-pressure: nothing more is read from the client meanwhile.
                    Poll::Pending => return poll_disconnect(session),
                    // The server's last messages are read before it is closed.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                }
            }
            if self.has_nothing_to_do(session) {
                return Poll::Pending;
            }
            match self.scan_upstream(session) {
                NotConsumed::SendFirst => {}
                NotConsumed::AwaitServer => return self.poll_client_while_waiting(session, cx),
                NotConsumed::AwaitAnswer => {
                    if !(self.flush == FlushState::Due && self.up.at_boundary()) {
                        return poll_disconnect(session);
                    }
                }
                NotConsumed::DrainServer => ready!(self.poll_drain(session, cx))?,
                // One receive per round, so that a client that never pauses does not starve other tasks.
                NotConsumed::NeedBytes(_) if received => {
                    // Nothing is left and nothing more has arrived; another round would be wasted.
                    let is_done = self.up.is_empty() && !session.client.has_pending_input();
                    return if is_done { Poll::Pending } else { Poll::Ready(Ok(())) };
                }
                NotConsumed::NeedBytes(bytes) => received = ready!(self.poll_fill(session, cx, bytes))?,
                NotConsumed::Close(reason) => return Poll::Ready(Err(reason)),
            }
        }
    }

    /// Receives until this many bytes are available. Ready with false: a Flush or part of a batch has to be sent first.
    #[inline]
    fn poll_fill(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Result<bool, CloseReason>> {
        if self.has_backlog() {
            if self.takes_flush() {
                return Poll::Ready(Ok(false));
            }
            if !self.takes_disconnect_check(session) {
                return poll_disconnect(session).map_ok(|()| false);
            }
        }
        self.up.make_room_for_rest(bytes);
        match self.poll_receive_from_client(session, cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| true)),
            Poll::Pending if self.links_for_partial_batch(session)? => Poll::Ready(Ok(false)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads what the server has sent while no answer was owed. Pending: a client that does not read, or an incomplete
    /// record, blocks it and wakes this task later.
    fn poll_drain(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.request = RequestState::Held;
        let drained = self.poll_downstream(session, cx);
        self.request = RequestState::Accepted;
        if let Poll::Ready(Err(reason)) = drained {
            return Poll::Ready(Err(reason));
        }
        if drained.is_pending() && self.link.server().is_some_and(|l| l.server.stream.has_pending_input()) {
            return poll_disconnect(session);
        }
        Poll::Ready(Ok(()))
    }

    /// True when the client has sent nothing and will wake this task when it does.
    #[inline]
    fn has_nothing_to_do(&self, session: &ClientSession) -> bool {
        self.awaits_client_input
            && self.up.is_empty()
            && self.flush != FlushState::Due
            && !self.answers.has_due_syncs()
            && !session.client.has_pending_input()
    }

    /// True when too many answers are unsent or outstanding: nothing more is read from the client until there are
    /// fewer. Answers of the pooler do not pass through a server that could apply back-pressure.
    fn has_backlog(&self) -> bool {
        self.down.head_bytes() > MAX_UNSENT_HEAD_BYTES
            || self.answers.len() > MAX_ANSWERS_OWED
            || self.is_server_behind()
    }

    /// True when the server has much to read before it can answer. COPY data is not answered.
    #[inline]
    fn is_server_behind(&self) -> bool {
        self.unanswered_bytes > MAX_UNANSWERED_BYTES
            && !self.answers.is_empty()
            && !self.answers.may_be_copying()
            && self.up.at_boundary()
    }

    /// A disconnect can be detected only after what the client has sent before it. So a little more is read a few times
    /// a second, as long as the server accepts it. True when that is due.
    fn takes_disconnect_check(&mut self, session: &ClientSession) -> bool {
        let is_due = self.answers.len() <= MAX_ANSWERS_OWED_AT_ALL
            && self.down.head_bytes() <= MAX_UNSENT_HEAD_BYTES
            && session.info.is_end_check_due();
        if is_due {
            self.unanswered_bytes = 0;
        }
        is_due
    }

    /// Answers that precede a Sync may be in the server's buffer and need one Flush to be sent. True when the Flush is
    /// to be sent now.
    fn takes_flush(&mut self) -> bool {
        let is_needed = (self.answers.len() > MAX_ANSWERS_OWED || self.is_server_behind())
            && self.answers.is_batch_open()
            && self.flush == FlushState::None
            && self.up.at_boundary();
        if is_needed {
            self.flush = FlushState::Due;
        }
        is_needed
    }

    /// Called when nothing more can be read from the client for now. Messages of a batch are sent even if no Sync or
    /// Flush follows, since the server may report an error for them. True if there are any and the client has a server
    /// or a place in the queue.
    fn links_for_partial_batch(&mut self, session: &mut ClientSession) -> Result<bool, CloseReason> {
        if !matches!(self.link, Link::None | Link::Listening) || !self.is_between_messages() {
            return Ok(false);
        }
        let header = scan::header(self.up.front(), self.rules.max_message_bytes).map_err(bad_frame)?;
        let Some(frame) = header.filter(|frame| frame.len <= self.up.front().len()) else { return Ok(false) };
        let is_of_batch = matches!(
            frame.tag,
            tag::frontend::PARSE
                | tag::frontend::BIND
                | tag::frontend::DESCRIBE
                | tag::frontend::EXECUTE
                | tag::frontend::CLOSE
        );
        if is_of_batch && self.request == RequestState::Refused {
            return Ok(false);
        }
        if is_of_batch {
            self.try_link(session)?;
        }
        Ok(is_of_batch)
    }

    fn poll_receive_from_client(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.awaits_client_input = true;
        match ready!(self.up.poll_receive(cx, &mut session.client)) {
            Ok(0) => Poll::Ready(Err(CloseReason::ClientEof)),
            Ok(n) => {
                session.pool.stats.count(|t| t.received_bytes += n as u64);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(CloseReason::ClientLost(error))),
        }
    }

    /// While a client is in the queue, only its disconnect and cancel requests matter; anything else stays in its
    /// buffer, up to its size.
    fn poll_client_while_waiting(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        if matches!(self.link, Link::Waiting(_)) && session.info.take_cancel_wait() {
            return Poll::Ready(self.cancel_waiting_request(session));
        }
        if matches!(self.link, Link::Waiting(_)) && self.down.at_boundary() && session.info.take_wait_notice()
        {
            encode::notice_response(self.down.insert(), &ErrorReport::notice(client_error::WAIT_NOTICE));
        }
        if self.up.front().len() >= FULL_BUFFER_BYTES {
            return poll_disconnect(session);
        }
        self.up.make_room_for_rest(FULL_BUFFER_BYTES);
        self.poll_receive_from_client(session, cx)
    }

    fn poll_send_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Some(linked) = self.link.server() else {
            // Bytes become ready only with a server.
            return Poll::Ready(Err(CloseReason::Error(client_error::protocol("message without a server"))));
        };
        if self.retry.is_recording() {
            let (head, body) = self.up.sendable();
            self.retry.record(head, body);
        }
        let total = self.up.sendable_bytes();
        let sent = self.up.poll_send(cx, &mut linked.server.stream);
        let sent_bytes = if let Poll::Ready(Ok(n)) = sent { n } else { 0 };
        if sent_bytes < total && self.retry.is_recording() {
            self.retry.unrecord(total - sent_bytes);
        }
        match ready!(sent) {
            Ok(n) => {
                self.unanswered_bytes += n;
                Poll::Ready(Ok(()))
            }
            // The server may have reported the reason before it closed; `poll_downstream` reads it.
            Err(_) if linked.server.stream.has_pending_input() => Poll::Pending,
            Err(error) => Poll::Ready(Err(CloseReason::Error(client_error::server_lost(error)))),
        }
    }

    /// Examines client messages until one is not consumed, or no complete message is left.
    fn scan_upstream(&mut self, session: &mut ClientSession) -> NotConsumed {
        if self.sends_due() {
            return NotConsumed::SendFirst;
        }
        loop {
            match self.scan_next(session) {
                Ok(()) => {}
                Err(NotConsumed::Close(reason)) => return NotConsumed::Close(reason),
                // What the last message made due may be what the server waits for.
                Err(_) if self.up.has_sendable() || self.sends_due() => return NotConsumed::SendFirst,
                Err(decision) => return decision,
            }
        }
    }

    /// Consumes the next message, or the part of it that has been received.
    #[inline]
    fn scan_next(&mut self, session: &mut ClientSession) -> Consumed {
        let at_boundary = self.up.at_boundary();
        match self.up.next().map_err(bad_frame)? {
            Event::Tail(n) => {
                self.up.continue_message(n);
                // This became due inside the message and precedes the next one.
                if self.sends_due() {
                    return Err(NotConsumed::SendFirst);
                }
            }
            // CopyData outside a COPY: the server would ignore it as well.
            Event::Run(n) if !self.link.is_linked() || self.answers.skips_to_sync() => {
                debug_assert!(at_boundary);
                self.up.discard_run(n);
            }
            Event::Run(n) => {
                self.answers.copy_data_sent();
                self.up.forward_run(n);
            }
            Event::Incomplete(needed) => return Err(NotConsumed::NeedBytes(needed)),
            Event::Message(frame) => {
                self.on_client_message(session, frame)?;
                self.flush_has_passed();
            }
        }
        Ok(())
    }

    /// The server may buffer answers again that the last Flush does not concern.
    #[inline]
    pub(super) fn flush_has_passed(&mut self) {
        if self.flush == FlushState::Sent {
            self.flush = FlushState::None;
        }
    }

    /// Adds what is due between two client messages. True if there was anything.
    #[inline]
    fn sends_due(&mut self) -> bool {
        let is_due = (self.flush == FlushState::Due || self.answers.has_due_syncs())
            && self.up.at_boundary()
            && self.link.is_linked();
        if is_due {
            self.send_due();
        }
        is_due
    }

    /// True while a server has never accepted the client's values and the SET that carries them is unanswered: a
    /// request sent now could run with the wrong values.
    pub(super) fn waits_for_internal_query(&self, session: &ClientSession) -> bool {
        let awaits_values = matches!(&self.link, Link::Server(linked) if linked.awaits_values);
        (awaits_values || !session.parameters_proven) && self.answers.is_internal()
    }

    /// `None` when a server can be requested: a request is complete, or the buffer is full. Otherwise the number of
    /// bytes needed before checking again.
    #[inline(always)]
    pub(super) fn request_needs(&self) -> Result<Option<usize>, CloseReason> {
        let bytes = self.up.front();
        let mut at = 0;
        loop {
            if bytes.len() >= FULL_BUFFER_BYTES {
                return Ok(None);
            }
            let header = scan::header(&bytes[at..], self.rules.max_message_bytes).map_err(bad_frame)?;
            let Some(frame) = header else { return Ok(Some(bytes.len() + 1)) };
            if at + frame.len > bytes.len() {
                return Ok(Some((at + frame.len).min(FULL_BUFFER_BYTES)));
            }
            match frame.tag {
                tag::frontend::QUERY
                | tag::frontend::SYNC
                | tag::frontend::FLUSH
                | tag::frontend::FUNCTION_CALL
                | tag::frontend::TERMINATE => return Ok(None),
                _ => at += frame.len,
            }
        }
    }

    pub(super) fn forward_expecting(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        expected: impl Into<Expectation>,
    ) {
        self.start_clock(session);
        #[cfg(feature = "otlp")]
        self.find_trace_parent(frame);
        self.answers.push(expected);
        self.up.forward(frame);
    }

    /// The first message of a request starts its timer; later ones do not restart it.
    pub(super) fn start_clock(&mut self, session: &ClientSession) {
        if self.answers.is_empty() || self.answers.is_internal() {
            let now = worker::now();
            #[cfg(feature = "otlp")]
            self.count_for_trace(session, now);
            session.info.time(|t| {
                t.query_at = Some(now);
                t.transaction_at.get_or_insert(now);
            });
        }
    }

    /// True when there are too many ready bytes to copy, so that they have to be sent first.
    pub(super) fn must_send_first(&self) -> bool {
        self.up.ready_bytes() > MAX_SPILL_BYTES || self.up.head_bytes() > MAX_HEAD_BYTES
    }

    pub(super) fn discard_message(&mut self, frame: Frame) -> Consumed {
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        self.up.discard(frame);
        Ok(())
    }
}

/// Used while nothing is read from the client: checks for a disconnect at the janitor's interval.
fn poll_disconnect(session: &ClientSession) -> Poll<Result<(), CloseReason>> {
    if session.info.is_end_check_due() && session.client.has_hung_up() {
        return Poll::Ready(Err(CloseReason::ClientEof));
    }
    Poll::Pending
}

/// A message whose header is wrong.
pub(super) fn bad_frame(error: FrameError) -> CloseReason {
    match error {
        FrameError::UnknownTag(_) => CloseReason::Error(client_error::misplaced(&error.to_string())),
        _ => violation(error),
    }
}

pub(super) fn violation(error: impl std::fmt::Display) -> CloseReason {
    CloseReason::Error(client_error::protocol(error))
}
