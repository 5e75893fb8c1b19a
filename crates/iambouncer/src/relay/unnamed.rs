//! Messages about the unnamed statement. Owns its way from server to server: a client may use it in a later batch than
//! the one that made it, and then it is made again on the server that runs that batch. A server never lets a client use
//! the unnamed statement of another.

use super::exchange::Exchange;
use super::link::Link;
use super::session::{Ending, Guest};
use super::upstream::{Scanned, violation};
use crate::answers::{Answer, Expected, Failed, Undo};
use crate::config::PoolMode;
use crate::prepared::unnamed::MAX_KEPT_BYTES;
use crate::prepared::{Effect, ServerUnnamed, Unnamed, UnnamedText};
use wire::frontend;
use wire::limits::HEADER_BYTES;
use wire::rewrite;
use wire::scan::Frame;

impl Exchange {
    pub(super) fn on_unnamed_parse(
        &mut self,
        guest: &mut Guest,
        frame: Frame,
    ) -> Result<Option<Scanned>, Ending> {
        if self.rules.mode == PoolMode::Session {
            // The server is the client's own.
            let text = self.up.bytes().get(self.up_ready + HEADER_BYTES + 1..).unwrap_or_default();
            let effect = Effect::of(text);
            guest.has_effects |= effect != Effect::None;
            let undo = if guest.has_effects {
                Undo::Unnamed(guest.unnamed.replace(UnnamedText::without_body(effect)))
            } else {
                Undo::None
            };
            if let Link::Server(linked) = &mut self.link {
                linked.server.unnamed = ServerUnnamed::Own;
            }
            self.forward_expecting(guest, frame, Expected::Parse(Answer::Forward, undo));
            return Ok(None);
        }
        let text = if frame.len > MAX_KEPT_BYTES {
            let front = self.up.bytes().get(self.up_ready + HEADER_BYTES + 1..).unwrap_or_default();
            UnnamedText::without_body(Effect::of(front))
        } else {
            let message = match self.whole(frame) {
                Ok(message) => message,
                Err(scanned) => return Ok(Some(scanned)),
            };
            let body = frontend::parse(message).map_err(violation)?.body;
            match &guest.unnamed {
                // Nearly always the same statement again.
                Some(text) if text.body() == Some(body) => text.clone(),
                _ => guest.pool.context.unnamed.intern(body),
            }
        };
        guest.has_effects |= text.effect != Effect::None;
        let before = guest.unnamed.replace(text.clone());
        if let Link::Server(linked) = &mut self.link {
            linked.server.unnamed = ServerUnnamed::Text(text);
        }
        self.forward_expecting(guest, frame, Expected::Parse(Answer::Forward, Undo::Unnamed(before)));
        Ok(None)
    }

    pub(super) fn on_unnamed_bind(
        &mut self,
        guest: &mut Guest,
        frame: Frame,
    ) -> Result<Option<Scanned>, Ending> {
        self.retry.forget();
        if let Some(scanned) = self.ensure_unnamed(guest) {
            return Ok(Some(scanned));
        }
        if guest.has_effects {
            let is_unnamed_portal = self.up.bytes().get(self.up_ready + HEADER_BYTES) == Some(&0);
            let effect = guest.unnamed.as_ref().map_or(Effect::None, |text| text.effect);
            self.note_portal(guest, is_unnamed_portal, effect);
        }
        guest.pool.stats.count(|t| t.binds += 1);
        self.forward_expecting(guest, frame, Expected::Bind(0));
        Ok(None)
    }

    pub(super) fn on_unnamed_describe(
        &mut self,
        guest: &mut Guest,
        frame: Frame,
    ) -> Result<Option<Scanned>, Ending> {
        self.retry.forget();
        if let Some(scanned) = self.ensure_unnamed(guest) {
            return Ok(Some(scanned));
        }
        self.forward_expecting(guest, frame, Expected::Describe(0));
        Ok(None)
    }

    pub(super) fn on_unnamed_close(&mut self, guest: &mut Guest, frame: Frame) {
        let undo = match self.rules.mode {
            PoolMode::Session => Undo::None,
            _ => Undo::Unnamed(guest.unnamed.take()),
        };
        if let Link::Server(linked) = &mut self.link {
            linked.server.unnamed = ServerUnnamed::None;
        }
        self.forward_expecting(guest, frame, Expected::Close(Answer::Forward, undo));
    }

    /// Sees to it that the server's unnamed statement is the client's before the message that uses it: made again, or,
    /// where the client has none, closed.
    #[inline]
    fn ensure_unnamed(&mut self, guest: &mut Guest) -> Option<Scanned> {
        let Link::Server(linked) = &self.link else { return None };
        let is_there = match (&guest.unnamed, &linked.server.unnamed) {
            (_, ServerUnnamed::Own) => true,
            (Some(text), server) => server.is(text),
            (None, server) => matches!(server, ServerUnnamed::None),
        };
        if is_there && !self.answers.is_name_unsettled(b"") {
            None
        } else {
            self.replace_unnamed(guest, is_there)
        }
    }

    #[inline(never)]
    fn replace_unnamed(&mut self, guest: &mut Guest, is_there: bool) -> Option<Scanned> {
        if self.answers.is_name_unsettled(b"") {
            return Some(self.await_answer());
        }
        if is_there {
            return None;
        }
        if self.must_send_first() {
            return Some(Scanned::Sendable);
        }
        self.spill_upstream();
        self.start_clock(guest);
        let Link::Server(linked) = &mut self.link else { return None };
        match guest.unnamed.as_ref().and_then(|text| Some((text, text.body()?))) {
            Some((text, body)) => {
                rewrite::parse(self.up_head.buffer(), b"", body);
                linked.server.unnamed = ServerUnnamed::Text(text.clone());
                self.answers.push(Expected::Parse(Answer::Skip, Undo::ServerUnnamed));
                guest.pool.stats.count(|t| t.server_parses += 1);
            }
            None => {
                rewrite::close_statement(self.up_head.buffer(), b"");
                linked.server.unnamed = ServerUnnamed::None;
                self.answers.push(Expected::Close(Answer::Skip, Undo::ServerUnnamed));
            }
        }
        None
    }

    /// Takes back a change of the unnamed statement that did not happen. A Parse that failed itself has closed the one
    /// before; one that was skipped has not.
    pub(super) fn undo_unnamed(guest: &mut Guest, before: Unnamed, failed: Failed) {
        if failed.is_last_change {
            guest.unnamed = if failed.is_front { None } else { before };
        }
    }
}
