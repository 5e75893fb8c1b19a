//! Shared statements on the client's current server. Owns what is sent so that the server has a statement before a
//! message names it, and when that has to wait.

use super::exchange::Exchange;
use super::link::Link;
use super::session::ClientSession;
use crate::answers::{Answer, ExpectedAnswer, StateChange};
use crate::prepared::effect::ends_transaction;
use crate::prepared::{MAX_EVICTED, Statement};
use std::rc::Rc;
use wire::backend::TxStatus;
use wire::rewrite;

impl Exchange {
    /// True if the transaction has failed and the statement does not end it.
    pub(super) fn is_refused_by_transaction(&self, statement: &Statement) -> bool {
        matches!(&self.link, Link::Server(linked) if linked.status == TxStatus::Failed)
            && !ends_transaction(&statement.body)
    }

    /// True while outstanding answers of an earlier batch decide whether the server has this statement, or one that
    /// would be evicted for it.
    pub(super) fn must_await(&self, statement: &Statement) -> bool {
        if !self.answers.is_anything_unsettled() {
            return false;
        }
        let Link::Server(linked) = &self.link else { return false };
        self.answers.is_statement_unsettled(statement.id)
            || (linked.server.prepared.version(statement.id).is_none()
                && linked
                    .server
                    .prepared
                    .next_evicted(self.statement_limit())
                    .any(|id| self.answers.is_statement_unsettled(id)))
    }

    /// True when the server has prepared the statement and the schema has not changed since.
    pub(super) fn has_current(&mut self, session: &ClientSession, statement: &Statement) -> bool {
        let Link::Server(linked) = &mut self.link else { return false };
        let prepared = &mut linked.server.prepared;
        prepared.touch(statement.id) && prepared.version(statement.id) == Some(session.pool.schema_version())
    }

    /// Maximum number of statements on one server.
    fn statement_limit(&self) -> usize {
        (self.rules.max_prepared as usize).max(1)
    }

    pub(super) fn is_on_server(&self, statement: &Statement) -> bool {
        matches!(&self.link, Link::Server(linked) if linked.server.prepared.version(statement.id).is_some())
    }

    #[inline]
    pub(super) fn is_prepared(&mut self, statement: &Statement) -> bool {
        self.link.server().is_some_and(|linked| linked.server.prepared.touch(statement.id))
    }

    /// Adds a Parse for the server, preceded by a Close if the server is at its limit or may have another statement
    /// under the name.
    pub(super) fn add_to_server(&mut self, session: &mut ClientSession, statement: &Rc<Statement>) {
        let Some(linked) = self.link.server() else { return };
        let prepared = &linked.server.prepared;
        if prepared.version(statement.id).is_some() || prepared.is_uncertain(statement.id) {
            rewrite::close_statement(self.up.insert(), &statement.name);
            self.answers.push(ExpectedAnswer::Close(Answer::Skip));
        } else {
            self.make_room_on_server();
        }
        let Some(linked) = self.link.server() else { return };
        linked.server.prepared.insert(statement.clone(), session.pool.schema_version());
        linked.server.info.prepared_count.set(linked.server.prepared.len());
        rewrite::parse(self.up.insert(), &statement.name, &statement.body);
        session.pool.stats.count(|t| t.server_parses += 1);
    }

    /// Closes statements until there is room for one more: several if the limit was reduced.
    fn make_room_on_server(&mut self) {
        let limit = self.statement_limit();
        for _ in 0..MAX_EVICTED {
            let evicted = self.link.server().and_then(|linked| linked.server.prepared.evict(limit));
            let Some(evicted) = evicted else { return };
            rewrite::close_statement(self.up.insert(), &evicted.name);
            self.answers.push(ExpectedAnswer::Close(Answer::Skip).with(StateChange::Closed(evicted)));
        }
    }

    /// Makes sure that the server has the statement before a message names it. True if the server already had it.
    pub(super) fn ensure_prepared(&mut self, session: &mut ClientSession, statement: &Rc<Statement>) -> bool {
        let was_prepared = self.is_prepared(statement);
        if !was_prepared {
            self.prepare(session, statement);
        }
        was_prepared
    }

    /// Prepares the statement on the server, again if it has it.
    pub(super) fn prepare(&mut self, session: &mut ClientSession, statement: &Rc<Statement>) {
        self.add_to_server(session, statement);
        self.answers.push(ExpectedAnswer::Parse(Answer::Skip).with(StateChange::Prepared(statement.id)));
    }
}
