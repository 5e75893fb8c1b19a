//! What becomes of each message of the server. Owns what it tells about the server's state and the client's, and what is
//! discarded or replaced; how bytes move is [`super::downstream`]'s.

use super::downstream::nonsense;
use super::exchange::Exchange;
use super::internal_names;
use super::link::Link;
use super::retry::Stale;
use super::session::{Ending, Guest};
use crate::answers::{Answer, Failed, Mismatch, Ready, Undo};
use crate::faults;
use crate::prepared::ServerUnnamed;
use crate::prepared::server_cache::UNKNOWN_VERSION;
use crate::server::{Server, out_of_step};
use crate::worker;
use std::collections::HashSet;
use wire::backend::{self, TxStatus};
use wire::scan::Frame;
use wire::tag::{self, backend as from_server};
use wire::{encode, rewrite};

impl Exchange {
    pub(super) fn on_server_message(&mut self, guest: &mut Guest, frame: Frame) -> Result<(), Ending> {
        self.make_up_answers();
        let own = self.answers.is_own();
        let discard = match frame.tag {
            from_server::READY_FOR_QUERY => self.on_ready(guest, frame)?,
            from_server::ERROR_RESPONSE => self.on_error(guest, frame, own)?,
            from_server::NOTICE_RESPONSE => own || self.replace_names(guest, frame),
            from_server::PARAMETER_STATUS => self.on_parameter(guest, frame, own),
            from_server::COMMAND_COMPLETE if !own => {
                self.on_command_complete(guest, frame);
                self.on_answer(guest, frame.tag)?
            }
            tag => self.on_answer(guest, tag)?,
        };
        let n = self.down_scanner.consume(frame, self.down.len() - self.down_ready);
        self.down_discard_tail = discard;
        self.take(n, discard);
        Ok(())
    }

    /// True when the answer is discarded.
    #[inline]
    fn on_answer(&mut self, guest: &Guest, tag: u8) -> Result<bool, Ending> {
        match self.answers.answer(tag) {
            Ok(answer) => {
                if answer == Answer::Forward {
                    self.retry.forget();
                }
                Ok(answer == Answer::Skip)
            }
            Err(mismatch) => Err(self.out_of_step(guest, &mismatch)),
        }
    }

    /// The server has sent what no request waits for. What it sends from now on could be the answer to anything, so it
    /// is never used again.
    #[cold]
    pub(super) fn out_of_step(&mut self, guest: &Guest, mismatch: &Mismatch) -> Ending {
        self.is_out_of_step = true;
        if let Link::Server(linked) = &self.link {
            let client = Some((guest.info.id, linked.status));
            out_of_step::report(&linked.server.info, mismatch, client);
        }
        Ending::Fault(faults::server_out_of_step())
    }

    fn message(&self, frame: Frame) -> &[u8] {
        let bytes = &self.down.bytes()[self.down_ready..];
        &bytes[..frame.len.min(bytes.len())]
    }

    fn on_ready(&mut self, guest: &mut Guest, frame: Frame) -> Result<bool, Ending> {
        let status = backend::ready_for_query(self.message(frame)).map_err(nonsense)?;
        let ready = self.answers.ready().map_err(|mismatch| self.out_of_step(guest, &mismatch))?;
        let Link::Server(linked) = &mut self.link else { return Ok(ready != Ready::Client) };
        linked.status = status;
        match ready {
            Ready::Client => {}
            Ready::OwnSync => return Ok(true),
            Ready::OwnQuery => {
                self.own_query_ended(guest)?;
                return Ok(true);
            }
        }
        guest.parameters_proven = true;
        self.awaited_flush_sent = false;
        if status == TxStatus::Idle && std::mem::take(&mut self.changed_schema) {
            guest.pool.schema_changed();
        }
        self.count_ready(guest, status);
        Ok(false)
    }

    /// The last of our SETs is answered: the server has the client's values, in its own spelling where it reports them.
    fn own_query_ended(&mut self, guest: &mut Guest) -> Result<(), Ending> {
        if self.answers.is_own() {
            return Ok(());
        }
        if let Some(message) = self.own_query_error.take() {
            return Err(Ending::Fault(refused_parameter(&message)));
        }
        let Link::Server(linked) = &mut self.link else { return Ok(()) };
        guest.parameters = linked.server.accept_parameters(&guest.pool.context.parameters, &guest.parameters);
        guest.parameters_proven = true;
        Ok(())
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

    /// True when the error is discarded, or replaced.
    fn on_error(&mut self, guest: &mut Guest, frame: Frame, own: bool) -> Result<bool, Ending> {
        let severity = backend::severity(self.message(frame)).unwrap_or_default();
        let fatal = matches!(severity, b"FATAL" | b"PANIC");
        if own && !fatal {
            // The first one says what was wrong.
            self.own_query_error = self.own_query_error.take().or_else(|| Some(self.message(frame).to_vec()));
            return Ok(true);
        }
        if fatal && self.is_free(guest) {
            // It ends behind its last answer, as it would have in the pool: no business of this client's.
            if let Link::Server(linked) = &self.link {
                linked.server.info.close_needed.set(true);
            }
            return Ok(true);
        }
        if fatal {
            self.saw_fatal = true;
            return Ok(self.replace_names(guest, frame));
        }
        if self.on_stale_statement(frame) {
            return Ok(true);
        }
        let replaced = self.replace_names(guest, frame);
        self.retry.forget();
        let Link::Server(linked) = &mut self.link else { return Ok(replaced) };
        let server = &mut linked.server;
        if let Err(mismatch) = self.answers.error(|undo, failed| take_back(guest, server, undo, failed)) {
            return Err(self.out_of_step(guest, &mismatch));
        }
        guest.info.prepared_count.set(guest.names.len() as u32);
        Ok(replaced)
    }

    /// The server refuses a statement that it was believed to have: it is not believed any more. True when the batch is
    /// sent again, so that the client does not notice.
    fn on_stale_statement(&mut self, frame: Frame) -> bool {
        let Some(id) = self.answers.front_statement() else { return false };
        let Some(stale) = Stale::of(self.message(frame)) else { return false };
        let can_send = self.up_ready == 0 && self.up_head.is_empty() && self.up_scanner.at_boundary();
        let Link::Server(linked) = &mut self.link else { return false };
        let prepared = &mut linked.server.prepared;
        let statement = prepared.get(id);
        match stale {
            // Where one was dropped unseen, all may have been.
            Stale::Missing => prepared.doubt_all(),
            Stale::Outdated => prepared.doubt(id),
        }
        let Some(statement) = statement.filter(|statement| can_send && !statement.is_private()) else {
            return false;
        };
        let Some((batch, lacks_sync)) = self.retry.take() else { return false };
        let out = self.up_head.buffer();
        if lacks_sync {
            encode::empty(out, tag::frontend::SYNC);
        }
        rewrite::close_statement(out, &statement.name);
        rewrite::parse(out, &statement.name, &statement.body);
        out.extend_from_slice(batch);
        prepared.insert(statement, UNKNOWN_VERSION);
        self.answers.retry(id);
        true
    }

    /// Puts the client's names of statements into a message of the server, in place of the pooler's. True when the
    /// message is replaced.
    fn replace_names(&mut self, guest: &Guest, frame: Frame) -> bool {
        let message = self.message(frame);
        if message.len() < frame.len {
            return false;
        }
        let name_of = |id| {
            let current = || self.answers.front_name();
            let known = guest.names.name_of(id).or_else(|| self.answers.name_given_up(id)).or_else(current);
            known.or_else(|| self.dropped_names.name_of(id))
        };
        let Some(replaced) = internal_names::replaced(message, name_of) else { return false };
        self.spill_downstream();
        self.down_head.buffer().extend_from_slice(&replaced);
        true
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

    /// SQL that drops prepared statements, or changes what they refer to.
    fn on_command_complete(&mut self, guest: &mut Guest, frame: Frame) {
        let Ok(tag) = backend::command_tag(self.message(frame)) else { return };
        match tag {
            b"DISCARD ALL" | b"DEALLOCATE ALL" => {
                let discards_all = tag == b"DISCARD ALL";
                self.on_deallocated(guest, discards_all);
            }
            [b'A' | b'C' | b'D', ..] if changes_schema(tag) => self.changed_schema = true,
            _ => {}
        }
    }

    /// Statements of messages behind the command are there when these are done.
    fn on_deallocated(&mut self, guest: &mut Guest, discards_all: bool) {
        let given: HashSet<_> = self.answers.names_given().collect();
        // Errors may still name those that are gone.
        self.dropped_names = guest.names.take_except(|name| given.contains(name));
        guest.info.prepared_count.set(guest.names.len() as u32);
        let Link::Server(linked) = &mut self.link else { return };
        let prepared: HashSet<_> = self.answers.statements_prepared().collect();
        linked.server.prepared.clear_except(|id| prepared.contains(&id));
        if discards_all {
            linked.server.forget_unreported(&guest.pool.context.parameters);
        }
    }
}

/// Takes back what was recorded for an answer that did not come.
fn take_back(guest: &mut Guest, server: &mut Server, undo: Undo, failed: Failed) {
    match undo {
        Undo::None | Undo::Duplicate(_) => {}
        Undo::Name(renamed) => {
            match renamed.before {
                Some(statement) => guest.names.insert(&renamed.name, statement),
                None => {
                    guest.names.remove(&renamed.name);
                }
            }
            if renamed.prepared > 0 {
                server.prepared.doubt(renamed.prepared);
            }
        }
        // It may have been there before, and be there still.
        Undo::Prepared(id) => server.prepared.doubt(id),
        Undo::Closed(statement) => server.prepared.insert(statement, UNKNOWN_VERSION),
        Undo::Unnamed(before) => {
            if !matches!(server.unnamed, ServerUnnamed::Own) {
                server.unnamed = ServerUnnamed::Unknown;
            }
            Exchange::undo_unnamed(guest, before, failed);
        }
        Undo::ServerUnnamed => server.unnamed = ServerUnnamed::Unknown,
    }
}

/// True for the command tags of statements after which prepared ones may mean something else.
fn changes_schema(tag: &[u8]) -> bool {
    [&b"ALTER "[..], b"CREATE ", b"DROP "].iter().any(|command| tag.starts_with(command))
}

fn refused_parameter(message: &[u8]) -> crate::faults::Fault {
    let fields = backend::error_fields(message).unwrap_or_default();
    faults::parameter_refused(&fields.message, fields.code.into_owned())
}
