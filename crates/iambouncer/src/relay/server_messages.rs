//! What becomes of each message of the server. Owns what it tells about the server's state and the client's, and what is
//! discarded or replaced; how bytes move is [`super::downstream`]'s.

use super::downstream::nonsense;
use super::exchange::Exchange;
use super::internal_names;
use super::link::Link;
use super::retry::Stale;
use super::session::{ClientSession, CloseReason};
use crate::answers::{Answer, FailedEntry, Mismatch, Ready, Undo};
use crate::client_error;
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
    pub(super) fn on_server_message(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
    ) -> Result<(), CloseReason> {
        self.make_up_answers();
        let own = self.answers.is_internal();
        let discard = match frame.tag {
            from_server::READY_FOR_QUERY => self.on_ready(session, frame)?,
            from_server::ERROR_RESPONSE => self.on_error(session, frame, own)?,
            from_server::NOTICE_RESPONSE => own || self.replace_names(session, frame),
            from_server::PARAMETER_STATUS => self.on_parameter(session, frame, own),
            from_server::COMMAND_COMPLETE if !own => {
                self.on_command_complete(session, frame);
                self.on_answer(session, frame.tag)?
            }
            tag => self.on_answer(session, tag)?,
        };
        let n = self.down_scanner.consume(frame, self.down.len() - self.down_ready);
        self.down_discard_tail = discard;
        self.take(n, discard);
        Ok(())
    }

    /// True when the answer is discarded.
    #[inline]
    fn on_answer(&mut self, session: &ClientSession, tag: u8) -> Result<bool, CloseReason> {
        match self.answers.answer(tag) {
            Ok(answer) => {
                if answer == Answer::Forward {
                    self.retry.forget();
                }
                Ok(answer == Answer::Skip)
            }
            Err(mismatch) => Err(self.out_of_step(session, &mismatch)),
        }
    }

    /// The server has sent what no request waits for. What it sends from now on could be the answer to anything, so it
    /// is never used again.
    #[cold]
    pub(super) fn out_of_step(&mut self, session: &ClientSession, mismatch: &Mismatch) -> CloseReason {
        self.is_out_of_step = true;
        if let Link::Server(linked) = &self.link {
            let client = Some((session.info.id, linked.status));
            out_of_step::report(&linked.server.info, mismatch, client);
        }
        CloseReason::Error(client_error::server_out_of_step())
    }

    fn message(&self, frame: Frame) -> &[u8] {
        let bytes = &self.down.bytes()[self.down_ready..];
        &bytes[..frame.len.min(bytes.len())]
    }

    fn on_ready(&mut self, session: &mut ClientSession, frame: Frame) -> Result<bool, CloseReason> {
        let status = backend::ready_for_query(self.message(frame)).map_err(nonsense)?;
        let ready = self.answers.ready().map_err(|mismatch| self.out_of_step(session, &mismatch))?;
        let Link::Server(linked) = &mut self.link else { return Ok(ready != Ready::Client) };
        linked.status = status;
        match ready {
            Ready::Client => {}
            Ready::InternalSync => return Ok(true),
            Ready::InternalQuery => {
                self.internal_query_completed(session)?;
                return Ok(true);
            }
        }
        session.parameters_proven = true;
        self.awaited_flush_sent = false;
        if status == TxStatus::Idle && std::mem::take(&mut self.changed_schema) {
            session.pool.schema_changed();
        }
        self.count_ready(session, status);
        Ok(false)
    }

    /// The last of our SETs is answered: the server has the client's values, in its own spelling where it reports them.
    fn internal_query_completed(&mut self, session: &mut ClientSession) -> Result<(), CloseReason> {
        if self.answers.is_internal() {
            return Ok(());
        }
        if let Some(message) = self.internal_query_error.take() {
            return Err(CloseReason::Error(refused_parameter(&message)));
        }
        let Link::Server(linked) = &mut self.link else { return Ok(()) };
        session.parameters =
            linked.server.accept_parameters(&session.pool.context.parameters, &session.parameters);
        session.parameters_proven = true;
        Ok(())
    }

    fn count_ready(&mut self, session: &ClientSession, status: TxStatus) {
        let now = worker::now();
        let mut timing = session.info.timing.get();
        let us = |since: Option<std::time::Instant>| since.map_or(0, |at| (now - at).as_micros() as u64);
        let query_us = us(timing.query_at);
        let ended = status == TxStatus::Idle;
        let transaction_us = if ended { us(timing.transaction_at) } else { 0 };
        session.pool.stats.count(|t| {
            t.queries += 1;
            t.query_us += query_us;
            t.transactions += u64::from(ended);
            t.transaction_us += transaction_us;
        });
        session.pool.stats.queries.observe(query_us);
        if ended {
            session.pool.stats.transactions.observe(transaction_us);
        }
        let quiet = self.answers.is_empty();
        timing.query_at = (!quiet).then_some(now);
        timing.transaction_at = match (ended, quiet) {
            (true, true) => None,
            (true, false) => Some(now),
            (false, _) => timing.transaction_at.or(Some(now)),
        };
        timing.quiet_since = now;
        session.info.timing.set(timing);
    }

    /// True when the error is discarded, or replaced.
    fn on_error(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        own: bool,
    ) -> Result<bool, CloseReason> {
        let severity = backend::severity(self.message(frame)).unwrap_or_default();
        let fatal = matches!(severity, b"FATAL" | b"PANIC");
        if own && !fatal {
            // The first one says what was wrong.
            self.internal_query_error =
                self.internal_query_error.take().or_else(|| Some(self.message(frame).to_vec()));
            return Ok(true);
        }
        if fatal && self.is_free(session) {
            // It ends behind its last answer, as it would have in the pool: no business of this client's.
            if let Link::Server(linked) = &self.link {
                linked.server.info.close_needed.set(true);
            }
            return Ok(true);
        }
        if fatal {
            self.saw_fatal = true;
            return Ok(self.replace_names(session, frame));
        }
        if self.on_stale_statement(frame) {
            return Ok(true);
        }
        let replaced = self.replace_names(session, frame);
        self.retry.forget();
        let Link::Server(linked) = &mut self.link else { return Ok(replaced) };
        let server = &mut linked.server;
        if let Err(mismatch) = self.answers.error(|undo, failed| take_back(session, server, undo, failed)) {
            return Err(self.out_of_step(session, &mismatch));
        }
        session.info.prepared_count.set(session.names.len() as u32);
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
    fn replace_names(&mut self, session: &ClientSession, frame: Frame) -> bool {
        let message = self.message(frame);
        if message.len() < frame.len {
            return false;
        }
        let name_of = |id| {
            let current = || self.answers.front_name();
            let known = session.names.name_of(id).or_else(|| self.answers.name_given_up(id)).or_else(current);
            known.or_else(|| self.dropped_names.name_of(id))
        };
        let Some(replaced) = internal_names::replaced(message, name_of) else { return false };
        self.spill_downstream();
        self.down_head.buffer().extend_from_slice(&replaced);
        true
    }

    fn on_parameter(&mut self, session: &mut ClientSession, frame: Frame, own: bool) -> bool {
        let message = &self.down.bytes()[self.down_ready..];
        let message = &message[..frame.len.min(message.len())];
        let Link::Server(linked) = &mut self.link else { return own };
        if let Some(id) = linked.server.note_parameter(&session.pool.context.parameters, message)
            && !own
            && let Some(value) = linked.server.parameters.get(id)
        {
            session.parameters = session.pool.context.parameters.with(&session.parameters, id, value);
            if let Ok(("application_name", value)) = backend::parameter_status(message) {
                let identity =
                    session.pool.context.client_identities.renamed(&session.info.identity(), value);
                session.info.set_identity(identity);
            }
        }
        own
    }

    /// SQL that drops prepared statements, or changes what they refer to.
    fn on_command_complete(&mut self, session: &mut ClientSession, frame: Frame) {
        let Ok(tag) = backend::command_tag(self.message(frame)) else { return };
        match tag {
            b"DISCARD ALL" | b"DEALLOCATE ALL" => {
                let discards_all = tag == b"DISCARD ALL";
                self.on_deallocated(session, discards_all);
            }
            [b'A' | b'C' | b'D', ..] if changes_schema(tag) => self.changed_schema = true,
            _ => {}
        }
    }

    /// Statements of messages behind the command are there when these are done.
    fn on_deallocated(&mut self, session: &mut ClientSession, discards_all: bool) {
        let given: HashSet<_> = self.answers.names_given().collect();
        // Errors may still name those that are gone.
        self.dropped_names = session.names.take_except(|name| given.contains(name));
        session.info.prepared_count.set(session.names.len() as u32);
        let Link::Server(linked) = &mut self.link else { return };
        let prepared: HashSet<_> = self.answers.statements_prepared().collect();
        linked.server.prepared.clear_except(|id| prepared.contains(&id));
        if discards_all {
            linked.server.forget_unreported(&session.pool.context.parameters);
        }
    }
}

/// Takes back what was recorded for an answer that did not come.
fn take_back(session: &mut ClientSession, server: &mut Server, undo: Undo, failed: FailedEntry) {
    match undo {
        Undo::None | Undo::Duplicate(_) => {}
        Undo::Name(renamed) => {
            match renamed.before {
                Some(statement) => session.names.insert(&renamed.name, statement),
                None => {
                    session.names.remove(&renamed.name);
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
            Exchange::undo_unnamed(session, before, failed);
        }
        Undo::ServerUnnamed => server.unnamed = ServerUnnamed::Unknown,
    }
}

/// True for the command tags of statements after which prepared ones may mean something else.
fn changes_schema(tag: &[u8]) -> bool {
    [&b"ALTER "[..], b"CREATE ", b"DROP "].iter().any(|command| tag.starts_with(command))
}

fn refused_parameter(message: &[u8]) -> crate::client_error::ClientError {
    let fields = backend::error_fields(message).unwrap_or_default();
    client_error::parameter_refused(&fields.message, fields.code.into_owned())
}
