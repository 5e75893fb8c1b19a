//! One direction of the relay: what was received from one peer and is to be sent to the other. Owns the order of the
//! bytes: those that the pooler inserts, then those that are forwarded in place, then those not examined yet. What is
//! forwarded, discarded or inserted is decided in [`super::upstream`] and [`super::downstream`].

use super::head::Head;
use crate::net::{Inbound, Stream};
use crate::worker;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use wire::scan::{Event, Frame, FrameError, Interest, Scanner};

/// A receive of fewer bytes is not part of a large result: PostgreSQL writes 8 KiB at a time.
const LARGE_RECEIVE_BYTES: usize = 4096;
/// Data flows fast if so much … (A debug build is slower, and its tests are to see flows.)
const FAST_BYTES: usize = if cfg!(debug_assertions) { 16 * 1024 } else { 384 * 1024 };
/// … arrives in this time.
const RATE_PERIOD: Duration = Duration::from_millis(2);

/// What happens to the rest of a message of which the beginning has been handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remainder {
    Forward,
    Discard,
}

/// One direction.
pub(super) struct HalfDuplex {
    /// Bytes received and not yet sent.
    received: Inbound,
    scanner: Scanner,
    /// Bytes at the front of `received` that are sent unchanged.
    ready: usize,
    /// Bytes sent before those.
    head: Head,
    remainder: Remainder,
    rate: ReceiveRate,
    /// Data has flowed fast; the flow may have ended by itself.
    has_flow: bool,
}

/// How much was received in the current period.
#[derive(Debug, Clone, Copy, Default)]
struct ReceiveRate {
    began: Option<Instant>,
    bytes: usize,
}

impl ReceiveRate {
    /// Adds bytes. True if data flows fast.
    fn add(&mut self, n: usize) -> bool {
        let now = worker::now();
        if self.began.is_none_or(|began| now.saturating_duration_since(began) > RATE_PERIOD) {
            *self = Self { began: Some(now), bytes: 0 };
        }
        self.bytes += n;
        self.bytes >= FAST_BYTES
    }
}

impl HalfDuplex {
    /// Nothing received. `max_message_bytes` limits the length field of a message.
    pub(super) fn new(interest: &'static Interest, max_message_bytes: u32) -> Self {
        Self {
            received: Inbound::default(),
            scanner: Scanner::new(interest, max_message_bytes),
            ready: 0,
            head: Head::default(),
            remainder: Remainder::Forward,
            rate: ReceiveRate::default(),
            has_flow: false,
        }
    }

    /// Begins at a message boundary, with another limit.
    #[inline]
    pub(super) fn restart(&mut self, interest: &'static Interest, max_message_bytes: u32) {
        self.scanner = Scanner::new(interest, max_message_bytes);
    }

    /// Reports other messages from now on.
    pub(super) fn set_interest(&mut self, interest: &'static Interest) {
        self.scanner.set_interest(interest);
    }

    /// Adds bytes that were received before this exchange began.
    pub(super) fn set_received(&mut self, bytes: Inbound) {
        debug_assert!(self.received.is_empty(), "received bytes must not be lost");
        self.received = bytes;
    }

    /// The bytes that have not been examined.
    #[inline]
    pub(super) fn front(&self) -> &[u8] {
        &self.received.bytes()[self.ready..]
    }

    /// The received part of the message at the front.
    #[inline]
    pub(super) fn message(&self, frame: Frame) -> &[u8] {
        let front = self.front();
        &front[..frame.len.min(front.len())]
    }

    /// What is at the front; see [`Scanner::next`]. Inlined, since the relay spends much of its time here.
    #[inline(always)]
    pub(super) fn next(&mut self) -> Result<Event, FrameError> {
        self.scanner.next(&self.received.bytes()[self.ready..])
    }

    /// True at a message boundary.
    #[inline]
    pub(super) fn at_boundary(&self) -> bool {
        self.scanner.at_boundary()
    }

    /// True when all received bytes have been examined.
    #[inline]
    pub(super) fn is_examined(&self) -> bool {
        self.received.len() == self.ready
    }

    /// True when nothing is left to examine or to send.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty() && self.head.is_empty()
    }

    /// True when, besides, no message is half done: the next client may use this.
    #[inline]
    pub(super) fn is_finished(&self) -> bool {
        self.is_empty() && self.at_boundary()
    }

    /// True when there are bytes to send.
    #[inline]
    pub(super) fn has_sendable(&self) -> bool {
        self.ready > 0 || !self.head.is_empty()
    }

    /// Number of bytes to send unchanged.
    #[inline]
    pub(super) fn ready_bytes(&self) -> usize {
        self.ready
    }

    /// Number of inserted or copied bytes to send.
    #[inline]
    pub(super) fn head_bytes(&self) -> usize {
        self.head.len()
    }

    /// Number of bytes to send.
    #[inline]
    pub(super) fn sendable_bytes(&self) -> usize {
        self.head.len() + self.ready
    }

    /// The bytes to send: the inserted ones, then those that are forwarded in place.
    #[inline]
    pub(super) fn sendable(&self) -> (&[u8], &[u8]) {
        (self.head.pending(), &self.received.bytes()[..self.ready])
    }

    /// Forwards the message at the front, including what has not been received yet.
    #[inline]
    pub(super) fn forward(&mut self, frame: Frame) {
        self.ready += self.scanner.consume(frame, self.received.len() - self.ready);
        self.remainder = Remainder::Forward;
    }

    /// Discards the message at the front, including what has not been received yet.
    #[inline]
    pub(super) fn discard(&mut self, frame: Frame) {
        let bytes = self.scanner.consume(frame, self.received.len() - self.ready);
        self.discard_run(bytes);
    }

    /// Forwards a run of this many bytes, which the scanner has passed.
    #[inline]
    pub(super) fn forward_run(&mut self, bytes: usize) {
        self.ready += bytes;
        self.remainder = Remainder::Forward;
    }

    /// Discards a run of this many bytes, which the scanner has passed.
    #[inline]
    pub(super) fn discard_run(&mut self, bytes: usize) {
        self.spill();
        self.received.consume(bytes);
        self.remainder = Remainder::Discard;
    }

    /// Forwards or discards this many bytes, which continue the message before.
    #[inline]
    pub(super) fn continue_message(&mut self, bytes: usize) {
        match self.remainder {
            Remainder::Forward => self.ready += bytes,
            Remainder::Discard => self.discard_run(bytes),
        }
    }

    /// Drops this many bytes of the message at the front, for which others have been inserted. The rest of the message
    /// is forwarded.
    #[inline]
    pub(super) fn replace_front(&mut self, frame: Frame, bytes: usize) {
        self.spill();
        self.scanner.consume(frame, bytes);
        self.received.consume(bytes);
        self.remainder = Remainder::Forward;
    }

    /// The buffer to which messages are appended that follow everything forwarded so far. Only at a message boundary.
    #[inline]
    pub(super) fn insert(&mut self) -> &mut Vec<u8> {
        self.spill();
        self.head.buffer()
    }

    /// As [`HalfDuplex::insert`], with the bytes at the front, to be copied from.
    #[inline]
    pub(super) fn insert_and_front(&mut self) -> (&mut Vec<u8>, &[u8]) {
        self.spill();
        (self.head.buffer(), self.received.bytes())
    }

    /// Copies the ready bytes behind the head, so that other bytes can follow them.
    #[inline]
    fn spill(&mut self) {
        if self.ready > 0 {
            self.head.buffer().extend_from_slice(&self.received.bytes()[..self.ready]);
            self.received.consume(self.ready);
            self.ready = 0;
        }
    }

    /// Discards the received bytes; nothing may be left to send.
    pub(super) fn clear_received(&mut self) {
        debug_assert!(!self.has_sendable(), "bytes are lost");
        self.received.clear();
    }

    /// Makes room for a message of this many bytes after its beginning has been received. Without any received bytes
    /// the socket provides a block.
    #[inline]
    pub(super) fn make_room_for_rest(&mut self, bytes: usize) {
        if !self.received.is_empty() {
            self.received.make_room(bytes);
        }
    }

    /// Makes room for at least one more byte.
    #[inline]
    pub(super) fn make_room(&mut self) {
        if self.received.is_full() {
            self.received.make_room(self.received.len() + 1);
        }
    }

    /// Receives once; see [`Stream::poll_recv`].
    #[inline]
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        let received = stream.poll_recv(cx, &mut self.received);
        if let Poll::Ready(Ok(n)) = received
            && n >= LARGE_RECEIVE_BYTES
        {
            self.received_much(stream, n);
        }
        received
    }

    #[cold]
    #[inline(never)]
    fn received_much(&mut self, stream: &Stream, n: usize) {
        if self.rate.add(n) {
            self.has_flow = true;
            stream.begin_flow();
        }
    }

    /// Ends the flow of the stream, if data has flowed fast.
    #[inline]
    pub(super) fn end_flow(&mut self, stream: &Stream) {
        if self.has_flow {
            self.has_flow = false;
            stream.end_flow();
        }
    }

    /// Sends what the stream accepts. Ready: this many bytes. Pending: the stream wakes the task when it accepts more.
    #[inline(always)]
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, stream: &mut Stream) -> Poll<io::Result<usize>> {
        let sent = ready!(stream.poll_send_front(cx, self.head.pending(), &mut self.received, self.ready))?;
        let from_head = sent.min(self.head.len());
        self.head.advance(from_head);
        self.ready -= sent - from_head;
        Poll::Ready(Ok(sent))
    }

    /// What still has to be sent before another message can follow; `None` if a message would remain incomplete.
    pub(super) fn unsent(&self) -> Option<Vec<u8>> {
        let (head, ready) = self.sendable();
        let is_complete = self.at_boundary() || self.remainder == Remainder::Discard;
        is_complete.then(|| [head, ready].concat())
    }
}
