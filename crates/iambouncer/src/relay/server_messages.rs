//! Handling of server messages. Owns what they reveal about the state of server and client, and which are discarded or
//! replaced; moving the bytes belongs to [`super::downstream`].

use super::downstream::server_violation;
use super::exchange::Exchange;
use super::internal_names;
use super::link::{Link, SchemaChange, ServerCondition};
use super::retry::Stale;
use super::session::{ClientSession, CloseReason};
use crate::answers::{Answer, Mismatch, Ready, Rollback, StateChange};
use crate::client_error;
use crate::config::PoolMode;
use crate::parameters::TransactionValues;
use crate::prepared::ServerUnnamed;
use crate::prepared::server_cache::UNKNOWN_VERSION;
use crate::server::{Server, out_of_step};
use crate::worker;
use std::collections::HashSet;
use wire::backend::{self, TxStatus};
use wire::scan::Frame;
use wire::tag::{self, backend as from_server};
use wire::{encode, rewrite};

/// SQLSTATE of a statement that writes, in a transaction that is read-only.
const READ_ONLY_TRANSACTION: [u8; 5] = *b"25006";

impl Exchange {
    #[inline(always)]
    pub(super) fn on_server_message(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
    ) -> Result<(), CloseReason> {
        self.send_local_answers();
        let is_internal = self.answers.is_internal();
        let discard = match frame.tag {
            from_server::READY_FOR_QUERY => self.on_ready(session, frame)?,
            from_server::ERROR_RESPONSE => self.on_error(session, frame, is_internal)?,
            from_server::NOTICE_RESPONSE => is_internal || self.replace_names(session, frame),
            from_server::PARAMETER_STATUS => self.on_parameter(session, frame, is_internal),
            from_server::DATA_ROW if is_internal => {
                self.on_state_row(frame);
                true
            }
            from_server::NOTIFICATION_RESPONSE => self.discards_notification(frame),
            from_server::COMMAND_COMPLETE if !is_internal => {
                self.on_command_complete(session, frame);
                self.on_answer(session, frame.tag)?
            }
            from_server::PARAMETER_DESCRIPTION | from_server::ROW_DESCRIPTION | from_server::NO_DATA
                if self.answers.is_described() =>
            {
                self.on_description(session, frame)?
            }
            tag => self.on_answer(session, tag)?,
        };
        if discard {
            self.down.discard(frame);
        } else {
            self.down.forward(frame);
        }
        Ok(())
    }

    /// True when the answer is discarded.
    #[inline]
    pub(super) fn on_answer(&mut self, session: &ClientSession, tag: u8) -> Result<bool, CloseReason> {
        // The changes that depend on it were recorded in advance.
        match self.answers.answer(tag, |_| ()) {
            Ok(answer) => {
                if answer == Answer::Forward {
                    self.retry.clear();
                }
                Ok(answer == Answer::Skip)
            }
            Err(mismatch) => Err(self.out_of_step(session, &mismatch)),
        }
    }

    /// The server has sent a message that no request explains. Anything it sends from now on could be the answer to any
    /// request, so it is never used again.
    #[cold]
    pub(super) fn out_of_step(&mut self, session: &ClientSession, mismatch: &Mismatch) -> CloseReason {
        if let Link::Server(linked) = &mut self.link {
            linked.condition = ServerCondition::OutOfStep;
            let client = Some((session.info.id, linked.status));
            out_of_step::report(&linked.server.info, mismatch, client);
        }
        CloseReason::Error(client_error::server_out_of_step())
    }

    fn message(&self, frame: Frame) -> &[u8] {
        self.down.message(frame)
    }

    fn on_ready(&mut self, session: &mut ClientSession, frame: Frame) -> Result<bool, CloseReason> {
        let status = backend::ready_for_query(self.message(frame)).map_err(server_violation)?;
        let mut committed = StateChange::None;
        let ready = self.answers.ready(|change| committed = change);
        let ready = ready.map_err(|mismatch| self.out_of_step(session, &mismatch))?;
        let Link::Server(linked) = &mut self.link else { return Ok(ready != Ready::Client) };
        if linked.status != status {
            linked.change_status(status, self.answers.has_command_ended());
        }
        match ready {
            Ready::Client => {}
            Ready::InternalSync => return Ok(true),
            Ready::InternalQuery => {
                self.internal_query_completed(session, &committed)?;
                return Ok(true);
            }
        }
        session.parameters_proven = true;
        if status == TxStatus::Idle {
            if linked.changed_parameters.commit(&mut session.parameters) {
                session.record_settings();
            }
            let changed = std::mem::replace(&mut linked.changed_schema, SchemaChange::None);
            if changed != SchemaChange::None {
                session.pool.schema_changed();
            }
            if changed == SchemaChange::Catalog && self.rules.reads_statements {
                session.pool.database.functions.note_change();
            }
        } else {
            self.answers.await_command();
        }
        let is_announced = linked.unread.is_some();
        self.flush_has_passed();
        self.count_ready(session, status);
        Ok(is_announced && self.answers.is_settled() && self.restore_after_reset(session))
    }

    /// After the pooler's last SET the server has the client's values, in its own spelling if it reports them.
    fn internal_query_completed(
        &mut self,
        session: &mut ClientSession,
        committed: &StateChange,
    ) -> Result<(), CloseReason> {
        if let (StateChange::Parameters, Link::Server(linked)) = (committed, &mut self.link)
            && self.internal_query_error.is_none()
        {
            let parameters = &session.pool.context.parameters;
            session.parameters = linked.server.accept_parameters(parameters, &session.parameters);
            session.parameters_proven = true;
            linked.awaits_values = false;
            self.has_reset_server = false;
        }
        if self.answers.is_internal() || self.state_query_completed(session)? {
            return Ok(());
        }
        match self.internal_query_error.take() {
            Some(_) if self.reset_refusing_server(session) => Ok(()),
            Some(message) => Err(CloseReason::Error(refused_parameter(&message))),
            None => Ok(()),
        }
    }

    fn count_ready(&mut self, session: &ClientSession, status: TxStatus) {
        let now = worker::now();
        let mut timing = session.info.timing.get();
        let us = |since: Option<std::time::Instant>| since.map_or(0, |at| (now - at).as_micros() as u64);
        let query_us = us(timing.query_at);
        let is_idle = status == TxStatus::Idle;
        let transaction_us = match is_idle {
            // Most transactions are one query.
            true if timing.transaction_at == timing.query_at => query_us,
            true => us(timing.transaction_at),
            false => 0,
        };
        session.pool.stats.count(|t| {
            t.queries += 1;
            t.query_us += query_us;
            t.transactions += u64::from(is_idle);
            t.transaction_us += transaction_us;
        });
        session.pool.stats.queries.observe(query_us);
        if is_idle {
            session.pool.stats.transactions.observe(transaction_us);
            if session.keeps_state() {
                session.pool.stats.count(|t| t.kept_transactions += 1);
            }
        }
        let owes_nothing = !self.answers.owes_server_answer();
        timing.query_at = (!owes_nothing).then_some(now);
        timing.transaction_at = match (is_idle, owes_nothing) {
            (true, true) => None,
            (true, false) => Some(now),
            (false, _) => timing.transaction_at.or(Some(now)),
        };
        timing.quiet_since = now;
        session.info.timing.set(timing);
        #[cfg(feature = "otlp")]
        if is_idle {
            self.end_trace(session);
            if !owes_nothing {
                self.count_next_for_trace(session, now);
            }
        }
    }

    /// True when the error is discarded or replaced.
    fn on_error(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        is_internal: bool,
    ) -> Result<bool, CloseReason> {
        let severity = backend::severity(self.message(frame)).unwrap_or_default();
        let fatal = matches!(severity, b"FATAL" | b"PANIC");
        if is_internal && !fatal {
            // The first error is the cause.
            self.internal_query_error =
                self.internal_query_error.take().or_else(|| Some(self.message(frame).to_vec()));
            // Nothing was recorded in advance.
            let failed = self.answers.error(|_, _| ());
            return failed.map(|()| true).map_err(|mismatch| self.out_of_step(session, &mismatch));
        }
        if fatal && self.is_about_to_be_released(session) {
            // The server closed after its last answer, as it might have in the pool; this does not concern the client.
            if let Link::Server(linked) = &self.link {
                linked.server.info.close_needed.set(true);
            }
            return Ok(true);
        }
        if fatal {
            #[cfg(feature = "otlp")]
            self.record_trace_error(frame);
            if let Link::Server(linked) = &mut self.link {
                linked.condition = ServerCondition::SentFatal;
            }
            return Ok(self.replace_names(session, frame));
        }
        if self.on_stale_statement(session, frame) {
            return Ok(true);
        }
        self.doubt_role_after(session, frame);
        #[cfg(feature = "otlp")]
        self.record_trace_error(frame);
        let replaced = self.replace_names(session, frame);
        self.retry.clear();
        self.forget_descriptions();
        let Link::Server(linked) = &mut self.link else { return Ok(replaced) };
        if let Some(unread) = &mut linked.unread {
            unread.request_failed();
        }
        if linked.condition == ServerCondition::TransactionLeftOpen {
            // The error has ended the transaction.
            linked.condition = ServerCondition::InStep;
        }
        let server = &mut linked.server;
        let mut refusal = None;
        let failed = self.answers.error(|change, why| match change {
            StateChange::Refused(reason) if why.is_front => refusal = Some(reason),
            change => roll_back(session, server, change, why),
        });
        if let Err(mismatch) = failed {
            return Err(self.out_of_step(session, &mismatch));
        }
        session.info.prepared_count.set(session.names.len() as u32);
        Ok(replaced || refusal.is_some_and(|refusal| self.replace_refusal(session, refusal, frame)))
    }

    /// A transaction that is read-only may be so because the server has become a standby.
    fn doubt_role_after(&self, session: &ClientSession, frame: Frame) {
        if let Link::Server(linked) = &self.link
            && linked.server.info.facts.required.is_some()
            && backend::sqlstate(self.message(frame)) == Some(READ_ONLY_TRANSACTION)
        {
            session.pool.doubt_role(&linked.server.info);
        }
    }

    /// The server refuses a statement that it was assumed to have; this is corrected. True when the batch is sent
    /// again, so that the client does not notice.
    fn on_stale_statement(&mut self, session: &ClientSession, frame: Frame) -> bool {
        let Some(id) = self.answers.front_statement() else { return false };
        let Some(stale) = Stale::of(self.message(frame)) else { return false };
        let can_send = self.is_between_messages();
        let Link::Server(linked) = &mut self.link else { return false };
        let prepared = &mut linked.server.prepared;
        let statement = prepared.get(id);
        let is_of_schema = prepared.version(id) == Some(session.pool.schema_version());
        match stale {
            // If one statement was dropped unseen, all may have been.
            Stale::Missing => prepared.mark_all_uncertain(),
            Stale::Outdated => {
                prepared.mark_uncertain(id);
                // Other servers have it as it was, too.
                session.pool.schema_changed();
            }
        }
        if self.answers.is_inspection() {
            return self.inspects_again();
        }
        // The client may expect another result than the statement has now.
        let is_same = stale == Stale::Missing && is_of_schema;
        if !is_same && !self.retry.may_change_result() {
            return false;
        }
        let Link::Server(linked) = &mut self.link else { return false };
        let prepared = &mut linked.server.prepared;
        let Some(statement) = statement.filter(|statement| can_send && !statement.is_private()) else {
            return false;
        };
        let Some((batch, lacks_sync)) = self.retry.take() else { return false };
        let out = self.up.insert();
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

    /// Replaces the pooler's statement names in a server message with the client's. True when the message is replaced.
    fn replace_names(&mut self, session: &ClientSession, frame: Frame) -> bool {
        let message = self.message(frame);
        if message.len() < frame.len {
            return false;
        }
        let name_of = |id| {
            let current = || self.answers.front_name();
            let known = session.names.name_of(id).or_else(|| self.answers.closed_name(id)).or_else(current);
            known.or_else(|| self.dropped_names.name_of(id))
        };
        let Some(replaced) = internal_names::replaced(message, name_of) else { return false };
        self.down.insert().extend_from_slice(&replaced);
        true
    }

    fn on_parameter(&mut self, session: &mut ClientSession, frame: Frame, is_internal: bool) -> bool {
        let message = self.down.front();
        let message = &message[..frame.len.min(message.len())];
        let is_restoring = is_internal && self.is_restoring();
        let is_internal = is_internal && !is_restoring;
        let Link::Server(linked) = &mut self.link else { return is_internal };
        let tracked = linked.server.record_parameter(&session.pool.context.parameters, message);
        if tracked.is_some() && matches!(linked.changed_parameters, TransactionValues::Restored) {
            return true;
        }
        if let Some(id) = tracked
            && !is_internal
            && let Some(value) = linked.server.parameters.get(id)
        {
            // The client's own value follows, and is reported only if the client had another one.
            let is_to_be_restored = linked.unread.as_deref().is_some_and(|unread| unread.resets.contains(id))
                && session.login_parameters.get(id).is_some_and(|own| own != value);
            let is_known = linked.changed_parameters.current(&session.parameters, id) == Some(value);
            if is_to_be_restored || is_restoring && is_known {
                return true;
            }
            if self.rules.follows {
                session.pin_for_parameter(id, value);
            }
            let parameters = &session.pool.context.parameters;
            linked.changed_parameters.record(parameters, &session.parameters, id, value);
            if let Ok(("application_name", value)) = backend::parameter_status(message) {
                let identity =
                    session.pool.context.client_identities.renamed(&session.info.identity(), value);
                session.info.set_identity(identity);
            }
        }
        is_internal
    }

    /// Handles SQL that drops prepared statements or changes what they refer to.
    fn on_command_complete(&mut self, session: &mut ClientSession, frame: Frame) {
        let Ok(tag) = backend::command_tag(self.message(frame)) else { return };
        match tag {
            b"DISCARD ALL" | b"DEALLOCATE ALL" => {
                let discards_all = tag == b"DISCARD ALL";
                self.on_deallocated(session, discards_all);
            }
            b"SET" | b"RESET" | b"LISTEN" | b"PREPARE" | b"LOAD" | b"CALL" => {
                let tag = tag.to_vec();
                self.check_announced(session, &tag);
            }
            [b'A' | b'C' | b'D', ..] => {
                let change = SchemaChange::of_tag(tag);
                if let Link::Server(linked) = &mut self.link {
                    linked.changed_schema = linked.changed_schema.max(change);
                }
            }
            _ => {}
        }
    }

    /// Statements of later messages will exist when those are answered.
    #[inline(never)]
    fn on_deallocated(&mut self, session: &mut ClientSession, discards_all: bool) {
        let reparsed: HashSet<_> = self.answers.names_being_parsed().collect();
        // Errors may still mention the dropped names.
        self.dropped_names = session.names.take_except(|name| reparsed.contains(name));
        session.info.prepared_count.set(session.names.len() as u32);
        let Link::Server(linked) = &mut self.link else { return };
        let prepared: HashSet<_> = self.answers.statements_being_prepared().collect();
        linked.server.prepared.clear_except(|id| prepared.contains(&id));
        if discards_all {
            linked.server.forget_unreported(&session.pool.context.parameters);
            // Otherwise what the server reports may be the values of a later SET.
            if self.rules.reads_statements {
                self.discarded_all(session);
            } else if self.rules.mode != PoolMode::Session && self.answers.is_last_command() {
                self.restore_parameters(session);
            }
        }
    }

    /// DISCARD ALL gives the server the values of its own login, and would give the client those of its startup packet
    /// on a direct connection. So the client has them again, from its next server on.
    fn restore_parameters(&mut self, session: &mut ClientSession) {
        let Link::Server(linked) = &mut self.link else { return };
        let context = &session.pool.context;
        linked.changed_parameters.commit(&mut session.parameters);
        let before = std::mem::replace(&mut session.parameters, session.login_parameters.clone());
        linked.changed_parameters = TransactionValues::Restored;
        let restored = session.parameters.iter().filter(|(id, value)| before.get(*id) != Some(value));
        for (id, value) in restored.filter(|(id, _)| linked.server.reported.contains(*id)) {
            let name = context.parameters.name(id);
            encode::parameter_status(self.down.insert(), name, value);
            if name == "application_name" {
                session.info.set_identity(context.client_identities.renamed(&session.info.identity(), value));
            }
        }
    }
}

/// Undoes what was recorded in advance for an answer that is an error.
fn roll_back(session: &mut ClientSession, server: &mut Server, change: StateChange, why: Rollback) {
    match change {
        StateChange::None | StateChange::Duplicate(_) | StateChange::Parameters | StateChange::Refused(_) => {
        }
        StateChange::Name(renamed) => {
            match renamed.before {
                Some(statement) => session.names.insert(&renamed.name, statement),
                None => {
                    session.names.remove(&renamed.name);
                }
            }
            if renamed.prepared > 0 {
                server.prepared.mark_uncertain(renamed.prepared);
            }
        }
        // It may have been there before and may still be there.
        StateChange::Prepared(id) => server.prepared.mark_uncertain(id),
        StateChange::Closed(statement) => server.prepared.insert(statement, UNKNOWN_VERSION),
        StateChange::Unnamed(before) => {
            server.unnamed.set_unless_own(ServerUnnamed::Unknown);
            if why.is_last_change {
                // A Parse that failed has closed the previous statement; a Parse that was skipped has not.
                session.unnamed = if why.is_front { None } else { before };
            }
        }
        StateChange::ServerUnnamed => server.unnamed.set_unless_own(ServerUnnamed::Unknown),
    }
}

pub(super) fn refused_parameter(message: &[u8]) -> crate::client_error::ClientError {
    let fields = backend::error_fields(message).unwrap_or_default();
    client_error::parameter_refused(&fields.message, fields.code.into_owned())
}
