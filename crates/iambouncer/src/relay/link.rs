//! The tie between a client and a server. Owns the state of one link: which server, what it owes, what it was last
//! heard to be doing.

use crate::pool::{Pool, Waiter};
use crate::prepared::ExpectedAnswers;
use crate::server::Server;
use std::rc::Rc;
use std::time::Instant;
use wire::backend::TxStatus;

/// A server that works for a client.
pub(super) struct Linked {
    pub(super) server: Box<Server>,
    /// State in the last ReadyForQuery.
    pub(super) status: TxStatus,
}

/// Whether a client has a server.
pub(super) enum Link {
    /// No, and needs none.
    None,
    /// In the pool's queue.
    Waiting(Rc<Waiter>),
    /// Yes.
    Server(Linked),
}

impl Link {
    #[inline]
    pub(super) fn server(&mut self) -> Option<&mut Linked> {
        match self {
            Self::Server(linked) => Some(linked),
            _ => None,
        }
    }

    pub(super) fn is_linked(&self) -> bool {
        matches!(self, Self::Server(_))
    }
}

/// What is owed on a link, and since when.
#[derive(Default)]
pub(super) struct Owed {
    /// Answers to come.
    pub(super) answers: ExpectedAnswers,
    /// Messages of the extended protocol were sent since the last Sync.
    pub(super) batch_open: bool,
    /// The server discards everything up to the next Sync, and so do we.
    pub(super) skip_to_sync: bool,
    /// Values of the client that no server has accepted yet: the first request waits for the answer to our SET.
    pub(super) own_query_error: Option<Vec<u8>>,
    /// When the link began.
    pub(super) linked_at: Option<Instant>,
}

/// Gives a server up in whatever state it is.
pub(super) fn abandon(pool: &Rc<Pool>, link: Link) {
    match link {
        Link::None => {}
        Link::Waiting(waiter) => {
            if let Some(server) = waiter.leave() {
                pool.give_back(server);
            }
        }
        Link::Server(linked) => pool.discard(linked.server),
    }
}
