//! From the server to the client. Owns which server messages are forwarded, which are discarded, and which answers are
//! synthesized. The server is released before the last bytes are sent.

use super::exchange::Exchange;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::client_error;
use crate::server::first_non_notification;
use std::task::{Context, Poll, ready};
use wire::encode;
use wire::scan::Event;

/// Unsent bytes for a slow client above which nothing more is read from the server.
pub(super) const MAX_UNSENT_HEAD_BYTES: usize = 1024 * 1024;

impl Exchange {
    /// One round: examine what was received, release the server if the request is complete, send, receive.
    pub(super) fn poll_downstream(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        let mut progress = false;
        let mut received = false;
        loop {
            if !self.link.is_linked() && self.down_ready == 0 && self.down_head.is_empty() {
                // Encrypted records may still be buffered for a TLS client.
                let _ = session.client.poll_flush(cx);
                break;
            }
            // These precede everything received since.
            self.send_fake_answers();
            self.scan_downstream(session)?;
            self.send_fake_answers();
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
            // One receive per round, so that a server that never pauses does not starve other tasks.
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
        // After a release, the client's next request may already be in the buffer.
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_receive_from_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Link::Server(linked) = &mut self.link else { return Poll::Pending };
        if self.down.is_full() {
            // A header, or a message that has to be complete, does not fit after the retained bytes.
            self.down.make_room(self.down.len() + 1);
        }
        let outcome = linked.server.stream.poll_recv(cx, &mut self.down);
        match ready!(outcome) {
            Ok(n) if n > 0 => {
                self.unanswered_bytes = 0;
                self.backlog_flush_sent = false;
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
            match self.down_scanner.next(bytes).map_err(server_violation)? {
                Event::Tail(n) => self.take(n, self.down_discard_tail),
                Event::Run(n) => {
                    // The run is consumed but not yet forwarded: synthesized answers precede it.
                    self.send_fakes_before_run();
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
        match first_non_notification(&self.down.bytes()[self.down_ready..][..n]) {
            None => Ok(()),
            Some(tag) => Err(self.out_of_step(session, &self.answers.unexpected(tag))),
        }
    }

    /// Forwards or discards the `n` bytes after those that are ready.
    pub(super) fn take(&mut self, n: usize, discard: bool) {
        if discard {
            self.spill_downstream();
            self.down.consume(n);
        } else {
            self.down_ready += n;
        }
    }

    /// Moves the ready bytes to the head, so that bytes of the pooler can follow them.
    pub(super) fn spill_downstream(&mut self) {
        if self.down_ready > 0 {
            self.down_head.buffer().extend_from_slice(&self.down.bytes()[..self.down_ready]);
            self.down.consume(self.down_ready);
            self.down_ready = 0;
        }
    }

    /// Sends the synthesized answers that are due. Never in the middle of a message.
    #[inline]
    pub(super) fn send_fake_answers(&mut self) {
        if self.down_scanner.at_boundary() {
            self.send_fakes_before_run();
        }
    }

    /// As [`Exchange::send_fake_answers`], when the scanner has just passed a run that began at a message boundary.
    #[inline]
    fn send_fakes_before_run(&mut self) {
        if self.answers.is_fake_due() {
            self.encode_due_fakes();
        }
    }

    #[inline(never)]
    fn encode_due_fakes(&mut self) {
        while let Some(tag) = self.answers.due_fake() {
            self.spill_downstream();
            encode::empty(self.down_head.buffer(), tag);
        }
    }
}

pub(super) fn server_violation(error: impl std::fmt::Display) -> CloseReason {
    CloseReason::Error(client_error::server_lost(format!("it broke the protocol: {error}")))
}
