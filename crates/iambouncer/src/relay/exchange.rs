//! A request and its answers under way: what a session needs beyond its client while something is going on. Owns that
//! state and the thread's stock of it, so that neither an idle client keeps one nor a query allocates one.

use super::head::Head;
use super::link::Link;
use super::retry::Retry;
use super::session::{ClientSession, CloseReason};
use crate::answers::ExpectedAnswers;
use crate::config::PoolMode;
use crate::net::Inbound;
use crate::pool::SessionRules;
use crate::prepared::{ClientNames, Effect};
use crate::worker::executor;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use wire::scan::{FROM_CLIENT, FROM_SERVER, Scanner};

/// Turns of read-and-send in both directions before other tasks get theirs.
const MAX_ROUNDS_PER_TURN: usize = 4;
/// Exchanges kept for the next clients that need one: as many as can begin in one turn of the worker.
const MAX_KEPT: usize = 256;

thread_local! {
    #[expect(clippy::vec_box, reason = "they are lent and given back in their boxes")]
    static STOCK: RefCell<Vec<Box<Exchange>>> = const { RefCell::new(Vec::new()) };
}

/// What is going on between a client and the servers. It begins with the first byte of a request and is over when
/// nothing is owed, half said or half sent in either direction and no server is held.
pub(super) struct Exchange {
    /// What holds until the server is released.
    pub(super) rules: Rc<SessionRules>,
    pub(super) link: Link,
    /// What the server owes.
    pub(super) answers: ExpectedAnswers,
    /// What the server said against our SET.
    pub(super) internal_query_error: Option<Vec<u8>>,
    /// A request of the client is held back until our SET is answered.
    pub(super) holds_request: bool,
    /// What the unnamed portal may do when it is executed.
    pub(super) unnamed_portal: Effect,
    /// The same for all named portals together.
    pub(super) named_portals: Effect,
    /// The batch under way, in case it has to be sent again.
    pub(super) retry: Retry,
    /// A Flush of ours is due at the next end of a message.
    pub(super) flush_due: bool,
    /// It was sent for answers that the client waits for.
    pub(super) awaited_flush_sent: bool,
    /// It was sent because too many answers were owed, and the server has said nothing since.
    pub(super) swamped_flush_sent: bool,
    /// Bytes sent since the server has said something.
    pub(super) unanswered_bytes: usize,
    /// The client's batch was refused here and is discarded up to its Sync.
    pub(super) refused_batch: bool,
    /// Names that the client has given up by DISCARD ALL or DEALLOCATE ALL, for messages that name them still.
    pub(super) dropped_names: ClientNames,
    /// The transaction has changed the schema.
    pub(super) changed_schema: bool,
    /// The server sent what nobody asked for: it must never be used again.
    pub(super) is_out_of_step: bool,

    /// The client was asked for bytes by this task, which it wakes when some come.
    pub(super) listens_to_client: bool,
    /// From the client, not sent on yet.
    pub(super) up: Inbound,
    pub(super) up_scanner: Scanner,
    /// Bytes at the front of `up` that go to the server as they are.
    pub(super) up_ready: usize,
    /// Bytes that go to the server before those.
    pub(super) up_head: Head,
    /// The rest of the client's current message is not sent on.
    pub(super) up_discard_tail: bool,

    /// From the server, not sent on yet.
    pub(super) down: Inbound,
    pub(super) down_scanner: Scanner,
    /// Bytes at the front of `down` that go to the client as they are.
    pub(super) down_ready: usize,
    /// Bytes that go to the client before those.
    pub(super) down_head: Head,
    /// The rest of the server's current message is not sent on.
    pub(super) down_discard_tail: bool,
    /// A FATAL of the server is on its way to the client.
    pub(super) saw_fatal: bool,
}

impl Exchange {
    /// One at its beginning, from the stock if there is one.
    pub(super) fn lend(rules: &Rc<SessionRules>) -> Box<Self> {
        let Some(mut exchange) = STOCK.with_borrow_mut(Vec::pop) else {
            return Box::new(Self::new(rules.clone()));
        };
        exchange.listens_to_client = false;
        // They were the last client's.
        if !Rc::ptr_eq(&exchange.rules, rules) {
            exchange.rules = rules.clone();
        }
        let max_message_bytes = rules.max_message_bytes;
        exchange.up_scanner = Scanner::new(&FROM_CLIENT, max_message_bytes);
        exchange.down_scanner = Scanner::new(&FROM_SERVER, max_message_bytes);
        exchange
    }

    fn new(rules: Rc<SessionRules>) -> Self {
        let max_message_bytes = rules.max_message_bytes;
        Self {
            rules,
            link: Link::None,
            answers: ExpectedAnswers::default(),
            internal_query_error: None,
            holds_request: false,
            unnamed_portal: Effect::None,
            named_portals: Effect::None,
            retry: Retry::default(),
            flush_due: false,
            awaited_flush_sent: false,
            swamped_flush_sent: false,
            unanswered_bytes: 0,
            refused_batch: false,
            dropped_names: ClientNames::default(),
            changed_schema: false,
            is_out_of_step: false,
            listens_to_client: false,
            up: Inbound::default(),
            up_scanner: Scanner::new(&FROM_CLIENT, max_message_bytes),
            up_ready: 0,
            up_head: Head::default(),
            up_discard_tail: false,
            down: Inbound::default(),
            down_scanner: Scanner::new(&FROM_SERVER, max_message_bytes),
            down_ready: 0,
            down_head: Head::default(),
            down_discard_tail: false,
            saw_fatal: false,
        }
    }

    /// Takes over rules that RELOAD or SET has changed.
    #[inline]
    pub(super) fn refresh_rules(&mut self, session: &mut ClientSession) {
        if let Some(rules) = session.pool.changed_session_rules(&self.rules) {
            let before = std::mem::replace(&mut self.rules, rules);
            if before.mode == PoolMode::Session && self.rules.mode != PoolMode::Session {
                // Its text was not kept, and its server goes.
                session.unnamed = None;
            }
        }
    }

    /// Puts one that is over back into the stock.
    pub(super) fn give_back(self: Box<Self>) {
        debug_assert!(self.is_over());
        let _ = STOCK.try_with(|stock| {
            let mut stock = stock.borrow_mut();
            if stock.len() < MAX_KEPT {
                stock.push(self);
            }
        });
    }

    /// True when nothing of it matters to what comes next, so that another client can go on with it. What the
    /// discard flags say is of the message before.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.link, Link::None)
            && self.up.is_empty()
            && self.up_head.is_empty()
            && self.up_scanner.at_boundary()
            && self.down.is_empty()
            && self.down_head.is_empty()
            && self.down_scanner.at_boundary()
            && self.answers.is_fresh()
            && self.internal_query_error.is_none()
            && !self.holds_request
            && !self.refused_batch
            && !self.saw_fatal
            && !self.is_out_of_step
    }

    /// What was noted of a link that has ended means nothing for the next.
    pub(super) fn forget_link(&mut self) {
        self.unnamed_portal = Effect::None;
        self.named_portals = Effect::None;
        self.retry.forget();
        self.flush_due = false;
        self.awaited_flush_sent = false;
        self.swamped_flush_sent = false;
        self.unanswered_bytes = 0;
        self.changed_schema = false;
        self.dropped_names = ClientNames::default();
    }

    /// No server is held and the client has sent nothing that has not been looked at.
    #[inline]
    fn is_idle(&self, session: &ClientSession) -> bool {
        matches!(self.link, Link::None)
            && self.up.is_empty()
            && self.down_head.is_empty()
            && self.down.is_empty()
            && !session.client.has_pending_input()
    }

    /// Reads the client, reads the server, and again while there is progress.
    pub(super) fn turn(&mut self, session: &mut ClientSession, cx: &mut Context<'_>) -> Poll<CloseReason> {
        for _ in 0..MAX_ROUNDS_PER_TURN {
            if let Some(error) = session.info.take_kill() {
                return Poll::Ready(CloseReason::Error(error));
            }
            let up = self.poll_upstream(session, cx);
            if let Poll::Ready(Err(reason)) = up {
                return Poll::Ready(reason);
            }
            let down = self.poll_downstream(session, cx);
            if let Poll::Ready(Err(reason)) = down {
                return Poll::Ready(reason);
            }
            if up.is_pending() && (down.is_pending() || self.is_idle(session)) {
                return Poll::Pending;
            }
        }
        // More to do, but not at the expense of the others.
        executor::wake(executor::current());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::ExpectedAnswer;

    #[test]
    fn an_exchange_is_lent_again_as_new() {
        let rules = |max_message_bytes| {
            let mode = PoolMode::Transaction;
            Rc::new(SessionRules { mode, max_prepared: 0, max_message_bytes, always_reset: false })
        };
        let mut exchange = Exchange::lend(&rules(100));
        exchange.up.append(b"request");
        exchange.answers.push(ExpectedAnswer::QUERY);
        assert!(!exchange.is_over());
        exchange.up.clear();
        assert!(!exchange.is_over());
        exchange.answers.ready().unwrap();
        assert!(exchange.is_over());
        let first = std::ptr::from_ref(&*exchange);
        exchange.give_back();
        let mut again = Exchange::lend(&rules(5));
        assert!(std::ptr::eq(first, &*again) && again.is_over());
        assert!(again.up_scanner.next(b"Q\0\0\0\x09").is_err(), "the limit is the new client's");
    }
}
