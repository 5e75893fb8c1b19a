//! Messages of the client that name prepared statements. Owns their renaming: what is added, held back, answered
//! here or left for the server to judge; who has which statement is written down in [`crate::prepared`].

use super::exchange::Exchange;
use super::session::{Ending, Guest};
use super::upstream::{Scanned, violation};
use crate::faults;
use crate::prepared::{Answer, Expected, Statement, Undo};
use std::rc::Rc;
use wire::frontend::{self, Named, Target};
use wire::limits::{HEADER_BYTES, MAX_NAME_BYTES};
use wire::rewrite;
use wire::scan::Frame;

/// Longest named Parse that is shared, in bytes. It has to be in memory as a whole.
const MAX_SHARED_PARSE_BYTES: usize = 16 * 1024 * 1024;
/// Longest Describe or Close, in bytes: a kind and a name.
const MAX_NAMED_BYTES: usize = HEADER_BYTES + 1 + MAX_NAME_BYTES + 1;

impl Exchange {
    /// The message at the front, if it is there as a whole.
    fn whole(&self, frame: Frame) -> Result<&[u8], Scanned> {
        let bytes = &self.up.bytes()[self.up_ready..];
        bytes.get(..frame.len).ok_or(Scanned::Needs(frame.len))
    }

    pub(super) fn on_parse(&mut self, guest: &mut Guest, frame: Frame) -> Result<Option<Scanned>, Ending> {
        let front = &self.up.bytes()[self.up_ready..];
        if frame.len <= HEADER_BYTES {
            return Err(violation(wire::FormatError::Truncated));
        }
        let Some(named) = frontend::parse_is_named(front) else {
            return Ok(Some(Scanned::Needs(front.len() + 1)));
        };
        if !named || guest.rules.max_prepared == 0 {
            self.forward_expecting(guest, frame, Expected::Parse(Answer::Forward, Undo::None));
            return Ok(None);
        }
        if frame.len > MAX_SHARED_PARSE_BYTES {
            return Err(Ending::Fault(faults::statement_too_long(MAX_SHARED_PARSE_BYTES)));
        }
        if self.must_send_first() {
            return Ok(Some(Scanned::Sendable));
        }
        let message = match self.whole(frame) {
            Ok(message) => message,
            Err(scanned) => return Ok(Some(scanned)),
        };
        let parse = frontend::parse(message).map_err(violation)?;
        let statement = guest.pool.context.statements.intern(parse.body);
        let name: Box<[u8]> = parse.name.into();
        guest.pool.stats.count(|t| t.client_parses += 1);
        self.discard_message(frame);
        self.start_clock(guest);
        if guest.names.get(&name).is_some() {
            // The name is in use. The server says so in its own words when it gets its name for this text twice;
            // should it not have the text after all, it now has the right one.
            self.ensure_prepared(guest, &statement);
            rewrite::parse(self.up_head.buffer(), &statement.name, &statement.body);
            self.answers.push(Expected::Parse(Answer::Forward, Undo::None));
            return Ok(None);
        }
        if !guest.names.has_room_for(&statement) {
            return Err(Ending::Fault(faults::too_many_statements()));
        }
        guest.names.insert(&name, statement.clone());
        guest.info.prepared_count.set(guest.names.len() as u32);
        if self.is_prepared(&statement) {
            self.answers.push(Expected::Parse(Answer::Fake, Undo::Name(name, None)));
        } else {
            self.add_to_server(guest, &statement);
            let undo = Undo::NameAndPrepared(name, None, statement.id);
            self.answers.push(Expected::Parse(Answer::Forward, undo));
        }
        Ok(None)
    }

    fn is_prepared(&mut self, statement: &Statement) -> bool {
        self.link.server().is_some_and(|linked| linked.server.prepared.touch(statement.id))
    }

    /// Puts a Parse for the server behind what is to be sent, and before it a Close if the server has enough.
    fn add_to_server(&mut self, guest: &mut Guest, statement: &Rc<Statement>) {
        let limit = guest.rules.max_prepared as usize;
        let Some(linked) = self.link.server() else { return };
        let evicted = linked.server.prepared.evict(limit);
        linked.server.prepared.insert(statement.clone());
        linked.server.info.prepared_count.set(linked.server.prepared.len());
        if let Some(evicted) = evicted {
            rewrite::close_statement(self.up_head.buffer(), &evicted.name);
            self.answers.push(Expected::Close(Answer::Skip, Undo::Closed(evicted)));
        }
        rewrite::parse(self.up_head.buffer(), &statement.name, &statement.body);
        guest.pool.stats.count(|t| t.server_parses += 1);
    }

    /// Sees to it that the server has the statement before the message that names it.
    fn ensure_prepared(&mut self, guest: &mut Guest, statement: &Rc<Statement>) {
        if !self.is_prepared(statement) {
            self.add_to_server(guest, statement);
            self.answers.push(Expected::Parse(Answer::Skip, Undo::Prepared(statement.id)));
        }
    }

    pub(super) fn on_bind(&mut self, guest: &mut Guest, frame: Frame) -> Result<Option<Scanned>, Ending> {
        if guest.names.is_empty() {
            guest.pool.stats.count(|t| t.binds += 1);
            self.forward_expecting(guest, frame, Expected::Bind);
            return Ok(None);
        }
        let front = &self.up.bytes()[self.up_ready..];
        let Some(head) = frontend::bind_head(front, frame.len).map_err(violation)? else {
            return Ok(Some(Scanned::Needs(front.len() + 1)));
        };
        // The unnamed statement, and names we do not know, are the server's to judge.
        let Some(statement) = guest.names.get(head.statement).cloned() else {
            guest.pool.stats.count(|t| t.binds += 1);
            self.forward_expecting(guest, frame, Expected::Bind);
            return Ok(None);
        };
        if self.must_send_first() {
            return Ok(Some(Scanned::Sendable));
        }
        guest.pool.stats.count(|t| t.binds += 1);
        self.spill_upstream();
        self.start_clock(guest);
        self.ensure_prepared(guest, &statement);
        let front = self.up.bytes();
        let Some(head) = frontend::bind_head(front, frame.len).map_err(violation)? else {
            return Ok(Some(Scanned::Needs(front.len() + 1)));
        };
        rewrite::bind(self.up_head.buffer(), &head, frame.len, &statement.name);
        let head_len = head.head_len;
        self.answers.push(Expected::Bind);
        // The head is replaced, the values go on as they are, however many bytes they have.
        self.up_scanner.consume(frame, head_len);
        self.up.consume(head_len);
        self.up_discard_tail = false;
        Ok(None)
    }

    /// The Describe or Close at the front, if it is there as a whole.
    fn named(&self, frame: Frame) -> Result<Result<Named<'_>, Scanned>, Ending> {
        if frame.len > MAX_NAMED_BYTES {
            return Err(violation(wire::FormatError::NameTooLong));
        }
        match self.whole(frame) {
            Ok(message) => Ok(Ok(frontend::named(message).map_err(violation)?)),
            Err(scanned) => Ok(Err(scanned)),
        }
    }

    pub(super) fn on_describe(&mut self, guest: &mut Guest, frame: Frame) -> Result<Option<Scanned>, Ending> {
        let named = match self.named(frame)? {
            Ok(named) => named,
            Err(scanned) => return Ok(Some(scanned)),
        };
        let known = match named.target {
            Target::Statement => guest.names.get(named.name).cloned(),
            Target::Portal => None,
        };
        let Some(statement) = known else {
            self.forward_expecting(guest, frame, Expected::Describe);
            return Ok(None);
        };
        if let Some(scanned) = self.discard_message(frame) {
            return Ok(Some(scanned));
        }
        self.ensure_prepared(guest, &statement);
        rewrite::describe_statement(self.up_head.buffer(), &statement.name);
        self.answers.push(Expected::Describe);
        Ok(None)
    }

    pub(super) fn on_close(&mut self, guest: &mut Guest, frame: Frame) -> Result<Option<Scanned>, Ending> {
        let named = match self.named(frame)? {
            Ok(named) => named,
            Err(scanned) => return Ok(Some(scanned)),
        };
        let ours = named.target == Target::Statement && guest.names.get(named.name).is_some();
        if !ours {
            self.forward_expecting(guest, frame, Expected::Close(Answer::Forward, Undo::None));
            return Ok(None);
        }
        if self.must_send_first() {
            return Ok(Some(Scanned::Sendable));
        }
        let name: Box<[u8]> = named.name.into();
        self.discard_message(frame);
        // Only the client forgets it: the server keeps it for the next one.
        let before = guest.names.remove(&name);
        guest.info.prepared_count.set(guest.names.len() as u32);
        self.answers.push(Expected::Close(Answer::Fake, Undo::Name(name, before)));
        Ok(None)
    }
}
