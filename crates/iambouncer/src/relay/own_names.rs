//! Statements that are not shared: those of session pooling, those too long to be shared, and names that the client has
//! not parsed. Owns which messages about them reach the server, and under which name.

use super::decision::{Consumed, NotConsumed};
use super::exchange::Exchange;
use super::internal_names;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use super::upstream::violation;
use crate::answers::{Answer, ExpectedAnswer, StateChange};
use crate::client_error;
use crate::prepared::{Effect, Interner};
use wire::frontend;
use wire::limits::{HEADER_BYTES, MAX_NAME_BYTES};
use wire::rewrite;
use wire::scan::Frame;

impl Exchange {
    /// A named Parse in session pooling, or with tracking disabled: the statement keeps the client's name on the
    /// server.
    pub(super) fn on_untracked_parse(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        let front = self.up.front();
        let text = front.get(HEADER_BYTES..).unwrap_or_default();
        let Some(end) = text.iter().position(|&byte| byte == 0) else {
            // The name extends beyond the bytes received so far.
            return if front.len() >= frame.len || text.len() > MAX_NAME_BYTES {
                Err(violation(wire::FormatError::UnterminatedString).into())
            } else {
                Err(NotConsumed::NeedBytes(front.len() + 1))
            };
        };
        session.has_effects |= Effect::of(&text[end + 1..]) != Effect::None;
        if let Link::Server(linked) = &mut self.link {
            linked.server.has_client_names = true;
        }
        self.forward_expecting(session, frame, ExpectedAnswer::Parse(Answer::Forward));
        Ok(())
    }

    /// A named Parse that is too long to be shared: it is streamed to the server under a unique private name.
    pub(super) fn on_private_parse(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        let front = self.up.front();
        let body = front.get(HEADER_BYTES..).unwrap_or_default();
        let Some(end) = body.iter().take(MAX_NAME_BYTES + 1).position(|&byte| byte == 0) else {
            return match body.len() > MAX_NAME_BYTES {
                true => Err(violation(wire::FormatError::NameTooLong).into()),
                false => Err(NotConsumed::NeedBytes(front.len() + 1)),
            };
        };
        let name: Box<[u8]> = body[..end].into();
        let effect = Effect::of(&body[end + 1..]);
        let head_len = HEADER_BYTES + end + 1;
        if self.answers.is_name_unsettled(&name) {
            return Err(self.await_answer());
        }
        if session.names.get(&name).is_some() {
            // The server would accept it, since its private name is unique.
            return Err(CloseReason::Error(client_error::duplicate_statement(&String::from_utf8_lossy(
                &name,
            )))
            .into());
        }
        let statement = Interner::private(effect);
        self.start_clock(session);
        rewrite::parse_head(self.up.insert(), &statement.name, frame.len - head_len);
        self.replace_head(frame, head_len);
        session.has_effects |= statement.effect != Effect::None;
        session.has_private = true;
        session.names.insert(&name, statement.clone());
        session.info.prepared_count.set(session.names.len() as u32);
        if let Link::Server(linked) = &mut self.link {
            linked.server.prepared.insert(statement.clone(), 0);
        }
        let change = StateChange::name(name, None, statement.id);
        self.answers.push(ExpectedAnswer::Parse(Answer::Forward).with(change));
        Ok(())
    }

    /// A name that the client has not parsed is left to the server: SQL may have prepared it.
    pub(super) fn on_unknown_bind(&mut self, session: &mut ClientSession, frame: Frame) -> Consumed {
        self.retry.clear();
        self.undescribed = 0;
        if self.must_send_first() {
            return Err(NotConsumed::SendFirst);
        }
        let front = self.up.front();
        let Some(head) = frontend::bind_head(front, frame.len).map_err(violation)? else {
            return Err(NotConsumed::NeedBytes(front.len() + 1));
        };
        if self.answers.is_name_unsettled(head.statement) {
            return Err(self.await_answer());
        }
        let (portal_len, head_len) = (head.portal.len(), head.head_len);
        let escaped = internal_names::escaped(head.statement);
        // With tracking disabled, it may be any statement that the client has parsed.
        let effect = if self.rules.max_prepared == 0 { Effect::Copies } else { Effect::None };
        self.record_portal(session, portal_len == 0, effect);
        if self.rules.max_prepared > 0 {
            session.pool.stats.count(|t| t.binds += 1);
        }
        let Some(escaped) = escaped else {
            self.forward_expecting(session, frame, ExpectedAnswer::Bind(0));
            return Ok(());
        };
        self.start_clock(session);
        self.forward_bind(frame, (portal_len, head_len), &escaped, 0);
        Ok(())
    }

    pub(super) fn on_unknown_describe(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        escaped: Option<Vec<u8>>,
    ) -> Consumed {
        self.retry.clear();
        let Some(escaped) = escaped else {
            self.forward_expecting(session, frame, ExpectedAnswer::Describe(0));
            return Ok(());
        };
        self.discard_message(frame)?;
        self.start_clock(session);
        rewrite::describe_statement(self.up.insert(), &escaped);
        self.answers.push(ExpectedAnswer::Describe(0));
        Ok(())
    }

    pub(super) fn on_unknown_close(
        &mut self,
        session: &mut ClientSession,
        frame: Frame,
        escaped: Option<Vec<u8>>,
    ) -> Consumed {
        let expected = ExpectedAnswer::Close(Answer::Forward);
        let Some(escaped) = escaped else {
            self.forward_expecting(session, frame, expected);
            return Ok(());
        };
        self.discard_message(frame)?;
        self.start_clock(session);
        rewrite::close_statement(self.up.insert(), &escaped);
        self.answers.push(expected);
        Ok(())
    }
}
