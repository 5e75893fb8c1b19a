//! The state of a client's session in transaction pooling: what its statements may change is recorded when they are sent.
//! Owns these records, and decides whether the client keeps its server; the server is asked in [`super::read_state`].

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
use super::link::Link;
use super::session::ClientSession;
use super::unread_state::Resets;
use crate::answers::StateChange;
use crate::clients::Pin;
use crate::parameters::{ParameterId, ROLE, SESSION_AUTHORIZATION};
use crate::prepared::CallCache;
use crate::worker;
use sql::changes::MAX_TEXT_BYTES;
use sql::{Feature, Features, SessionChanges};
use std::rc::Rc;
use wire::backend::TxStatus;
use wire::limits::HEADER_BYTES;
use wire::scan::Frame;

/// Longest text of a statement in the record of a client that keeps its server, in characters.
const MAX_SHOWN: usize = 80;
/// State that DISCARD ALL does not remove: the server is closed after its client.
const NOT_DISCARDED: Features = Features::of(&[
    Feature::UnknownCode,
    Feature::UnreadableText,
    Feature::RandomSeed,
    Feature::LoadedLibrary,
    Feature::ReplicationSlot,
    Feature::RemoteConnection,
]);

/// Numbers of the functions for large objects, which drivers call by number; their state ends with the transaction.
const LARGE_OBJECT_FUNCTIONS: [u32; 15] =
    [715, 764, 767, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172];

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatementMessage {
    /// As a simple query.
    Query,
    /// As a Bind, in a batch.
    Bind,
}

impl ClientSession {
    /// True while its server may have state that no other has.
    pub(super) fn keeps_state(&self) -> bool {
        !self.info.pins().is_empty()
    }

    /// The client keeps its server from now on, for these features.
    #[cold]
    #[inline(never)]
    pub(super) fn pin(&self, features: Features, statement: &[u8]) {
        let before = self.info.pins();
        let mut all = before;
        all.add(features);
        if all == before {
            return;
        }
        let pool = &self.pool;
        let summary = || shown_statement(all, statement);
        let pin = || Pin { since: worker::now(), statement: summary().into() };
        self.info.set_pins(all, pin);
        self.record_kept();
        for feature in features.without(before).iter() {
            pool.context.process.session_counters.count_pin(feature);
        }
        if pool.note_pin(features) {
            let identity = self.info.identity();
            tracing::info!(
                id = self.info.id,
                user = %identity.user,
                database = %identity.database,
                reasons = self.info.pin_reasons(),
                statement = summary(),
                "a client keeps its server; further ones of this pool are not logged, see SHOW PINS"
            );
        }
    }

    /// What a text may change by calling functions of the database.
    #[inline]
    pub(super) fn changes_by_calls(&self, text: &[u8]) -> Option<Rc<SessionChanges>> {
        let functions = &self.pool.database.functions;
        if functions.may_change() { functions.changes_of(text) } else { None }
    }

    /// Some of the features for which the client keeps its server no longer exist.
    pub(super) fn unpin(&self, features: Features) {
        let left = self.info.pins().without(features);
        self.info.set_pins(left, || Pin { since: worker::now(), statement: Box::default() });
        self.record_kept();
    }

    pub(super) fn record_kept(&self) {
        if let Some(server) = self.info.server() {
            server.is_kept.set(self.keeps_state());
        }
    }

    /// What the values of its login mean for how its statements are read.
    pub(super) fn pin_for_parameters(&self) {
        for (id, value) in self.login_parameters.iter() {
            self.pin_for_parameter(id, value);
        }
    }

    /// The same for a value that the server reports.
    pub(super) fn pin_for_parameter(&self, id: ParameterId, value: &str) {
        let feature = match self.pool.context.parameters.name(id) {
            "standard_conforming_strings" if value != "on" => Feature::UnreadableText,
            "client_encoding" if !SessionChanges::can_read_encoding(value) => Feature::UnreadableText,
            "search_path" if value.to_ascii_lowercase().contains("pg_temp") => Feature::TemporarySchema,
            _ => return,
        };
        self.pin(Features::of(&[feature]), b"");
    }
}

/// The text of a statement in the log and on the console, without its values.
pub(super) fn shown_statement(features: Features, statement: &[u8]) -> String {
    // Where strings end is not known in a text that cannot be read.
    let is_readable = !features.contains(Feature::UnreadableText);
    if is_readable { sql::summary(statement, MAX_SHOWN) } else { String::new() }
}

impl Exchange {
    /// Reads a simple query, at whose front the buffer is.
    #[inline]
    pub(super) fn record_query(&mut self, session: &ClientSession, frame: Frame) -> Consumed {
        if frame.len > MAX_TEXT_BYTES {
            if self.rules.follows {
                self.record_changes(session, &SessionChanges::unreadable(), b"");
            }
            return Ok(());
        }
        let text = self.whole(frame)?.get(HEADER_BYTES..).unwrap_or_default();
        let changes = SessionChanges::of(text);
        let calls = if self.rules.follows { session.changes_by_calls(text) } else { None };
        if changes.is_none() && calls.is_none() {
            return Ok(());
        }
        let text = text.to_vec();
        if let Some(changes) = changes {
            self.record_statement(session, &changes, &text, StatementMessage::Query)?;
        }
        if let Some(calls) = calls {
            self.record_calls(session, &calls, &text);
        }
        Ok(())
    }

    /// Records what a statement may change by calling functions.
    #[cold]
    #[inline(never)]
    pub(super) fn record_calls(&mut self, session: &ClientSession, calls: &SessionChanges, statement: &[u8]) {
        self.discard_foreign_sequences(session, calls);
        self.record_changes(session, calls, statement);
    }

    /// The same for a statement that is executed again and again.
    #[cold]
    #[inline(never)]
    pub(super) fn record_cached_calls(&mut self, session: &ClientSession, body: &[u8], cache: &CallCache) {
        if let Some(calls) = session.pool.database.functions.cached_changes_of(body, cache) {
            self.record_calls(session, &calls, body);
        }
    }

    /// Records what a statement may change that is about to be sent.
    ///
    /// A RESET waits for earlier requests, so that their errors are not taken for its own. One that the server may skip,
    /// because of an earlier error or a COPY, must not wait: what the client sends behind it may be what the server
    /// waits for. Its client keeps its server.
    #[inline(never)]
    pub(super) fn record_statement(
        &mut self,
        session: &ClientSession,
        changes: &SessionChanges,
        statement: &[u8],
        kind: StatementMessage,
    ) -> Consumed {
        if !self.rules.reads_statements {
            return Ok(());
        }
        let resets = changes.resets_any();
        let may_be_skipped = changes.has_copy
            || self.answers.is_copying()
            || kind == StatementMessage::Query && self.answers.is_batch_open();
        if resets && !may_be_skipped && self.answers.owes_ready() {
            return Err(self.await_answer());
        }
        if !self.rules.follows {
            self.record_in_session_pooling(session, changes, !may_be_skipped);
            return Ok(());
        }
        self.discard_foreign_sequences(session, changes);
        self.record_changes(session, changes, statement);
        if resets && may_be_skipped {
            session.pin(Features::of(&[Feature::UnreadableText]), statement);
        } else if resets {
            self.record_resets(session, changes);
        }
        Ok(())
    }

    /// The client keeps its server, so only what a statement resets matters.
    fn record_in_session_pooling(
        &mut self,
        session: &ClientSession,
        changes: &SessionChanges,
        is_executed: bool,
    ) {
        let Link::Server(linked) = &mut self.link else { return };
        if let Some(unread) = &mut linked.unread {
            let set =
                changes.settings.iter().filter_map(|name| session.pool.context.parameters.followed(name));
            set.for_each(|id| unread.resets.remove(id));
        }
        if changes.resets_any() && is_executed {
            self.record_resets(session, changes);
        }
    }

    /// Records what a statement may change.
    fn record_changes(&mut self, session: &ClientSession, changes: &SessionChanges, statement: &[u8]) {
        let Link::Server(linked) = &mut self.link else { return };
        let parameters = &session.pool.context.parameters;
        let unread = linked.unread.get_or_insert_default();
        let mut begins = session.begins(changes);
        for name in &changes.settings {
            let id = parameters.followed(name);
            if let Some(id) = id {
                unread.resets.remove(id);
            }
            if !id.is_some_and(|id| unread.add(id)) {
                begins.insert(Feature::ManySettings);
            }
        }
        session.pin(begins, statement);
        let mut concerned = begins;
        concerned.add(changes.ends);
        let changes_channels = concerned.contains(Feature::Listen);
        let pins = session.info.pins().and(Features::PROBED);
        unread.probe |= !concerned.and(pins).is_empty();
        if changes_channels && self.listening.is_some() {
            self.channels_may_change(session);
        }
    }

    /// Records what a statement resets.
    fn record_resets(&mut self, session: &ClientSession, changes: &SessionChanges) {
        let Link::Server(linked) = &mut self.link else { return };
        let parameters = &session.pool.context.parameters;
        let unread = linked.unread.get_or_insert_default();
        if changes.resets_all || changes.discards_all() {
            let set_behind = changes.set_after_reset.iter();
            unread.resets = Resets::All {
                except: set_behind.filter_map(|name| parameters.followed(name)).collect(),
                discards: changes.discards_all(),
            };
            let known = session.parameters.iter().chain(linked.server.parameters.iter());
            let unreported = known.map(|(id, _)| id).filter(|id| !linked.server.reported.contains(*id));
            let has_room = unreported.map(|id| unread.add(id)).collect::<Vec<_>>();
            if has_room.contains(&false) {
                session.pin(Features::of(&[Feature::ManySettings]), b"");
            }
        } else {
            let ids = changes.resets.iter().filter_map(|name| parameters.followed(name));
            match &mut unread.resets {
                Resets::These(known) => {
                    for id in ids {
                        if !known.contains(&id) {
                            known.push(id);
                        }
                    }
                }
                Resets::All { except, .. } => ids.for_each(|id| except.retain(|other| *other != id)),
                Resets::None => unread.resets = Resets::These(ids.collect()),
            }
        }
    }

    /// Called before a statement is sent that asks for the last value of a sequence. The values that another client has
    /// left on the server are discarded.
    pub(super) fn discard_foreign_sequences(&mut self, session: &ClientSession, changes: &SessionChanges) {
        if !self.rules.follows || !changes.begins.contains(Feature::SequenceValue) {
            return;
        }
        let is_first = self.answers.owes_only_internal() && !self.answers.is_batch_open();
        let Link::Server(linked) = &mut self.link else { return };
        let has_used_it = linked.server.last_client == session.info.id;
        if has_used_it || !is_first || linked.status != TxStatus::Idle {
            return;
        }
        linked.server.last_client = session.info.id;
        self.send_internal_query("DISCARD SEQUENCES", StateChange::None);
    }

    /// A call of a function by its number. True if it may change anything.
    pub(super) fn calls_unknown_function(&self) -> Consumed<bool> {
        let front = self.up.front();
        let Some(number) = front.get(HEADER_BYTES..HEADER_BYTES + 4) else {
            return Err(NotConsumed::NeedBytes(HEADER_BYTES + 4));
        };
        let number = number.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        Ok(!LARGE_OBJECT_FUNCTIONS.contains(&number))
    }

    /// Records such a call.
    pub(super) fn record_function_call(&mut self, session: &ClientSession) {
        self.record_changes(session, &SessionChanges::unknown_code(), b"");
    }

    /// True if the client may have changed its session, or listens.
    #[inline]
    pub(super) fn has_unread(&self) -> bool {
        matches!(&self.link, Link::Server(linked) if linked.unread.is_some())
    }

    /// Called before a request of such a client.
    #[cold]
    #[inline(never)]
    pub(super) fn check_unread(&mut self, session: &mut ClientSession) -> Consumed {
        if self.awaits_reset() || self.awaits_functions(session) {
            return Err(self.await_answer());
        }
        if self.listening.is_some() { self.check_listening(session) } else { Ok(()) }
    }

    /// True while a RESET is under way whose outcome a following request must not overtake: the client's own startup
    /// values are set behind it.
    #[inline]
    pub(super) fn awaits_reset(&self) -> bool {
        let Link::Server(linked) = &self.link else { return false };
        let Some(unread) = &linked.unread else { return false };
        let is_under_way = !unread.resets.is_none()
            && !self.answers.is_empty()
            && (unread.is_reset_executed || !self.answers.is_batch_open())
            && !self.answers.is_copying();
        is_under_way || self.is_restoring()
    }

    /// True while the server is asked for its state after a change of functions: the next request gets a server that has read
    /// the catalog again.
    #[inline]
    pub(super) fn awaits_functions(&self, session: &ClientSession) -> bool {
        self.is_reading_state() && session.pool.database.functions.are_changed()
    }

    /// An Execute was sent.
    #[inline]
    pub(super) fn record_execute(&mut self) {
        if let Some(unread) = self.link.server().and_then(|linked| linked.unread.as_deref_mut()) {
            unread.is_reset_executed = !unread.resets.is_none();
        }
    }

    /// The values that the client has to get back after a successful RESET.
    pub(super) fn values_to_restore(
        &self,
        session: &ClientSession,
        resets: &Resets,
    ) -> Vec<(ParameterId, Box<str>)> {
        let Link::Server(linked) = &self.link else { return Vec::new() };
        let parameters = &session.pool.context.parameters;
        let server = &linked.server;
        let is_current = |id, value| server.reported.contains(id) && server.parameters.get(id) == Some(value);
        let is_kept = |id| {
            matches!(resets, Resets::All { discards: false, .. })
                && [ROLE, SESSION_AUTHORIZATION].contains(&parameters.name(id))
        };
        let values = session.login_parameters.iter();
        let due =
            values.filter(|(id, value)| resets.contains(*id) && !is_kept(*id) && !is_current(*id, value));
        due.map(|(id, value)| (id, value.into())).collect()
    }

    /// A command tag that reports a change of the session. One that no statement has announced was not read correctly.
    #[cold]
    #[inline(never)]
    pub(super) fn check_announced(&mut self, session: &ClientSession, tag: &[u8]) {
        let Link::Server(linked) = &mut self.link else { return };
        if let Some(unread) = &mut linked.unread {
            unread.has_set = true;
            unread.is_reset_executed = false;
            return;
        }
        if !self.rules.follows || session.keeps_state() {
            return;
        }
        session.pool.context.process.session_counters.count_mismatch();
        tracing::warn!(
            id = session.info.id,
            tag = %String::from_utf8_lossy(tag),
            "a statement has changed its session unexpectedly; the client keeps its server. Please report its text"
        );
        session.pin(Features::of(&[Feature::UnreadableText]), b"");
    }

    /// A DISCARD ALL has succeeded, and nothing was sent behind it.
    pub(super) fn discarded_all(&mut self, session: &ClientSession) {
        let Some(unread) = self.link.server().and_then(|linked| linked.unread.as_deref_mut()) else { return };
        if unread.resets.is_none() {
            // It was not expected to succeed, so others may have been sent.
            return;
        }
        unread.probe = false;
        unread.has_discarded = true;
        unread.is_reset_executed = false;
        if self.rules.follows {
            session.unpin(Features::ALL.without(NOT_DISCARDED));
            session.pin_for_parameters();
        }
    }

    /// Returns the server of a client that has left. Its session may have any state.
    pub(super) fn release_after_client(session: &ClientSession, linked: super::link::Linked) {
        let mut lease = linked.server;
        lease.end_ownership();
        if !session.info.pins().and(NOT_DISCARDED).is_empty() {
            let unfinished = crate::pool::UnfinishedWork { owes_answers: false, between_messages: true };
            return lease.abandon(unfinished);
        }
        if session.keeps_state() || linked.unread.is_some_and(|unread| unread.needs_query()) {
            return lease.release_discarding();
        }
        lease.release_dirty();
    }
}
