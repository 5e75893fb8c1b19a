//! From the client to the server. Owns the decision when a server is needed, what of the client's messages goes on
//! as it is; messages that name prepared statements are [`super::statements`]'s.

use super::decision::{Consumed, NotConsumed};
use super::downstream::MAX_UNSENT_HEAD_BYTES;
use super::exchange::Exchange;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::answers::ExpectedAnswer;
use crate::client_error;
use crate::worker::{self, buffer::SMALL_BLOCK_BYTES};
use std::task::{Context, Poll, ready};
use wire::scan::{self, Event, Frame};
use wire::tag;

/// Bytes moved aside so that a head can be put behind them; more are sent first.
const MAX_SPILL_BYTES: usize = 4096;
/// Bytes of ours above which nothing is added before they are sent; one message more may come on top.
const MAX_HEAD_BYTES: usize = 1024 * 1024;
/// Requests that may lie in the buffer of a client without a server: a full buffer asks for one.
const FULL_BUFFER_BYTES: usize = SMALL_BLOCK_BYTES;

/// Answers owed to one client at the most before it is read from again; one buffer full may come on top.
const MAX_ANSWERS_OWED: usize = 16 * 1024;

/// The same while the server gives none, and the client's end is looked for behind what it has sent.
const MAX_ANSWERS_OWED_AT_ALL: usize = 16 * MAX_ANSWERS_OWED;

/// Bytes sent to a server that has said nothing since, above which nothing more is read from the client while answers are
/// owed. An error at the beginning of a long pipeline then comes while the client is still sending.
const MAX_UNANSWERED_BYTES: usize = 512 * 1024;

impl Exchange {
    /// Sends what is decided, looks at what came, and receives once. Ready: something was done, and another call may find
    /// more to do. Pending: the client, the server or the pool wakes this task.
    pub(super) fn poll_upstream(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let mut received = false;
        loop {
            if self.up_ready > 0 || !self.up_head.is_empty() {
                match self.poll_send_upstream(cx) {
                    Poll::Ready(sent) => sent?,
                    Poll::Pending => return poll_client_end(session),
                }
                continue;
            }
            if let Some(linked) = self.link.server() {
                match linked.server.stream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    // Back-pressure: nothing more is read from the client meanwhile.
                    Poll::Pending => return poll_client_end(session),
                    // What the server said last is read before it is given up.
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
                    if !(self.flush_due && self.up_scanner.at_boundary()) {
                        return poll_client_end(session);
                    }
                }
                NotConsumed::AwaitSilence => ready!(self.poll_silence(session, cx))?,
                // One receive per round, so that a client that never pauses leaves the others their turn.
                NotConsumed::NeedBytes(_) if received => {
                    // Nothing is left, and nothing more has come: another round would find that out again.
                    let is_done = self.up.is_empty() && !session.client.has_pending_input();
                    return if is_done { Poll::Pending } else { Poll::Ready(Ok(())) };
                }
                NotConsumed::NeedBytes(bytes) => received = ready!(self.poll_need(session, cx, bytes))?,
                NotConsumed::Close(reason) => return Poll::Ready(Err(reason)),
            }
        }
    }

    /// Receives, so that this many bytes are there. Ready with false: a Flush, or a part of a batch, is to be sent first.
    #[inline]
    fn poll_need(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<Result<bool, CloseReason>> {
        if self.is_swamped() {
            if self.wants_flush() {
                return Poll::Ready(Ok(false));
            }
            if !self.looks_for_end(session) {
                return poll_client_end(session).map_ok(|()| false);
            }
        }
        if !self.up.is_empty() {
            self.up.make_room(bytes);
        }
        match self.poll_receive_from_client(session, cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map(|()| true)),
            Poll::Pending if self.links_for_part_of_batch(session)? => Poll::Ready(Ok(false)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads what the server has sent while no answer was owed. Pending: a client that does not read, or a record that is
    /// not complete, holds it up; what does so wakes this task.
    fn poll_silence(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        self.holds_request = true;
        let heard = self.poll_downstream(session, cx);
        self.holds_request = false;
        if let Poll::Ready(Err(reason)) = heard {
            return Poll::Ready(Err(reason));
        }
        if heard.is_pending() && self.link.server().is_some_and(|l| l.server.stream.has_pending_input()) {
            return poll_client_end(session);
        }
        Poll::Ready(Ok(()))
    }

    /// The client has sent nothing, and will wake this task when it does: a look at it would find that out again.
    #[inline]
    fn has_nothing_to_do(&self, session: &ClientSession) -> bool {
        self.listens_to_client
            && self.up.is_empty()
            && !self.flush_due
            && !self.answers.has_due_syncs()
            && !session.client.has_pending_input()
    }

    /// Answers pile up that the client does not read or the server has not given: nothing more is read until they
    /// are fewer. Answers made up here pass no server that could hold them back.
    fn is_swamped(&self) -> bool {
        self.down_head.len() > MAX_UNSENT_HEAD_BYTES
            || self.answers.len() > MAX_ANSWERS_OWED
            || self.outruns_server()
    }

    /// The server has much to read before it can answer. COPY data have no answers.
    #[inline]
    fn outruns_server(&self) -> bool {
        self.unanswered_bytes > MAX_UNANSWERED_BYTES
            && !self.answers.is_empty()
            && !self.answers.may_be_copying()
            && self.up_scanner.at_boundary()
    }

    /// A client's end is behind what it has sent: a few times a second some more of that is read, as long as the server
    /// takes it. True when that is due.
    fn looks_for_end(&mut self, session: &ClientSession) -> bool {
        let is_due = self.answers.len() <= MAX_ANSWERS_OWED_AT_ALL
            && self.down_head.len() <= MAX_UNSENT_HEAD_BYTES
            && session.info.is_end_check_due();
        if is_due {
            self.unanswered_bytes = 0;
        }
        is_due
    }

    /// Answers that no Sync has been sent for may lie in the server's buffer: without a Flush, once, they would never
    /// come. True when it is to be sent now.
    fn wants_flush(&mut self) -> bool {
        let wants = (self.answers.len() > MAX_ANSWERS_OWED || self.outruns_server())
            && self.answers.is_batch_open()
            && !self.swamped_flush_sent
            && self.up_scanner.at_boundary();
        if wants {
            self.swamped_flush_sent = true;
            self.flush_due = true;
        }
        wants
    }

    /// Nothing more can be read from the client for now. Messages of a batch that no Sync or Flush follows are sent all
    /// the same, as the server may have something to say about them: true when there are some, and a server, or a place
    /// in the queue for one.
    fn links_for_part_of_batch(&mut self, session: &mut ClientSession) -> Result<bool, CloseReason> {
        if !matches!(self.link, Link::None) || self.up_ready > 0 || !self.up_scanner.at_boundary() {
            return Ok(false);
        }
        let header = scan::header(self.up.bytes(), self.rules.max_message_bytes).map_err(violation)?;
        let Some(frame) = header.filter(|frame| frame.len <= self.up.len()) else { return Ok(false) };
        let is_of_batch = matches!(
            frame.tag,
            tag::frontend::PARSE
                | tag::frontend::BIND
                | tag::frontend::DESCRIBE
                | tag::frontend::EXECUTE
                | tag::frontend::CLOSE
        );
        if is_of_batch && self.refused_batch {
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
        self.listens_to_client = true;
        match ready!(session.client.poll_recv(cx, &mut self.up)) {
            Ok(0) => Poll::Ready(Err(CloseReason::ClientLeft)),
            Ok(n) => {
                session.pool.stats.count(|t| t.received_bytes += n as u64);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(CloseReason::ClientLost(error))),
        }
    }

    /// While a client waits in the queue, only its end and a cancel request are of interest; what it sends more
    /// stays in its buffer as far as that goes.
    fn poll_client_while_waiting(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        if matches!(self.link, Link::Waiting(_)) && session.info.take_cancel_wait() {
            return Poll::Ready(self.cancel_waiting_request(session));
        }
        if self.up.len() >= FULL_BUFFER_BYTES {
            return poll_client_end(session);
        }
        self.up.make_room(FULL_BUFFER_BYTES);
        self.poll_receive_from_client(session, cx)
    }

    fn poll_send_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Some(linked) = self.link.server() else {
            // Nothing is ever decided without a server.
            return Poll::Ready(Err(CloseReason::Error(client_error::protocol("message without a server"))));
        };
        if self.retry.records() {
            self.retry.record(self.up_head.pending(), &self.up.bytes()[..self.up_ready]);
        }
        let total = self.up_head.len() + self.up_ready;
        let stream = &mut linked.server.stream;
        let sent = stream.poll_send_front(cx, self.up_head.pending(), &mut self.up, self.up_ready);
        let gone = if let Poll::Ready(Ok(n)) = sent { n } else { 0 };
        if gone < total && self.retry.records() {
            self.retry.unrecord(total - gone);
        }
        match ready!(sent) {
            Ok(n) => {
                let from_head = n.min(self.up_head.len());
                self.up_head.advance(from_head);
                self.up_ready -= n - from_head;
                self.unanswered_bytes += n;
                Poll::Ready(Ok(()))
            }
            // The server may have said why before it closed: the other direction reads that.
            Err(_) if linked.server.stream.has_pending_input() => Poll::Pending,
            Err(error) => Poll::Ready(Err(CloseReason::Error(client_error::server_lost(error)))),
        }
    }

    /// Looks at the client's messages until one is not consumed, or no whole message is left.
    fn scan_upstream(&mut self, session: &mut ClientSession) -> NotConsumed {
        if self.sends_due() {
            return NotConsumed::SendFirst;
        }
        loop {
            match self.scan_next(session) {
                Ok(()) => {}
                Err(NotConsumed::Close(reason)) => return NotConsumed::Close(reason),
                Err(_) if self.has_sendable() => return NotConsumed::SendFirst,
                Err(decision) => return decision,
            }
        }
    }

    /// Consumes the next message, or the part of it that is there.
    #[inline]
    fn scan_next(&mut self, session: &mut ClientSession) -> Consumed {
        let bytes = &self.up.bytes()[self.up_ready..];
        let at_boundary = self.up_scanner.at_boundary();
        match self.up_scanner.next(bytes).map_err(violation)? {
            Event::Tail(n) => {
                if self.up_discard_tail {
                    self.drop_upstream(n);
                } else {
                    self.up_ready += n;
                }
                // It became due inside this message, and goes before the next.
                if self.sends_due() {
                    return Err(NotConsumed::SendFirst);
                }
            }
            // CopyData outside of a COPY: the server would ignore it as well.
            Event::Run(n) if !self.link.is_linked() || self.answers.skips_to_sync() => {
                debug_assert!(at_boundary);
                self.up_discard_tail = true;
                self.drop_upstream(n);
            }
            Event::Run(n) => {
                self.answers.copy_data_sent();
                self.up_discard_tail = false;
                self.up_ready += n;
            }
            Event::Incomplete(needed) => return Err(NotConsumed::NeedBytes(needed)),
            Event::Message(frame) => {
                self.on_client_message(session, frame)?;
                self.awaited_flush_sent = false;
            }
        }
        Ok(())
    }

    /// Puts what is due between two messages of the client behind what is to be sent. True if there was anything.
    #[inline]
    fn sends_due(&mut self) -> bool {
        let is_due = (self.flush_due || self.answers.has_due_syncs())
            && self.up_scanner.at_boundary()
            && self.link.is_linked();
        if is_due {
            self.send_due();
        }
        is_due
    }

    pub(super) fn has_sendable(&self) -> bool {
        self.up_ready > 0 || !self.up_head.is_empty()
    }

    /// The client's values have never been accepted by a server, and the SET that carries them is not answered
    /// yet: a request sent now could run under the wrong ones.
    pub(super) fn waits_for_internal_query(&self, session: &ClientSession) -> bool {
        !session.parameters_proven && self.answers.is_internal()
    }

    /// `None` when a server can be asked for: a request is complete, or the buffer is full. Else how many bytes
    /// have to be there for the next look.
    pub(super) fn request_needs(&self) -> Result<Option<usize>, CloseReason> {
        let bytes = &self.up.bytes()[self.up_ready..];
        let mut at = 0;
        loop {
            if bytes.len() >= FULL_BUFFER_BYTES {
                return Ok(None);
            }
            let header = scan::header(&bytes[at..], self.rules.max_message_bytes).map_err(violation)?;
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

    pub(super) fn forward(&mut self, frame: Frame) {
        let n = self.up_scanner.consume(frame, self.up.len() - self.up_ready);
        self.up_discard_tail = false;
        self.up_ready += n;
    }

    pub(super) fn forward_expecting(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        expected: ExpectedAnswer,
    ) {
        self.start_clock(session);
        self.answers.push(expected);
        self.forward(frame);
    }

    /// The first message of a request starts its time; those behind it do not start it again.
    pub(super) fn start_clock(&self, session: &ClientSession) {
        if self.answers.is_empty() || self.answers.is_internal() {
            let now = worker::now();
            session.info.time(|t| {
                t.query_at = Some(now);
                t.transaction_at.get_or_insert(now);
            });
        }
    }

    /// Throws `n` bytes away that stand behind `up_ready`.
    fn drop_upstream(&mut self, n: usize) {
        self.spill_upstream();
        self.up.consume(n);
    }

    /// Moves what is ready aside, so that something else can be put behind it.
    pub(super) fn spill_upstream(&mut self) {
        if self.up_ready > 0 {
            self.up_head.buffer().extend_from_slice(&self.up.bytes()[..self.up_ready]);
            self.up.consume(self.up_ready);
            self.up_ready = 0;
        }
    }

    /// True when what is ready is too much to be moved aside and has to be sent first.
    pub(super) fn must_send_first(&self) -> bool {
        self.up_ready > MAX_SPILL_BYTES || self.up_head.len() > MAX_HEAD_BYTES
    }

    pub(super) fn discard_message(&mut self, frame: Frame) -> Consumed {
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        let n = self.up_scanner.consume(frame, self.up.len() - self.up_ready);
        self.up_discard_tail = true;
        self.drop_upstream(n);
        Ok(())
    }
}

/// Nothing is read from the client for now. Its end is noticed all the same, at the janitor's pace.
fn poll_client_end(session: &ClientSession) -> Poll<Result<(), CloseReason>> {
    if session.info.is_end_check_due() && session.client.has_hung_up() {
        return Poll::Ready(Err(CloseReason::ClientLeft));
    }
    Poll::Pending
}

pub(super) fn violation(error: impl std::fmt::Display) -> CloseReason {
    CloseReason::Error(client_error::protocol(error))
}
