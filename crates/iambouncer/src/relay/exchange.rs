//! A request and its answers under way: what a session needs beyond its client while something is going on. Owns that
//! state and the thread's stock of it, so that neither an idle client keeps one nor a query allocates one.

use super::head::Head;
use super::link::Link;
use super::session::{Ending, Guest};
use crate::net::Inbound;
use crate::prepared::{ClientNames, ExpectedAnswers, Undo};
use crate::server::Server;
use crate::worker::executor;
use std::cell::RefCell;
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
    pub(super) link: Link,
    /// What the server owes.
    pub(super) answers: ExpectedAnswers,
    /// What the server said against our SET.
    pub(super) own_query_error: Option<Vec<u8>>,
    /// A request of the client is held back until our SET is answered.
    pub(super) holds_request: bool,

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
    pub(super) fn lend(max_message_bytes: u32) -> Box<Self> {
        let kept = STOCK.with_borrow_mut(Vec::pop);
        let mut exchange = kept.unwrap_or_else(|| Box::new(Self::new(max_message_bytes)));
        // The limit was the last client's.
        exchange.up_scanner = Scanner::new(&FROM_CLIENT, max_message_bytes);
        exchange.down_scanner = Scanner::new(&FROM_SERVER, max_message_bytes);
        exchange
    }

    fn new(max_message_bytes: u32) -> Self {
        Self {
            link: Link::None,
            answers: ExpectedAnswers::default(),
            own_query_error: None,
            holds_request: false,
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
            && self.own_query_error.is_none()
            && !self.holds_request
            && !self.saw_fatal
    }

    /// Reads the client, reads the server, and again while there is progress.
    pub(super) fn turn(&mut self, guest: &mut Guest, cx: &mut Context<'_>) -> Poll<Ending> {
        for _ in 0..MAX_ROUNDS_PER_TURN {
            if let Some(fault) = guest.info.take_kill() {
                return Poll::Ready(Ending::Fault(fault));
            }
            let up = self.poll_upstream(guest, cx);
            if let Poll::Ready(Err(ending)) = up {
                return Poll::Ready(ending);
            }
            let down = self.poll_downstream(guest, cx);
            if let Poll::Ready(Err(ending)) = down {
                return Poll::Ready(ending);
            }
            if up.is_pending() && down.is_pending() {
                return Poll::Pending;
            }
        }
        // More to do, but not at the expense of the others.
        executor::wake(executor::current());
        Poll::Pending
    }

    /// Takes back what was written down for an answer that became an error.
    pub(super) fn undo(names: &mut ClientNames, server: &mut Server, undo: Undo) {
        let mut rename = |name: Box<[u8]>, before| match before {
            Some(statement) => names.insert(&name, statement),
            None => {
                names.remove(&name);
            }
        };
        match undo {
            Undo::None => {}
            Undo::Name(name, before) => rename(name, before),
            Undo::Prepared(id) => server.prepared.remove(id),
            Undo::NameAndPrepared(name, before, id) => {
                rename(name, before);
                server.prepared.remove(id);
            }
            Undo::Closed(statement) => server.prepared.insert(statement),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepared::Expected;

    #[test]
    fn an_exchange_is_lent_again_as_new() {
        let mut exchange = Exchange::lend(100);
        exchange.up.append(b"request");
        exchange.answers.push(Expected::Query);
        assert!(!exchange.is_over());
        exchange.up.clear();
        assert!(!exchange.is_over());
        exchange.answers.ready();
        assert!(exchange.is_over());
        let first = std::ptr::from_ref(&*exchange);
        exchange.give_back();
        let mut again = Exchange::lend(5);
        assert!(std::ptr::eq(first, &*again) && again.is_over());
        assert!(again.up_scanner.next(b"Q\0\0\0\x09").is_err(), "the limit is the new client's");
    }
}
