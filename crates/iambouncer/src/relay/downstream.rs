//! From the server to the client. Owns which server messages are forwarded, which are discarded, and which answers are
//! given by the pooler. The server is released before the last bytes are sent.

use super::exchange::Exchange;
use super::link::{Link, ServerCondition};
use super::session::{ClientSession, CloseReason};
use crate::client_error;
use crate::server::first_non_notification;
use std::task::{Context, Poll, ready};
use wire::limits;
use wire::scan::{self, Event};
use wire::tag::backend as from_server;

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
            if !self.link.is_linked() && !self.down.has_sendable() {
                // Encrypted records may still be buffered for a TLS client.
                let _ = session.client.poll_flush(cx);
                break;
            }
            // These precede everything received since.
            self.send_local_answers();
            self.scan_downstream(session)?;
            self.send_local_answers();
            self.release_if_done(session)?;
            if session.info.needs_attention() {
                self.attend_before_sending(session)?;
            }
            while self.down.has_sendable() {
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
        // A header, or a message that has to be complete, may not fit after the retained bytes.
        self.down.make_room();
        match ready!(self.down.poll_receive(cx, &mut linked.server.stream)) {
            Ok(n) if n > 0 => {
                self.unanswered_bytes = 0;
                Poll::Ready(Ok(()))
            }
            _ if linked.condition == ServerCondition::SentFatal => Poll::Ready(Err(CloseReason::ServerFatal)),
            Ok(_) => Poll::Ready(Err(CloseReason::Error(client_error::server_lost("the server closed it")))),
            Err(error) => Poll::Ready(Err(CloseReason::Error(client_error::server_lost(error)))),
        }
    }

    fn poll_send_downstream(
        &mut self,
        session: &mut ClientSession,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CloseReason>> {
        match ready!(self.down.poll_send(cx, &mut session.client)) {
            Ok(n) => {
                session.pool.stats.count(|t| t.sent_bytes += n as u64);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(CloseReason::ClientLost(error))),
        }
    }

    // One caller, and 100 instructions of each query.
    #[inline(always)]
    fn scan_downstream(&mut self, session: &mut ClientSession) -> Result<(), CloseReason> {
        while self.down.head_bytes() <= MAX_UNSENT_HEAD_BYTES {
            match self.down.next().map_err(server_violation)? {
                Event::Tail(n) => self.down.continue_message(n),
                Event::Run(n) => {
                    // The run is consumed but not yet forwarded: answers of the pooler precede it.
                    self.send_local_answers_before_run();
                    self.check_run(session, n)?;
                    if self.answers.is_internal() {
                        self.discard_internal_rows(n);
                    } else {
                        self.down.forward_run(n);
                    }
                }
                Event::Incomplete(_) => break,
                Event::Message(frame) => self.on_server_message(session, frame)?,
            }
        }
        Ok(())
    }

    /// Discards the rows of an internal query in a run of `n` bytes that the scanner has passed. Notifications among them are
    /// the client's.
    #[cold]
    #[inline(never)]
    fn discard_internal_rows(&mut self, n: usize) {
        let mut left = n;
        while left > 0 {
            let front = &self.down.front()[..left];
            let header = scan::header(front, limits::MAX_MESSAGE_BYTES).ok().flatten();
            // The last message may continue behind the run.
            let bytes = header.map_or(left, |frame| frame.len.min(left));
            if header.is_some_and(|frame| frame.tag == from_server::NOTIFICATION_RESPONSE) {
                self.down.forward_run(bytes);
            } else {
                self.down.discard_run(bytes);
            }
            left -= bytes;
        }
    }

    /// Rows and COPY data belong to a request. Notifications may come at any time.
    #[inline]
    fn check_run(&mut self, session: &ClientSession, n: usize) -> Result<(), CloseReason> {
        if self.answers.allows_rows() { Ok(()) } else { self.check_run_between_answers(session, n) }
    }

    #[inline(never)]
    fn check_run_between_answers(&mut self, session: &ClientSession, n: usize) -> Result<(), CloseReason> {
        match first_non_notification(&self.down.front()[..n]) {
            None => Ok(()),
            Some(tag) => Err(self.out_of_step(session, &self.answers.unexpected(tag))),
        }
    }

    /// Sends the answers of the pooler that are due. Never in the middle of a message.
    #[inline]
    pub(super) fn send_local_answers(&mut self) {
        if self.down.at_boundary() {
            self.send_local_answers_before_run();
        }
    }

    /// As [`Exchange::send_local_answers`], when the scanner has just passed a run that began at a message boundary.
    #[inline]
    fn send_local_answers_before_run(&mut self) {
        if self.answers.is_local_due() {
            self.encode_local_answers();
        }
    }

    #[inline(never)]
    fn encode_local_answers(&mut self) {
        // The changes that depend on them were recorded in advance.
        while let Some(answer) = self.answers.due_local(|_| ()) {
            answer.encode(self.down.insert());
        }
    }
}

pub(super) fn server_violation(error: impl std::fmt::Display) -> CloseReason {
    CloseReason::Error(client_error::server_lost(format!("it broke the protocol: {error}")))
}
