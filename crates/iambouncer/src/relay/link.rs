//! The tie between a client and a server. Owns the state of one link: which server, and what it was last heard to be
//! doing.

use crate::pool::{Pool, Waiter};
use crate::server::Server;
use std::rc::Rc;
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
