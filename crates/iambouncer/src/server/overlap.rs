//! The time in which a server and its replacement are both open. Owns how far the replacement is, and then the place
//! above the pool's size; when a replacement logs in is decided by the pool.

use crate::limits::Permit;
use std::cell::RefCell;

/// How far the replacement of an old server is.
#[derive(Default)]
enum OverlapState {
    /// No replacement logs in while this server is open.
    #[default]
    None,
    /// The replacement is logging in; until then the old server stays with its worker.
    LoginUnderWay,
    /// The replacement has logged in. The old server has the place above the pool's size until it is closed.
    Replaced { _place: Permit },
}

/// The old server's side of its replacement.
#[derive(Default)]
pub struct Overlap(RefCell<OverlapState>);

impl Overlap {
    /// A replacement begins to log in.
    pub fn begin(&self) {
        self.0.replace(OverlapState::LoginUnderWay);
    }

    /// The replacement has logged in; this server takes the place above the pool's size.
    pub fn complete(&self, place: Permit) {
        self.0.replace(OverlapState::Replaced { _place: place });
    }

    /// The login has ended; unless it was completed, there is no replacement.
    pub fn end_login(&self) {
        if self.is_login_under_way() {
            self.0.replace(OverlapState::None);
        }
    }

    /// True while the replacement is logging in.
    pub fn is_login_under_way(&self) -> bool {
        matches!(*self.0.borrow(), OverlapState::LoginUnderWay)
    }

    /// True if nothing has begun.
    pub fn is_none(&self) -> bool {
        matches!(*self.0.borrow(), OverlapState::None)
    }
}
