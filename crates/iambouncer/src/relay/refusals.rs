//! Messages that the pooler refuses. Owns what the server receives in their place, so that it fails the transaction or the
//! batch itself, and the error that the client receives; and which statements `pin = error` refuses.
//!
//! What only the server's answer shows, such as the value of a setting that a function has computed, is not refused.

use super::decision::Consumed;
use super::exchange::Exchange;
use super::internal_names::NO_STATEMENT;
use super::session::ClientSession;
use super::session_state::shown_statement;
use crate::answers::{Answer, ExpectedAnswer, RefusalReason, StateChange};
use crate::client_error;
use crate::prepared::{CallCache, ServerUnnamed};
use sql::changes::MAX_TEXT_BYTES;
use sql::{Feature, Features, SessionChanges};
use wire::backend;
use wire::encode::{self, ErrorReport};
use wire::limits::HEADER_BYTES;
use wire::rewrite;
use wire::scan::Frame;

/// These fail when they are analyzed, so also as a Parse, and without changing anything. The log of the server shows them.
const FAILING_RESULT: &str =
    "SELECT 'statement refused by iambouncer: its result type has changed'::pg_catalog.int4";
const FAILING_PIN: &str = "SELECT 'statement refused by iambouncer: its client would keep its server (pin = error)'::pg_catalog.int4";
/// The SQLSTATE with which it fails (invalid_text_representation). In a failed transaction it is another one.
const FAILS_WITH: &str = "22P02";

/// PostgreSQL's own error. Drivers prepare the statement again, some of them only with this routine.
const CHANGED_RESULT: ErrorReport<'static> = ErrorReport {
    severity: "ERROR",
    code: "0A000",
    message: "cached plan must not change result type",
    detail: None,
    hint: None,
    routine: Some("RevalidateCachedQuery"),
};

impl Exchange {
    /// The features for which a simple query would make its client keep its server.
    #[cold]
    #[inline(never)]
    pub(super) fn pins_of_query(&self, session: &ClientSession, frame: Frame) -> Consumed<Features> {
        if frame.len > MAX_TEXT_BYTES {
            return Ok(session.new_pins(Features::of(&[Feature::UnreadableText])));
        }
        let text = self.whole(frame)?.get(HEADER_BYTES..).unwrap_or_default();
        let mut begins = SessionChanges::of(text).map_or(Features::NONE, |changes| session.begins(&changes));
        if let Some(calls) = session.changes_by_calls(text) {
            begins.add(session.begins(&calls));
        }
        Ok(session.new_pins(begins))
    }

    /// Refuses the message at the front, for which its client would keep its server.
    #[cold]
    pub(super) fn refuse_pin(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        answer: ExpectedAnswer,
        refused: Features,
        statement: &[u8],
    ) -> Consumed {
        self.refuse(session, frame, answer, RefusalReason::Pins(refused), statement)
    }

    /// Refuses the message at the front. Its answer is expected as if it had been sent.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        answer: ExpectedAnswer,
        refusal: RefusalReason,
        statement: &[u8],
    ) -> Consumed {
        self.discard_message(frame)?;
        self.retry.clear();
        self.start_clock(session);
        let failing = match refusal {
            RefusalReason::Pins(features) => {
                session.note_refused(features, statement);
                FAILING_PIN
            }
            RefusalReason::ChangedResult => FAILING_RESULT,
        };
        match answer {
            ExpectedAnswer::Query { .. } | ExpectedAnswer::FunctionCall => {
                encode::query(self.up.insert(), failing);
                if let Some(linked) = self.link.server() {
                    linked.server.unnamed.set_unless_own(ServerUnnamed::Unknown);
                }
            }
            _ => {
                let body = [failing.as_bytes(), b"\0\0\0"].concat();
                rewrite::parse(self.up.insert(), NO_STATEMENT, &body);
            }
        }
        self.answers.push(answer.with(StateChange::Refused(refusal)));
        Ok(())
    }

    /// Refuses a Parse of a statement that would not be examined.
    #[cold]
    pub(super) fn refuse_parse(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        let refused = Features::of(&[Feature::UnreadableText]);
        self.refuse_pin(session, frame, ExpectedAnswer::Parse(Answer::Forward), refused, b"")
    }

    /// Sends the client its error in place of the server's, unless that is another one.
    #[cold]
    pub(super) fn replace_refusal(
        &mut self,
        session: &ClientSession,
        refusal: RefusalReason,
        frame: Frame,
    ) -> bool {
        let has_failed_so = backend::error_fields(self.down.message(frame))
            .is_ok_and(|fields| fields.code.as_ref() == FAILS_WITH);
        if has_failed_so {
            let out = self.down.insert();
            match refusal {
                RefusalReason::Pins(features) => {
                    let error = client_error::pin_refused(features);
                    session.pool.context.process.client_counters.count_error(&error.code);
                    error.encode_error(out);
                }
                RefusalReason::ChangedResult => encode::error_response(out, &CHANGED_RESULT),
            }
        }
        has_failed_so
    }
}

impl ClientSession {
    /// What a statement begins, and code in it that is not known.
    pub(super) fn begins(&self, changes: &SessionChanges) -> Features {
        let mut begins = changes.begins;
        if changes.has_call && !self.pool.database.functions.are_known() {
            begins.insert(Feature::UnknownCode);
        }
        begins
    }

    /// Those for which the client does not keep its server yet.
    fn new_pins(&self, begins: Features) -> Features {
        let new = begins.without(self.info.pins());
        let shares = self.pool.with_session_rules(|rules| rules.shares_listener);
        if shares { new.without(Features::of(&[Feature::Listen])) } else { new }
    }

    /// The features for which a prepared statement would make its client keep its server.
    #[cold]
    #[inline(never)]
    pub(super) fn pins_of_prepared(
        &self,
        body: &[u8],
        changes: Option<&SessionChanges>,
        cache: &CallCache,
    ) -> Features {
        let functions = &self.pool.database.functions;
        let mut begins = changes.map_or(Features::NONE, |changes| self.begins(changes));
        if functions.may_change()
            && let Some(calls) = functions.cached_changes_of(body, cache)
        {
            begins.add(self.begins(&calls));
        }
        self.new_pins(begins)
    }

    fn note_refused(&self, refused: Features, statement: &[u8]) {
        for feature in refused.iter() {
            self.pool.context.process.session_counters.count_refused(feature);
        }
        if self.pool.note_pin(refused) {
            let identity = self.info.identity();
            tracing::info!(
                id = self.info.id,
                user = %identity.user,
                database = %identity.database,
                reasons = %refused,
                statement = shown_statement(refused, statement),
                "a statement was refused for which its client would keep its server (pin = error); further ones of this pool are not logged"
            );
        }
    }
}
