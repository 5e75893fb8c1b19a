//! A request under way, with its answers: the state that a session needs only while it is active. Owns that state and a
//! thread-local free list, so that idle clients do not hold an exchange and queries do not allocate one.

use super::descriptions::Inspection;
use super::half_duplex::HalfDuplex;
use super::link::Link;
use super::listening::Listening;
use super::retry::Retry;
use super::session::{ClientSession, CloseReason};
use crate::answers::ExpectedAnswers;
use crate::config::PoolMode;
use crate::pool::SessionRules;
use crate::prepared::{ClientNames, Description, Effect};
use crate::worker::executor;
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use wire::scan::{FROM_CLIENT, FROM_SERVER};

/// Rounds of reading and sending in both directions before other tasks get their turn.
const MAX_ROUNDS_PER_TURN: usize = 4;
/// Size of the free list: the number of exchanges that can begin in one turn of the worker.
const MAX_FREE: usize = 256;

thread_local! {
    #[expect(clippy::vec_box, reason = "exchanges are reused in their boxes")]
    static FREE_LIST: RefCell<Vec<Box<Exchange>>> = const { RefCell::new(Vec::new()) };
}

/// What happens to the client's next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestState {
    /// It is sent to the server, or answered.
    Accepted,
    /// It is held back until the server has answered the pooler or what it sent before has been read.
    Held,
    /// The pooler has refused the client's batch: it is discarded up to the Sync.
    Refused,
}

/// A Flush of the pooler, which makes the server send buffered answers of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FlushState {
    /// None is needed.
    None,
    /// It is sent at the next message boundary.
    Due,
    /// It was sent after the last message: another would have no effect.
    Sent,
}

/// The exchange between a client and its servers. It begins with the first byte of a request and is finished when no
/// answer is owed, no message is incomplete or unsent in either direction, and no server is linked.
pub(super) struct Exchange {
    /// Rules in force until the server is released.
    pub(super) rules: Rc<SessionRules>,
    pub(super) link: Link,
    /// What the shared listener does for the client. `None` in [`Link::None`]; boxed, since it is rare.
    pub(super) listening: Option<Box<Listening>>,
    /// Answers that the client or the pooler expects.
    pub(super) answers: ExpectedAnswers,
    /// The server's error for a SET of the pooler.
    pub(super) internal_query_error: Option<Vec<u8>>,
    /// The server has refused the client's values, and was reset.
    pub(super) has_reset_server: bool,
    pub(super) request: RequestState,
    /// What executing the unnamed portal may do.
    pub(super) unnamed_portal: Effect,
    /// The same for all named portals combined.
    pub(super) named_portals: Effect,
    /// The comparison of a description for the next Bind.
    pub(super) inspection: Inspection,
    /// It is the first message of its batch for the server.
    pub(super) inspects_first: bool,
    /// The first part of the description that is being received.
    pub(super) description: Description,
    /// The statement of the unnamed portal, if its result has not been described to the client; otherwise 0.
    pub(super) undescribed: u64,
    /// The current batch, in case it has to be sent again.
    pub(super) retry: Retry,
    pub(super) flush: FlushState,
    /// Bytes sent to the server since its last message.
    pub(super) unanswered_bytes: usize,
    /// Names dropped by DISCARD ALL or DEALLOCATE ALL, for server messages that still mention them.
    pub(super) dropped_names: ClientNames,
    /// The running transaction, if it is exported.
    #[cfg(feature = "otlp")]
    pub(super) trace: Option<Box<super::traced::OpenTrace>>,

    /// This task is registered to be woken when the client sends.
    pub(super) awaits_client_input: bool,
    /// From the client to the server.
    pub(super) up: HalfDuplex,
    /// From the server to the client.
    pub(super) down: HalfDuplex,
}

impl Exchange {
    /// Takes an exchange from the free list, or allocates one.
    pub(super) fn allocate(rules: &Rc<SessionRules>) -> Box<Self> {
        let Some(mut exchange) = FREE_LIST.with_borrow_mut(Vec::pop) else {
            return Box::new(Self::new(rules.clone()));
        };
        exchange.awaits_client_input = false;
        exchange.has_reset_server = false;
        // The rules may be those of another client.
        if !Rc::ptr_eq(&exchange.rules, rules) {
            exchange.rules = rules.clone();
        }
        let max_message_bytes = rules.max_message_bytes;
        exchange.up.restart(&FROM_CLIENT, max_message_bytes);
        exchange.down.restart(&FROM_SERVER, max_message_bytes);
        exchange
    }

    fn new(rules: Rc<SessionRules>) -> Self {
        let max_message_bytes = rules.max_message_bytes;
        Self {
            rules,
            link: Link::None,
            listening: None,
            answers: ExpectedAnswers::default(),
            internal_query_error: None,
            has_reset_server: false,
            request: RequestState::Accepted,
            unnamed_portal: Effect::None,
            named_portals: Effect::None,
            inspection: Inspection::None,
            inspects_first: false,
            description: Description::UNKNOWN,
            undescribed: 0,
            retry: Retry::default(),
            flush: FlushState::None,
            unanswered_bytes: 0,
            dropped_names: ClientNames::default(),
            #[cfg(feature = "otlp")]
            trace: None,
            awaits_client_input: false,
            up: HalfDuplex::new(&FROM_CLIENT, max_message_bytes),
            down: HalfDuplex::new(&FROM_SERVER, max_message_bytes),
        }
    }

    /// Applies rules that RELOAD or SET has changed.
    #[inline]
    pub(super) fn refresh_rules(&mut self, session: &mut ClientSession) {
        if let Some(rules) = session.pool.changed_session_rules(&self.rules) {
            let before = std::mem::replace(&mut self.rules, rules);
            if before.mode == PoolMode::Session && self.rules.mode != PoolMode::Session {
                // Its text was not kept, and its server is released.
                session.unnamed = None;
            }
        }
    }

    /// Returns a finished exchange to the free list.
    pub(super) fn recycle(self: Box<Self>) {
        debug_assert!(self.is_finished());
        debug_assert!(self.listening.is_none(), "a client that listens keeps its exchange");
        #[cfg(feature = "otlp")]
        debug_assert!(self.trace.is_none(), "a trace ends with its transaction");
        let _ = FREE_LIST.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < MAX_FREE {
                free.push(self);
            }
        });
    }

    /// True when no state is left that affects the next request, so that another client can use the exchange.
    pub(super) fn is_finished(&self) -> bool {
        self.is_unlinked()
            && self.up.is_finished()
            && self.down.is_finished()
            && self.answers.is_fresh()
            && self.internal_query_error.is_none()
            && self.request == RequestState::Accepted
    }

    /// True when no server is linked or waited for.
    #[inline]
    pub(super) fn is_unlinked(&self) -> bool {
        matches!(self.link, Link::None)
    }

    /// Clears what was recorded for the previous link.
    pub(super) fn clear_link_state(&mut self) {
        self.unnamed_portal = Effect::None;
        self.named_portals = Effect::None;
        self.forget_descriptions();
        self.retry.clear();
        self.flush = FlushState::None;
        self.unanswered_bytes = 0;
        self.dropped_names = ClientNames::default();
    }

    /// True when no server is linked and the client has sent nothing unexamined.
    #[inline]
    fn is_idle(&self, session: &ClientSession) -> bool {
        self.is_unlinked()
            && self.up.is_empty()
            && self.down.is_empty()
            && !session.client.has_pending_input()
    }

    /// Reads from the client, then from the server, and repeats while there is progress.
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
                return if session.info.needs_attention() {
                    self.attend_at_end(session, cx)
                } else {
                    Poll::Pending
                };
            }
        }
        // There is more to do, but other tasks come first.
        executor::wake(executor::current());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::ExpectedAnswer;
    use crate::net::Inbound;

    #[test]
    fn a_recycled_exchange_has_no_old_state() {
        let rules = |max_message_bytes| {
            let mode = PoolMode::Transaction;
            Rc::new(SessionRules {
                mode,
                max_prepared: 0,
                max_message_bytes,
                follows: false,
                links_in_login: false,
                reads_statements: false,
                refuses_pins: false,
                shares_listener: false,
                verify_every: 0,
                always_reset: false,
                refuses_simple_queries: false,
                forbids_requests: false,
            })
        };
        let received = |bytes: &[u8]| {
            let mut inbound = Inbound::default();
            inbound.append(bytes);
            inbound
        };
        let mut exchange = Exchange::allocate(&rules(100));
        exchange.up.set_received(received(b"request"));
        exchange.answers.push(ExpectedAnswer::QUERY);
        assert!(!exchange.is_finished());
        exchange.up.clear_received();
        assert!(!exchange.is_finished());
        exchange.answers.ready(|_| ()).unwrap();
        assert!(exchange.is_finished());
        let first = std::ptr::from_ref(&*exchange);
        exchange.recycle();
        let mut again = Exchange::allocate(&rules(5));
        assert!(std::ptr::eq(first, &*again) && again.is_finished());
        again.up.set_received(received(b"Q\0\0\0\x09"));
        assert!(again.up.next().is_err(), "the limit is the new client's");
    }
}
