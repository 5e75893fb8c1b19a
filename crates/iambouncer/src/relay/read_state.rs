//! Queries about the state of a client's session, between its requests: the client's startup values after a RESET, and
//! what has changed, before another client gets the server. Owns these queries and what their answers mean.
//!
//! What a statement has changed is never concluded from its text: savepoints, errors and functions decide. The server is
//! asked instead, while the client already has its answer.

use super::exchange::Exchange;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use super::setting_rights::{self, SettingRights};
use super::unread_state::{MAX_SETTINGS, StateQuery};
use crate::answers::StateChange;
use crate::parameters::{ParameterId, ValueSet, push_current_setting};
use crate::sql_client;
use sql::{Feature, Features};
use wire::backend::TxStatus;
use wire::encode;
use wire::scan::{Frame, ROWS_FROM_SERVER};

/// Whether the server has the state of [`Feature::PROBED`], in that order. PostgreSQL itself finds temporary objects by their
/// dependency on their schema (DISCARD TEMP).
pub(super) const PROBES: &str = "\
    CASE WHEN pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.=) 0 THEN false ELSE EXISTS (SELECT FROM pg_catalog.pg_depend \
    WHERE refclassid OPERATOR(pg_catalog.=) 2615 AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) END,\
    EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable),\
    EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
    AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()),\
    EXISTS (SELECT FROM pg_catalog.pg_listening_channels()),\
    EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql)";
impl Exchange {
    /// Called when the server has answered a request of the client. Sets the client's startup values again that the
    /// request has reset. True if that is under way; the ReadyForQuery follows it.
    pub(super) fn restore_after_reset(&mut self, session: &ClientSession) -> bool {
        let Some(linked) = self.link.server() else { return false };
        let status = linked.status;
        let is_open = matches!(linked.status, TxStatus::Idle | TxStatus::Open);
        let Some(unread) = &mut linked.unread else { return false };
        let has_set = std::mem::take(&mut unread.has_set) | std::mem::take(&mut unread.has_discarded);
        if linked.status == TxStatus::Open && !has_set {
            // A portal that is executed later.
            return false;
        }
        unread.is_reset_executed = false;
        let resets = std::mem::take(&mut unread.resets);
        if !has_set || !is_open {
            return false;
        }
        let values = self.values_to_restore(session, &resets);
        if values.is_empty() {
            return false;
        }
        if !self.up.at_boundary() {
            // COPY data that nothing has asked for; no message can be put into the middle of it.
            session.pin(Features::of(&[Feature::UnreadableText]), b"");
            return false;
        }
        let parameters = &session.pool.context.parameters;
        let sql = parameters.set_values(&values);
        self.send_state_query(&sql, StateQuery::Restore(status));
        true
    }

    /// Called when the server could be released. Asks it for what may have changed. True if that is under way.
    pub(super) fn reads_state(&mut self, session: &mut ClientSession) -> bool {
        let Link::Server(linked) = &mut self.link else { return false };
        let is_verified = linked.is_verified;
        if linked.unread.is_some() && (self.reads_changes(session) || self.advance_listening(session)) {
            return true;
        }
        is_verified && self.verifies_state(session)
    }

    fn reads_changes(&mut self, session: &ClientSession) -> bool {
        let Link::Server(linked) = &mut self.link else { return false };
        let Some(unread) = &mut linked.unread else { return false };
        let pins = session.info.pins();
        let is_due = unread.probe || pins.is_empty() && unread.needs_query();
        if !is_due || !pins.without(Features::PROBED).is_empty() {
            return false;
        }
        let probes = std::mem::take(&mut unread.probe);
        let mut settings = std::mem::take(&mut unread.settings);
        settings.retain(|id| !linked.server.reported.contains(*id));
        if !probes && settings.is_empty() {
            return false;
        }
        let parameters = &session.pool.context.parameters;
        let rights = session.must_look_up_rights(&settings);
        let mut sql = String::from("SELECT ");
        if probes {
            sql.push_str(PROBES);
        }
        if rights {
            sql.push_str(if probes { "," } else { "" });
            setting_rights::push_columns(&mut sql, parameters, &settings, session.server_version());
        }
        for (at, id) in settings.iter().enumerate() {
            sql.push_str(if at > 0 || probes || rights { "," } else { "" });
            push_current_setting(&mut sql, parameters.name(*id));
        }
        self.send_state_query(&sql, StateQuery::Read { probes, rights, settings, row: None });
        true
    }

    pub(super) fn send_state_query(&mut self, sql: &str, query: StateQuery) {
        let Link::Server(linked) = &mut self.link else { return };
        tracing::debug!(id = linked.server.info.facts.id, "session state: {sql}");
        linked.unread.get_or_insert_default().query = query;
        self.down.set_interest(&ROWS_FROM_SERVER);
        self.send_internal_query(sql, StateChange::None);
    }

    /// True while the server is asked what has changed.
    pub(super) fn is_reading_state(&self) -> bool {
        matches!(
            self.state_query(),
            Some(StateQuery::Read { .. } | StateQuery::Verify { .. } | StateQuery::Listening { .. })
        )
    }

    /// True while the client's startup values are set again.
    pub(super) fn is_restoring(&self) -> bool {
        matches!(self.state_query(), Some(StateQuery::Restore(_)))
    }

    fn state_query(&self) -> Option<&StateQuery> {
        let Link::Server(linked) = &self.link else { return None };
        linked.unread.as_deref().map(|unread| &unread.query)
    }

    /// Keeps the row of the answer.
    #[cold]
    pub(super) fn on_state_row(&mut self, frame: Frame) {
        let message = self.down.message(frame);
        let parsed = if message.len() < frame.len { None } else { sql_client::text_row(message).ok() };
        let unread = self.link.server().and_then(|linked| linked.unread.as_deref_mut());
        if let Some(
            StateQuery::Read { row, .. }
            | StateQuery::Verify { row, .. }
            | StateQuery::Listening { row: row @ None },
        ) = unread.map(|unread| &mut unread.query)
        {
            *row = parsed;
        }
    }

    /// The query under way has been answered. False if there is none.
    #[cold]
    pub(super) fn state_query_completed(&mut self, session: &mut ClientSession) -> Result<bool, CloseReason> {
        let interest = self.usual_interest();
        let Some(unread) = self.link.server().and_then(|linked| linked.unread.as_deref_mut()) else {
            return Ok(false);
        };
        match std::mem::take(&mut unread.query) {
            StateQuery::None => Ok(false),
            StateQuery::Restore(status) => {
                self.down.set_interest(interest);
                match self.internal_query_error.take() {
                    None => {
                        self.report_current(session);
                        encode::ready_for_query_in(self.down.insert(), status);
                        Ok(true)
                    }
                    Some(message) => {
                        Err(CloseReason::Error(super::server_messages::refused_parameter(&message)))
                    }
                }
            }
            StateQuery::Read { probes, rights, settings, row } => {
                self.down.set_interest(interest);
                if self.internal_query_error.take().is_some() && unread.asks_again(probes, &settings) {
                    return Ok(true);
                }
                let read = row.and_then(|row| StateAnswer::of(row, probes, rights, &settings));
                match read {
                    Some(state) => self.adopt_state(session, state, &settings),
                    // Values that are too long, or that the server does not show.
                    None => session.pin(Features::of(&[Feature::ManySettings]), b""),
                }
                Ok(true)
            }
            StateQuery::Listening { row } => {
                let has_failed = self.internal_query_error.take().is_some();
                self.listening_answered(session, row, has_failed)?;
                Ok(true)
            }
            StateQuery::Verify { settings, row } => {
                self.down.set_interest(interest);
                if self.internal_query_error.take().is_none() {
                    self.state_verified(session, &settings, row);
                }
                Ok(true)
            }
        }
    }

    /// Reports the values of the server that the client does not know: a report of a value that was to be restored has been
    /// held back, and the server does not repeat it if it spells the same value differently.
    fn report_current(&mut self, session: &ClientSession) {
        let Link::Server(linked) = &mut self.link else { return };
        let parameters = &session.pool.context.parameters;
        for (id, value) in linked.server.parameters.iter() {
            let is_known = linked.changed_parameters.current(&session.parameters, id) == Some(value);
            if linked.server.reported.contains(id) && !is_known {
                linked.changed_parameters.record(parameters, &session.parameters, id, value);
                encode::parameter_status(self.down.insert(), parameters.name(id), value);
            }
        }
    }

    /// The client and its server have the values that were read.
    fn adopt_state(&mut self, session: &mut ClientSession, state: StateAnswer, settings: &[ParameterId]) {
        let Link::Server(linked) = &mut self.link else { return };
        linked.changed_parameters.commit(&mut session.parameters);
        if let Some(present) = state.present {
            session.unpin(Features::PROBED.without(present));
            session.pin(present, b"");
        }
        let reserved =
            state.rights.map(|rights| session.record_rights(&rights, settings)).unwrap_or_default();
        let context = session.pool.context.clone();
        let parameters = &context.parameters;
        let is_utf8 = parameters
            .id("client_encoding")
            .and_then(|id| linked.server.parameters.get(id))
            .is_some_and(|encoding| encoding.eq_ignore_ascii_case("UTF8"));
        for (id, value) in settings.iter().zip(state.values) {
            let value = value.filter(|_| !reserved.contains(*id));
            // Other encodings are not decoded.
            let is_readable = value.as_ref().is_none_or(|value| is_utf8 || value.is_ascii());
            if !is_readable {
                session.pin(Features::of(&[Feature::ManySettings]), b"");
                return;
            }
            if let Some(value) = &value {
                session.pin_for_parameter(*id, value);
            }
            let changed = |set: &ValueSet| match &value {
                Some(value) => parameters.with(set, *id, value),
                None => parameters.without(set, *id),
            };
            let of_server = changed(&linked.server.parameters);
            linked.server.parameters = of_server;
            session.parameters = changed(&session.parameters);
        }
        session.record_settings();
        if session.parameters.count() > MAX_SETTINGS {
            session.pin(Features::of(&[Feature::ManySettings]), b"");
        }
    }
}

/// What the server has answered.
struct StateAnswer {
    /// The features that it has, if it was asked.
    present: Option<Features>,
    /// Who may change the settings, if it was asked.
    rights: Option<SettingRights>,
    values: Vec<Option<String>>,
}

impl StateAnswer {
    /// `None` if the row is not an answer to the query.
    fn of(row: Vec<Option<String>>, probes: bool, rights: bool, settings: &[ParameterId]) -> Option<Self> {
        let mut row = row.into_iter();
        let present = if probes { Some(present_features(&mut row)?) } else { None };
        let rights = if rights { Some(SettingRights::of(&mut row)?) } else { None };
        (row.len() == settings.len()).then(|| Self { present, rights, values: row.collect() })
    }
}

/// The features that a server has, from the columns of [`PROBES`].
pub(super) fn present_features(row: &mut impl Iterator<Item = Option<String>>) -> Option<Features> {
    let mut present = Features::NONE;
    for feature in Feature::PROBED {
        match row.next()?.as_deref() {
            Some("t") => present.insert(feature),
            Some("f") => {}
            _ => return None,
        }
    }
    Some(present)
}
