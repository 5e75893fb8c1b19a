//! Messages that use the unnamed statement. Owns its transfer between servers: a client may use it in a later batch
//! than the one that parsed it, and it is then parsed again on the server that runs that batch. A client never gets to
//! use another client's unnamed statement.

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
use super::link::Link;
use super::session::ClientSession;
use super::session_state::StatementMessage;
use super::upstream::violation;
use crate::answers::{Answer, ExpectedAnswer, StateChange};
use crate::config::PoolMode;
use crate::prepared::unnamed::MAX_KEPT_BYTES;
use crate::prepared::{Effect, ServerUnnamed, UnnamedText};
use sql::SessionChanges;
use sql::changes::MAX_TEXT_BYTES;
use wire::frontend;
use wire::limits::HEADER_BYTES;
use wire::rewrite;
use wire::scan::Frame;

impl Exchange {
    pub(super) fn on_unnamed_parse(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        if self.rules.mode == PoolMode::Session {
            // The client has the server to itself.
            let changes = if self.rules.reads_statements { self.resets_of_parse(frame)? } else { None };
            let text = self.up.front().get(HEADER_BYTES + 1..).unwrap_or_default();
            let effect = Effect::of(text);
            session.has_effects |= effect != Effect::None || changes.is_some();
            let change = if session.has_effects {
                StateChange::Unnamed(session.unnamed.replace(UnnamedText::without_body(effect, changes)))
            } else {
                StateChange::None
            };
            if let Link::Server(linked) = &mut self.link {
                linked.server.unnamed = ServerUnnamed::Own;
            }
            self.forward_expecting(session, frame, ExpectedAnswer::Parse(Answer::Forward).with(change));
            return Ok(());
        }
        let text = if frame.len > MAX_KEPT_BYTES {
            let front = self.up.front().get(HEADER_BYTES + 1..).unwrap_or_default();
            let effect = Effect::of(front);
            UnnamedText::without_body(effect, self.changes_of_long_parse(session, frame)?)
        } else {
            let message = self.whole(frame)?;
            let body = frontend::parse(message).map_err(violation)?.body;
            match &session.unnamed {
                // Clients nearly always parse the same statement again.
                Some(text) if text.body() == Some(body) => text.clone(),
                _ => session.pool.context.unnamed.intern(body),
            }
        };
        if let Some(changes) = &text.changes {
            self.discard_foreign_sequences(session, changes);
        }
        session.has_effects |= text.effect != Effect::None;
        let before = session.unnamed.replace(text.clone());
        if let Link::Server(linked) = &mut self.link {
            linked.server.unnamed = ServerUnnamed::Text(text);
        }
        self.forward_expecting(
            session,
            frame,
            ExpectedAnswer::Parse(Answer::Forward).with(StateChange::Unnamed(before)),
        );
        Ok(())
    }

    /// What a statement of session pooling resets, or sets behind that.
    fn resets_of_parse(&self, frame: Frame) -> Consumed<Option<Box<SessionChanges>>> {
        if frame.len > MAX_TEXT_BYTES {
            return Ok(None);
        }
        let body = frontend::parse(self.whole(frame)?).map_err(violation)?.body;
        Ok(SessionChanges::of(body))
    }

    /// What a statement may change whose text is not kept.
    fn changes_of_long_parse(
        &self,
        session: &ClientSession,
        frame: Frame,
    ) -> Consumed<Option<Box<SessionChanges>>> {
        if !self.rules.follows {
            return Ok(None);
        }
        if frame.len > MAX_TEXT_BYTES {
            return Ok(Some(Box::new(SessionChanges::unreadable())));
        }
        let body = frontend::parse(self.whole(frame)?).map_err(violation)?.body;
        let mut changes = SessionChanges::of(body);
        if let Some(calls) = session.changes_by_calls(body) {
            changes.get_or_insert_default().add(&calls);
        }
        Ok(changes)
    }

    pub(super) fn on_unnamed_bind(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        self.retry.clear();
        self.undescribed = 0;
        self.ensure_unnamed(session)?;
        if self.rules.refuses_pins
            && let Some(text) = session.unnamed.clone()
        {
            let body = text.body().unwrap_or_default();
            let pins = session.pins_of_prepared(body, text.changes.as_deref(), &text.calls);
            if !pins.is_empty() {
                return self.refuse_pin(session, frame, ExpectedAnswer::Bind(0), pins, body);
            }
        }
        if session.unnamed.as_ref().is_some_and(|text| text.changes.is_some()) {
            self.record_unnamed(session)?;
        }
        if self.rules.follows && session.pool.database.functions.may_change() {
            self.record_unnamed_calls(session);
        }
        if session.has_effects {
            let is_unnamed_portal = self.up.front().get(HEADER_BYTES) == Some(&0);
            let effect = session.unnamed.as_ref().map_or(Effect::None, |text| text.effect);
            self.record_portal(session, is_unnamed_portal, effect);
        }
        self.forward_expecting(session, frame, ExpectedAnswer::Bind(0));
        Ok(())
    }

    /// Records what the unnamed statement may change.
    #[cold]
    fn record_unnamed(&mut self, session: &mut ClientSession) -> Consumed {
        let Some(text) = session.unnamed.clone() else { return Ok(()) };
        let Some(changes) = &text.changes else { return Ok(()) };
        let body = text.body().unwrap_or_default();
        self.record_statement(session, changes, body, StatementMessage::Bind)
    }

    /// Records what the unnamed statement may change by calling functions.
    #[cold]
    fn record_unnamed_calls(&mut self, session: &ClientSession) {
        let Some(text) = session.unnamed.clone() else { return };
        let Some(body) = text.body() else { return };
        self.record_cached_calls(session, body, &text.calls);
    }

    pub(super) fn on_unnamed_describe(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        self.retry.clear();
        self.ensure_unnamed(session)?;
        self.forward_expecting(session, frame, ExpectedAnswer::Describe(0));
        Ok(())
    }

    pub(super) fn on_unnamed_close(&mut self, session: &mut ClientSession, frame: Frame) {
        let change = match self.rules.mode {
            PoolMode::Session => StateChange::None,
            _ => StateChange::Unnamed(session.unnamed.take()),
        };
        if let Link::Server(linked) = &mut self.link {
            linked.server.unnamed.set_unless_own(ServerUnnamed::None);
        }
        self.forward_expecting(session, frame, ExpectedAnswer::Close(Answer::Forward).with(change));
    }

    /// Makes sure that the server's unnamed statement is the client's before a message uses it: parses it again or, if
    /// the client has none, closes the server's.
    #[inline]
    fn ensure_unnamed(&mut self, session: &mut ClientSession) -> Consumed {
        let Link::Server(linked) = &self.link else { return Ok(()) };
        let is_current = match (&session.unnamed, &linked.server.unnamed) {
            (_, ServerUnnamed::Own) => true,
            (Some(text), server) => server.is(text),
            (None, server) => matches!(server, ServerUnnamed::None),
        };
        if is_current && !self.answers.is_name_unsettled(b"") {
            Ok(())
        } else {
            self.replace_unnamed(session, is_current)
        }
    }

    #[inline(never)]
    fn replace_unnamed(&mut self, session: &mut ClientSession, is_current: bool) -> Consumed {
        if self.answers.is_name_unsettled(b"") {
            return Err(self.await_answer());
        }
        if is_current {
            return Ok(());
        }
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        self.start_clock(session);
        let Link::Server(linked) = &mut self.link else { return Ok(()) };
        match session.unnamed.as_ref().and_then(|text| Some((text, text.body()?))) {
            Some((text, body)) => {
                rewrite::parse(self.up.insert(), b"", body);
                linked.server.unnamed = ServerUnnamed::Text(text.clone());
                self.answers.push(ExpectedAnswer::Parse(Answer::Skip).with(StateChange::ServerUnnamed));
                session.pool.stats.count(|t| t.server_parses += 1);
            }
            None => {
                rewrite::close_statement(self.up.insert(), b"");
                linked.server.unnamed = ServerUnnamed::None;
                self.answers.push(ExpectedAnswer::Close(Answer::Skip).with(StateChange::ServerUnnamed));
            }
        }
        Ok(())
    }
}
