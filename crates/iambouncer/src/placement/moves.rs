//! Which clients of one worker move. Owns the order under which clients move at the end of a request, and how many are
//! on their way; the decision for each client is made once per order.

use super::{FULL_LOAD, Relief};
use crate::limits::{Counter, Permit};
use std::cell::Cell;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

/// How long an order is in force: every active client ends a request in this time, nearly always.
const ORDER_TTL: Duration = Duration::from_millis(20);
/// Clients that may be on their way from one worker at the same time.
const MAX_UNDER_WAY: u32 = 256;

/// The place of a client at the worker that it moves to.
pub struct MoveTicket {
    pub(super) place: Permit,
    pub(super) _moving: Permit,
}

impl MoveTicket {
    /// The client is in the table of its new worker, where this is its place.
    pub fn arrive(self) -> Permit {
        self.place
    }
}

/// Which clients move.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// None.
    None,
    /// A part of those that are active.
    Part {
        relief: Relief,
        until: Instant,
        /// Makes the choice another one each time.
        salt: u64,
        /// The first client that ended a request: it stays, since with a single client there is nothing to divide.
        first: Option<u64>,
    },
    /// The worker has left: all that become active.
    All,
    /// Every client moves after every request, so that tests run under moves.
    #[cfg(debug_assertions)]
    Always {
        /// The worker to which they move.
        to: usize,
    },
}

/// The moves from one worker.
pub struct Moves {
    /// Read at the end of every turn of a session.
    is_open: Cell<bool>,
    /// Read whenever a server becomes idle.
    is_for_all: Cell<bool>,
    order: Cell<Order>,
    /// Identifies the order, so that each pool counts for one.
    number: Cell<u32>,
    under_way: Counter,
    random: foldhash::fast::RandomState,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            is_open: Cell::new(false),
            is_for_all: Cell::new(false),
            order: Cell::new(Order::None),
            number: Cell::new(0),
            under_way: Counter::default(),
            random: foldhash::fast::RandomState::default(),
        }
    }
}

impl Moves {
    /// True while clients move.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.is_open.get()
    }

    /// True if all clients that become active move, since the worker has left.
    #[inline]
    pub fn are_for_all(&self) -> bool {
        self.is_for_all.get()
    }

    /// From now on every client moves to this worker after every request.
    #[cfg(debug_assertions)]
    pub fn begin_always(&self, to: usize) {
        self.begin(Order::Always { to });
    }

    #[cfg(debug_assertions)]
    fn is_always(&self) -> bool {
        matches!(self.order.get(), Order::Always { .. })
    }

    #[cfg(not(debug_assertions))]
    fn is_always(&self) -> bool {
        false
    }

    fn begin(&self, order: Order) {
        if self.is_always() {
            return;
        }
        self.number.set(self.number.get().wrapping_add(1));
        self.order.set(order);
        self.is_open.set(!matches!(order, Order::None));
        self.is_for_all.set(matches!(order, Order::All));
    }

    /// A part of the active clients moves.
    pub fn begin_part(&self, relief: Relief, now: Instant) {
        let until = now + ORDER_TTL;
        self.begin(Order::Part { relief, until, salt: u64::from(self.number.get()), first: None });
    }

    /// All clients move as they become active.
    pub fn begin_all(&self) {
        if !self.are_for_all() {
            self.begin(Order::All);
        }
    }

    /// The worker is active again, and its clients stay.
    pub fn end(&self) {
        self.begin(Order::None);
    }

    /// The number of the current order.
    pub fn number(&self) -> u32 {
        self.number.get()
    }

    /// The part of the servers that moves with the clients, of [`FULL_LOAD`].
    pub fn share(&self) -> u32 {
        match self.order.get() {
            Order::None => 0,
            Order::Part { relief, .. } => relief.share,
            Order::All => FULL_LOAD,
            #[cfg(debug_assertions)]
            Order::Always { .. } => FULL_LOAD,
        }
    }

    /// The worker to which a client moves that has just ended a request; `any` is asked for one if this worker has left.
    pub fn destination(&self, client: u64, now: Instant, any: impl FnOnce() -> usize) -> Option<usize> {
        match self.order.get() {
            Order::None => None,
            Order::All => Some(any()),
            #[cfg(debug_assertions)]
            Order::Always { to } => Some(to),
            Order::Part { until, .. } if now >= until => {
                self.end();
                None
            }
            Order::Part { relief, until, salt, first: None } => {
                self.order.set(Order::Part { relief, until, salt, first: Some(client) });
                None
            }
            Order::Part { relief, salt, first: Some(first), .. } => {
                let drawn = self.random.hash_one((client, salt)) % u64::from(FULL_LOAD);
                (first != client && drawn < u64::from(relief.share)).then_some(relief.to)
            }
        }
    }

    /// A client leaves; counted until the permit is dropped. `None` if too many are on their way.
    pub fn begin_one(&self) -> Option<Permit> {
        self.under_way.take(Some(MAX_UNDER_WAY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELIEF: Relief = Relief { to: 1, share: 500, joins: true };

    fn destination(moves: &Moves, client: u64, now: Instant) -> Option<usize> {
        moves.destination(client, now, || 7)
    }

    #[test]
    fn about_the_share_of_the_clients_moves_and_each_is_decided_once() {
        let (moves, now) = (Moves::default(), Instant::now());
        assert!(!moves.is_open());
        moves.begin_part(RELIEF, now);
        let moved = (1..=1000).filter(|client| destination(&moves, *client, now) == Some(1)).count();
        assert!((400..600).contains(&moved), "{moved} of 1000");
        let again = (1..=1000).filter(|client| destination(&moves, *client, now) == Some(1)).count();
        assert_eq!(moved, again);
        assert_eq!(destination(&moves, 5, now + ORDER_TTL), None);
        assert!(!moves.is_open(), "an order expires");
    }

    #[test]
    fn a_single_client_stays() {
        let (moves, now) = (Moves::default(), Instant::now());
        for _ in 0..20 {
            moves.begin_part(Relief { share: FULL_LOAD, ..RELIEF }, now);
            assert!((0..3).all(|_| destination(&moves, 9, now).is_none()));
        }
    }

    #[test]
    fn all_clients_of_a_worker_that_has_left_move() {
        let (moves, now) = (Moves::default(), Instant::now());
        moves.begin_all();
        assert!((1..9).all(|client| destination(&moves, client, now) == Some(7)));
        moves.end();
        assert!(!moves.is_open() && destination(&moves, 1, now).is_none());
    }

    #[test]
    fn the_number_of_clients_on_their_way_is_bounded() {
        let moves = Moves::default();
        let permits: Vec<_> = (0..).map_while(|_| moves.begin_one()).collect();
        assert_eq!(permits.len(), MAX_UNDER_WAY as usize);
    }
}
