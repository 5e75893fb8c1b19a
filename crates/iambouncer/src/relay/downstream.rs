//! From the server to the client. Owns what of the server's messages goes on, what answers are made up or swallowed,
//! and what they tell about the server's state. The server is released before the last bytes are sent.

use super::exchange::Exchange;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::client_error;
use crate::server::first_but_notifications;
use std::task::{Context, Poll, ready};
use wire::encode;
use wire::scan::Event;

/// Bytes waiting for a slow client above which nothing more is read from the server.
pub(super) const MAX_UNSENT_HEAD_BYTES: usize = 1024 * 1024;

impl Exchange {
    /// One round: look at what came, release the server if it is done, send, receive.
    pub(super) fn poll_downstream(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let mut progress = false;
        let mut received = false;
        loop {
            if !self.link.is_linked() && self.down_ready == 0 && self.down_head.is_empty() {
                // A TLS client may still have records on the way.
                let _ = session.client.poll_flush(cx);
                break;
            }
            // Due before anything that has come since.
            self.make_up_answers();
            self.scan_downstream(session)?;
            self.make_up_answers();
            self.release_if_done(session)?;
            while self.down_ready > 0 || !self.down_head.is_empty() {
                match self.poll_send_downstream(session, cx) {
                    Poll::Ready(sent) => sent?,
                    Poll::Pending => return if progress { Poll::Ready(Ok(())) } else { Poll::Pending },
                }
                progress = true;
            }
            match session.client.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(CloseReason::ClientLost(error))),
                Poll::Pending => return Poll::Pending,
            }
            // Once per round, so that a server that never pauses leaves the others their turn.
            if received {
                break;
            }
            match self.poll_receive_from_server(cx) {
                Poll::Ready(outcome) => outcome?,
                Poll::Pending => break,
            }
            received = true;
            progress = true;
        }
        // After a release the client may have the next request in its buffer already.
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_receive_from_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Link::Server(linked) = &mut self.link else { return Poll::Pending };
        if self.down.is_full() {
            // A message that is read whole, or a header, does not fit behind what is kept.
            self.down.make_room(self.down.len() + 1);
        }
        let outcome = linked.server.stream.poll_recv(cx, &mut self.down);
        match ready!(outcome) {
            Ok(n) if n > 0 => {
                self.unanswered_bytes = 0;
                self.swamped_flush_sent = false;
                Poll::Ready(Ok(()))
            }
            _ if self.saw_fatal => Poll::Ready(Err(CloseReason::ServerFatal)),
            Ok(_) => Poll::Ready(Err(CloseReason::Error(client_error::server_lost("the server closed it")))),
            Err(error) => Poll::Ready(Err(CloseReason::Error(client_error::server_lost(error)))),
        }
    }

    fn poll_send_downstream(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let sent =
            session.client.poll_send_front(cx, self.down_head.pending(), &mut self.down, self.down_ready);
        match ready!(sent) {
            Ok(n) => {
                let from_head = n.min(self.down_head.len());
                self.down_head.advance(from_head);
                self.down_ready -= n - from_head;
                session.pool.stats.count(|t| t.sent_bytes += n as u64);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(CloseReason::ClientLost(error))),
        }
    }

    fn scan_downstream(&mut self, session: &mut ClientSession) -> Result<(), CloseReason> {
        while self.down_head.len() <= MAX_UNSENT_HEAD_BYTES {
            let bytes = &self.down.bytes()[self.down_ready..];
            match self.down_scanner.next(bytes).map_err(nonsense)? {
                Event::Tail(n) => self.take(n, self.down_discard_tail),
                Event::Run(n) => {
                    // The run is consumed but not taken: what is made up stands before it.
                    self.make_up_before_run();
                    self.check_run(session, n)?;
                    self.down_discard_tail = self.answers.is_internal();
                    self.take(n, self.down_discard_tail);
                }
                Event::Incomplete(_) => break,
                Event::Message(frame) => self.on_server_message(session, frame)?,
            }
        }
        Ok(())
    }

    /// Rows and COPY data belong to a request. Notifications may come at any time.
    #[inline]
    fn check_run(&mut self, session: &ClientSession, n: usize) -> Result<(), CloseReason> {
        if self.answers.allows_rows() { Ok(()) } else { self.check_run_between_answers(session, n) }
    }

    #[inline(never)]
    fn check_run_between_answers(&mut self, session: &ClientSession, n: usize) -> Result<(), CloseReason> {
        match first_but_notifications(&self.down.bytes()[self.down_ready..][..n]) {
            None => Ok(()),
            Some(tag) => Err(self.out_of_step(session, &self.answers.unexpected(tag))),
        }
    }

    /// Takes `n` bytes behind what is ready: to be sent on, or thrown away.
    pub(super) fn take(&mut self, n: usize, discard: bool) {
        if discard {
            self.spill_downstream();
            self.down.consume(n);
        } else {
            self.down_ready += n;
        }
    }

    /// Moves what is ready aside, so that something of ours can follow it.
    pub(super) fn spill_downstream(&mut self) {
        if self.down_ready > 0 {
            self.down_head.buffer().extend_from_slice(&self.down.bytes()[..self.down_ready]);
            self.down.consume(self.down_ready);
            self.down_ready = 0;
        }
    }

    /// Sends the answers that are due of those nobody asked the server for. Never inside a message.
    #[inline]
    pub(super) fn make_up_answers(&mut self) {
        if self.down_scanner.at_boundary() {
            self.make_up_before_run();
        }
    }

    /// As [`Exchange::make_up_answers`], when the scanner has just gone past a run that began at a boundary.
    #[inline]
    fn make_up_before_run(&mut self) {
        if self.answers.is_fake_due() {
            self.make_up_due();
        }
    }

    #[inline(never)]
    fn make_up_due(&mut self) {
        while let Some(tag) = self.answers.due_fake() {
            self.spill_downstream();
            encode::empty(self.down_head.buffer(), tag);
        }
    }
}

pub(super) fn nonsense(error: impl std::fmt::Display) -> CloseReason {
    CloseReason::Error(client_error::server_lost(format!("it broke the protocol: {error}")))
}
