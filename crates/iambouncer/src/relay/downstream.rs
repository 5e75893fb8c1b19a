//! From the server to the client. Owns what of the server's messages goes on, what answers are made up or swallowed,
//! and what they tell about the server's state. The server is released before the last bytes are sent.

use super::exchange::Exchange;
use super::link::Link;
use super::session::{Ending, Guest};
use crate::faults;
use crate::prepared::Answer;
use crate::worker;
use std::task::{Context, Poll, ready};
use wire::backend::{self, TxStatus};
use wire::encode;
use wire::scan::{Event, Frame};
use wire::tag::backend as from_server;

/// Bytes waiting for a slow client above which nothing more is read from the server.
pub(super) const MAX_UNSENT_HEAD_BYTES: usize = 1024 * 1024;

impl Exchange {
    /// One round: look at what came, release the server if it is done, send, receive.
    pub(super) fn poll_downstream(
        &mut self,
        guest: &mut Guest,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ending>> {
        let mut progress = false;
        let mut received = false;
        loop {
            if !self.link.is_linked() && self.down_ready == 0 && self.down_head.is_empty() {
                // A TLS client may still have records on the way.
                let _ = guest.client.poll_flush(cx);
                break;
            }
            // Due before anything that has come since.
            self.make_up_answers();
            self.scan_downstream(guest)?;
            self.make_up_answers();
            self.release_if_done(guest)?;
            while self.down_ready > 0 || !self.down_head.is_empty() {
                match self.poll_send_downstream(guest, cx) {
                    Poll::Ready(sent) => sent?,
                    Poll::Pending => return if progress { Poll::Ready(Ok(())) } else { Poll::Pending },
                }
                progress = true;
            }
            match guest.client.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ending::ClientLost(error))),
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

    fn poll_receive_from_server(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let Link::Server(linked) = &mut self.link else { return Poll::Pending };
        if self.down.is_full() {
            // A message that is read whole, or a header, does not fit behind what is kept.
            self.down.make_room(self.down.len() + 1);
        }
        let outcome = linked.server.stream.poll_recv(cx, &mut self.down);
        match ready!(outcome) {
            Ok(n) if n > 0 => Poll::Ready(Ok(())),
            _ if self.saw_fatal => Poll::Ready(Err(Ending::ServerFatal)),
            Ok(_) => Poll::Ready(Err(Ending::Fault(faults::server_lost("the server closed it")))),
            Err(error) => Poll::Ready(Err(Ending::Fault(faults::server_lost(error)))),
        }
    }

    fn poll_send_downstream(&mut self, guest: &mut Guest, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let sent =
            guest.client.poll_send_front(cx, self.down_head.pending(), &mut self.down, self.down_ready);
        match ready!(sent) {
            Ok(n) => {
                let from_head = n.min(self.down_head.len());
                self.down_head.advance(from_head);
                self.down_ready -= n - from_head;
                guest.pool.stats.count(|t| t.sent_bytes += n as u64);
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(Ending::ClientLost(error))),
        }
    }

    fn scan_downstream(&mut self, guest: &mut Guest) -> Result<(), Ending> {
        while self.down_head.len() <= MAX_UNSENT_HEAD_BYTES {
            let bytes = &self.down.bytes()[self.down_ready..];
            match self.down_scanner.next(bytes).map_err(nonsense)? {
                Event::Tail(n) => self.take(n, self.down_discard_tail),
                Event::Run(n) => {
                    // The run is consumed but not taken: what is made up stands before it.
                    self.make_up_before_run();
                    self.down_discard_tail = self.answers.is_own();
                    self.take(n, self.down_discard_tail);
                }
                Event::Incomplete(_) => break,
                Event::Message(frame) => self.on_server_message(guest, frame)?,
            }
        }
        Ok(())
    }

    /// Takes `n` bytes behind what is ready: to be sent on, or thrown away.
    fn take(&mut self, n: usize, discard: bool) {
        if discard {
            self.spill_downstream();
            self.down.consume(n);
        } else {
            self.down_ready += n;
        }
    }

    /// Moves what is ready aside, so that something of ours can follow it.
    fn spill_downstream(&mut self) {
        if self.down_ready > 0 {
            self.down_head.buffer().extend_from_slice(&self.down.bytes()[..self.down_ready]);
            self.down.consume(self.down_ready);
            self.down_ready = 0;
        }
    }

    /// Sends the answers that are due of those nobody asked the server for. Never inside a message.
    #[inline]
    fn make_up_answers(&mut self) {
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

    fn on_server_message(&mut self, guest: &mut Guest, frame: Frame) -> Result<(), Ending> {
        self.make_up_answers();
        let own = self.answers.is_own();
        let discard = match frame.tag {
            from_server::READY_FOR_QUERY => self.on_ready(guest, frame)?,
            from_server::ERROR_RESPONSE => self.on_error(guest, frame, own),
            from_server::PARAMETER_STATUS => self.on_parameter(guest, frame, own),
            from_server::COMMAND_COMPLETE if !own => {
                self.on_command_complete(guest, frame);
                self.answers.answer(frame.tag) == Answer::Skip
            }
            tag => self.answers.answer(tag) == Answer::Skip,
        };
        let n = self.down_scanner.consume(frame, self.down.len() - self.down_ready);
        self.down_discard_tail = discard;
        self.take(n, discard);
        Ok(())
    }

    fn message(&self, frame: Frame) -> &[u8] {
        let bytes = &self.down.bytes()[self.down_ready..];
        &bytes[..frame.len.min(bytes.len())]
    }

    fn on_ready(&mut self, guest: &mut Guest, frame: Frame) -> Result<bool, Ending> {
        let status = backend::ready_for_query(self.message(frame)).map_err(nonsense)?;
        let own = self.answers.ready();
        let Link::Server(linked) = &mut self.link else { return Ok(own) };
        linked.status = status;
        if own {
            // What the server made of our SET is how the client's values are spelled from now on.
            guest.parameters = linked.server.parameters.clone();
            guest.parameters_proven = true;
            if let Some(message) = self.own_query_error.take() {
                return Err(Ending::Fault(refused_parameter(&message)));
            }
            return Ok(true);
        }
        guest.parameters_proven = true;
        self.count_ready(guest, status);
        Ok(false)
    }

    fn count_ready(&mut self, guest: &Guest, status: TxStatus) {
        let now = worker::now();
        let mut timing = guest.info.timing.get();
        let us = |since: Option<std::time::Instant>| since.map_or(0, |at| (now - at).as_micros() as u64);
        let query_us = us(timing.query_at);
        let ended = status == TxStatus::Idle;
        let transaction_us = if ended { us(timing.transaction_at) } else { 0 };
        guest.pool.stats.count(|t| {
            t.queries += 1;
            t.query_us += query_us;
            t.transactions += u64::from(ended);
            t.transaction_us += transaction_us;
        });
        guest.pool.stats.queries.observe(query_us);
        if ended {
            guest.pool.stats.transactions.observe(transaction_us);
        }
        let quiet = self.answers.is_empty();
        timing.query_at = (!quiet).then_some(now);
        timing.transaction_at = match (ended, quiet) {
            (true, true) => None,
            (true, false) => Some(now),
            (false, _) => timing.transaction_at.or(Some(now)),
        };
        timing.quiet_since = now;
        guest.info.timing.set(timing);
    }

    fn on_error(&mut self, guest: &mut Guest, frame: Frame, own: bool) -> bool {
        let message = self.message(frame);
        let fatal =
            backend::error_fields(message).is_ok_and(|fields| matches!(&*fields.severity, "FATAL" | "PANIC"));
        if own && !fatal {
            self.own_query_error = Some(message.to_vec());
            return true;
        }
        if fatal && self.is_free(guest) {
            // It ends behind its last answer, as it would have in the pool: no business of this client's.
            if let Link::Server(linked) = &self.link {
                linked.server.info.close_needed.set(true);
            }
            return true;
        }
        self.saw_fatal |= fatal;
        let Link::Server(linked) = &mut self.link else { return false };
        let names = &mut guest.names;
        self.answers.error(|undo| Self::undo(names, &mut linked.server, undo));
        guest.info.prepared_count.set(guest.names.len() as u32);
        false
    }

    fn on_parameter(&mut self, guest: &mut Guest, frame: Frame, own: bool) -> bool {
        let message = &self.down.bytes()[self.down_ready..];
        let message = &message[..frame.len.min(message.len())];
        let Link::Server(linked) = &mut self.link else { return own };
        if let Some(position) = linked.server.note_parameter(&guest.pool.context.parameters, message)
            && !own
            && let Some(Some(value)) = linked.server.parameters.values().get(position)
        {
            guest.parameters = guest.pool.context.parameters.with(&guest.parameters, position, value);
            if let Ok(("application_name", value)) = backend::parameter_status(message) {
                let introduction =
                    guest.pool.context.introductions.renamed(&guest.info.introduction(), value);
                guest.info.introduce(introduction);
            }
        }
        own
    }

    /// SQL that forgets prepared statements behind our back.
    fn on_command_complete(&mut self, guest: &mut Guest, frame: Frame) {
        let Ok(tag) = backend::command_tag(self.message(frame)) else { return };
        if matches!(tag, b"DISCARD ALL" | b"DEALLOCATE ALL") {
            guest.names.clear();
            guest.info.prepared_count.set(0);
            if let Link::Server(linked) = &mut self.link {
                linked.server.prepared.clear();
                // Statements sent after this command are forgotten here but not there.
                if self.answers.has_undos() {
                    linked.server.info.close_needed.set(true);
                }
            }
        }
    }
}

fn refused_parameter(message: &[u8]) -> crate::faults::Fault {
    let fields = backend::error_fields(message).unwrap_or_default();
    faults::parameter_refused(&fields.message, fields.code.into_owned())
}

fn nonsense(error: impl std::fmt::Display) -> Ending {
    Ending::Fault(faults::server_lost(format!("it broke the protocol: {error}")))
}
