//! From the client to the server. Owns the decision when a server is needed, what of the client's messages goes on
//! as it is; messages that name prepared statements are [`super::statements`]'s.

use super::downstream::MAX_UNSENT_HEAD_BYTES;
use super::exchange::Exchange;
use super::link::Link;
use super::session::{Ending, Guest};
use crate::faults;
use crate::prepared::Expected;
use crate::worker::{self, buffer::SMALL_BLOCK_BYTES};
use std::task::{Context, Poll, ready};
use wire::limits::HEADER_BYTES;
use wire::scan::{self, Event, Frame};
use wire::{encode, tag};

/// Bytes moved aside so that a head can be put behind them; more are sent first.
const MAX_SPILL_BYTES: usize = 4096;
/// Requests that may lie in the buffer of a client without a server: a full buffer asks for one.
const FULL_BUFFER_BYTES: usize = SMALL_BLOCK_BYTES;

/// Answers owed to one client at the most before it is read from again; one buffer full may come on top.
const MAX_ANSWERS_OWED: usize = 16 * 1024;

/// What a look at the client's bytes came to.
pub(super) enum Scanned {
    /// Something can be sent.
    Sendable,
    /// Nothing, until this many bytes are there.
    Needs(usize),
    /// A request is there, and no server yet.
    AwaitsServer,
}

impl Exchange {
    /// One round: send what is decided, look at what came, receive.
    pub(super) fn poll_upstream(
        &mut self,
        guest: &mut Guest,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ending>> {
        let mut received = false;
        loop {
            if self.up_ready > 0 || !self.up_head.is_empty() {
                ready!(self.poll_send_upstream(cx))?;
                continue;
            }
            if let Some(linked) = self.link.server() {
                match linked.server.stream.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    // Back-pressure: nothing more is read from the client meanwhile.
                    Poll::Pending => return Poll::Pending,
                    // What the server said last is read before it is given up.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                }
            }
            match self.scan_upstream(guest) {
                Ok(Scanned::Sendable) => {}
                Ok(Scanned::AwaitsServer) => return self.poll_client_while_waiting(guest, cx),
                Ok(Scanned::Needs(bytes)) => {
                    // Once per round, so that a client that never pauses leaves the others their turn.
                    if received {
                        return Poll::Ready(Ok(()));
                    }
                    if self.is_swamped() {
                        return Poll::Pending;
                    }
                    if !self.up.is_empty() {
                        self.up.make_room(bytes);
                    }
                    ready!(self.poll_receive_from_client(guest, cx))?;
                    received = true;
                }
                Err(ending) => return Poll::Ready(Err(ending)),
            }
        }
    }

    /// Answers pile up that the client does not read or the server has not given: nothing more is read until they
    /// are fewer. Answers made up here pass no server that could hold them back.
    fn is_swamped(&self) -> bool {
        self.down_head.len() > MAX_UNSENT_HEAD_BYTES || self.answers.len() > MAX_ANSWERS_OWED
    }

    fn poll_receive_from_client(
        &mut self,
        guest: &mut Guest,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ending>> {
        match ready!(guest.client.poll_recv(cx, &mut self.up)) {
            Ok(0) => Poll::Ready(Err(Ending::ClientLeft)),
            Ok(n) => {
                guest.pool.stats.count(|t| t.received_bytes += n as u64);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Ending::ClientLost(error))),
        }
    }

    /// While a client waits in the queue, only its end and a cancel request are of interest; what it sends more
    /// stays in its buffer as far as that goes.
    fn poll_client_while_waiting(
        &mut self,
        guest: &mut Guest,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ending>> {
        if matches!(self.link, Link::Waiting(_)) && guest.info.take_cancel_wait() {
            return Poll::Ready(self.cancel_waiting_request(guest));
        }
        if self.up.len() >= FULL_BUFFER_BYTES {
            return Poll::Pending;
        }
        self.up.make_room(FULL_BUFFER_BYTES);
        self.poll_receive_from_client(guest, cx)
    }

    fn poll_send_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let Some(linked) = self.link.server() else {
            // Nothing is ever decided without a server.
            return Poll::Ready(Err(Ending::Fault(faults::protocol("message without a server"))));
        };
        let stream = &mut linked.server.stream;
        match ready!(stream.poll_send_front(cx, self.up_head.pending(), &mut self.up, self.up_ready)) {
            Ok(n) => {
                let from_head = n.min(self.up_head.len());
                self.up_head.advance(from_head);
                self.up_ready -= n - from_head;
                Poll::Ready(Ok(()))
            }
            // The server may have said why before it closed: the other direction reads that.
            Err(_) if linked.server.stream.has_news() => Poll::Pending,
            Err(error) => Poll::Ready(Err(Ending::Fault(faults::server_lost(error)))),
        }
    }

    fn scan_upstream(&mut self, guest: &mut Guest) -> Result<Scanned, Ending> {
        loop {
            let bytes = &self.up.bytes()[self.up_ready..];
            let at_boundary = self.up_scanner.at_boundary();
            match self.up_scanner.next(bytes).map_err(violation)? {
                Event::Tail(n) if self.up_discard_tail => self.drop_upstream(n),
                Event::Tail(n) => self.up_ready += n,
                // CopyData outside of a COPY: the server would ignore it as well.
                Event::Run(n) if !self.link.is_linked() || self.answers.skips_to_sync() => {
                    debug_assert!(at_boundary);
                    self.up_discard_tail = true;
                    self.drop_upstream(n);
                }
                Event::Run(n) => {
                    self.up_discard_tail = false;
                    self.up_ready += n;
                }
                Event::Incomplete(needed) => {
                    return Ok(if self.has_sendable() { Scanned::Sendable } else { Scanned::Needs(needed) });
                }
                Event::Message(frame) => {
                    if let Some(scanned) = self.on_client_message(guest, frame)? {
                        return Ok(if self.has_sendable() { Scanned::Sendable } else { scanned });
                    }
                }
            }
        }
    }

    fn has_sendable(&self) -> bool {
        self.up_ready > 0 || !self.up_head.is_empty()
    }

    /// Acts on the message at the front. `None`: it is dealt with; else what has to happen first.
    fn on_client_message(&mut self, guest: &mut Guest, frame: Frame) -> Result<Option<Scanned>, Ending> {
        if frame.tag == tag::frontend::TERMINATE {
            if self.has_sendable() {
                return Ok(Some(Scanned::Sendable));
            }
            self.up.clear();
            return Err(Ending::ClientLeft);
        }
        // Judged before a server is taken for it.
        if frame.tag == tag::frontend::PASSWORD {
            return Err(violation(scan::FrameError::UnknownTag(frame.tag)));
        }
        if !self.link.is_linked() {
            if matches!(self.link, Link::None)
                && let Some(needed) = self.request_needs(guest)?
            {
                return Ok(Some(Scanned::Needs(needed)));
            }
            if !self.try_link(guest)? {
                return Ok(Some(Scanned::AwaitsServer));
            }
        }
        self.holds_request = self.waits_for_own_query(guest);
        if self.holds_request {
            return Ok(Some(Scanned::AwaitsServer));
        }
        if self.answers.skips_to_sync() && frame.tag != tag::frontend::SYNC {
            return Ok(self.discard_message(frame));
        }
        match frame.tag {
            tag::frontend::QUERY => {
                let forgets = may_forget(&self.up.bytes()[self.up_ready..]);
                let expected = if forgets { Expected::ForgetfulQuery } else { Expected::Query };
                self.forward_expecting(guest, frame, expected);
            }
            tag::frontend::FUNCTION_CALL => self.forward_expecting(guest, frame, Expected::FunctionCall),
            tag::frontend::SYNC => self.forward_expecting(guest, frame, Expected::Sync),
            // These build on what is written down of names, which an earlier batch may still change.
            tag::frontend::PARSE | tag::frontend::BIND | tag::frontend::DESCRIBE | tag::frontend::CLOSE
                if self.answers.names_unsettled() =>
            {
                return Ok(Some(Scanned::AwaitsServer));
            }
            tag::frontend::PARSE => return self.on_parse(guest, frame),
            tag::frontend::BIND => return self.on_bind(guest, frame),
            tag::frontend::DESCRIBE => return self.on_describe(guest, frame),
            tag::frontend::CLOSE => return self.on_close(guest, frame),
            tag::frontend::EXECUTE => self.forward_expecting(guest, frame, Expected::Execute),
            tag::frontend::FLUSH => self.forward(frame),
            tag::frontend::COPY_DONE | tag::frontend::COPY_FAIL => {
                self.answers.push(Expected::CopyEnd);
                self.forward(frame);
            }
            other => return Err(violation(scan::FrameError::UnknownTag(other))),
        }
        Ok(None)
    }

    /// The client's values have never been accepted by a server, and the SET that carries them is not answered
    /// yet: a request sent now could run under the wrong ones.
    fn waits_for_own_query(&self, guest: &Guest) -> bool {
        !guest.parameters_proven && self.answers.is_own()
    }

    /// `None` when a server can be asked for: a request is complete, or the buffer is full. Else how many bytes
    /// have to be there for the next look.
    fn request_needs(&self, guest: &Guest) -> Result<Option<usize>, Ending> {
        let bytes = &self.up.bytes()[self.up_ready..];
        let mut at = 0;
        loop {
            if bytes.len() >= FULL_BUFFER_BYTES {
                return Ok(None);
            }
            let header = scan::header(&bytes[at..], guest.rules.max_message_bytes).map_err(violation)?;
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

    fn forward(&mut self, frame: Frame) {
        let n = self.up_scanner.consume(frame, self.up.len() - self.up_ready);
        self.up_discard_tail = false;
        self.up_ready += n;
    }

    pub(super) fn forward_expecting(&mut self, guest: &mut Guest, frame: Frame, expected: Expected) {
        self.start_clock(guest);
        self.answers.push(expected);
        self.forward(frame);
    }

    /// The first message of a request starts its time; those behind it do not start it again.
    pub(super) fn start_clock(&self, guest: &Guest) {
        if self.answers.is_empty() || self.answers.is_own() {
            let now = worker::now();
            guest.info.time(|t| {
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
        self.up_ready > MAX_SPILL_BYTES
    }

    pub(super) fn discard_message(&mut self, frame: Frame) -> Option<Scanned> {
        if self.must_send_first() {
            return Some(Scanned::Sendable);
        }
        let n = self.up_scanner.consume(frame, self.up.len() - self.up_ready);
        self.up_discard_tail = true;
        self.drop_upstream(n);
        None
    }

    /// A cancel request came for a query that has not reached a server: it is answered here.
    fn cancel_waiting_request(&mut self, guest: &mut Guest) -> Result<(), Ending> {
        super::link::leave_queue(&guest.pool, std::mem::replace(&mut self.link, Link::None));
        guest.info.state.set(crate::clients::ClientState::Idle);
        loop {
            let header = scan::header(self.up.bytes(), guest.rules.max_message_bytes).map_err(violation)?;
            let Some(frame) = header.filter(|frame| frame.len <= self.up.len()) else {
                // The request is larger than the buffer: there is no end to skip to.
                return Err(Ending::Fault(faults::canceled_while_waiting()));
            };
            self.up.consume(frame.len);
            if matches!(frame.tag, tag::frontend::QUERY | tag::frontend::SYNC | tag::frontend::FUNCTION_CALL)
            {
                break;
            }
        }
        faults::canceled_while_waiting().encode_error(self.down_head.buffer());
        encode::ready_for_query(self.down_head.buffer());
        Ok(())
    }
}

/// True when a query may make the server forget prepared statements, by its first word. Others that do so in a
/// function or behind another statement are noticed by their command tag, later.
fn may_forget(message: &[u8]) -> bool {
    let text = message.get(HEADER_BYTES..).unwrap_or_default().trim_ascii_start();
    ["DISCARD", "DEALLOCATE"]
        .iter()
        .any(|word| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes())))
}

pub(super) fn violation(error: impl std::fmt::Display) -> Ending {
    Ending::Fault(faults::protocol(error))
}
