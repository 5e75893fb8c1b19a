//! Why clients keep their servers although they are outside of transactions. Owns these records of a worker, apart from
//! those of the clients, since nearly no client has one.

use super::ClientInfo;
use sql::Features;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Instant;

thread_local! {
    static PINS: RefCell<HashMap<u64, Pin>> = RefCell::default();
}

/// What has made a client keep its server.
#[derive(Debug, Clone)]
pub struct Pin {
    /// Since when it keeps its server.
    pub since: Instant,
    /// The statement, without values; empty if it is not known.
    pub statement: Box<str>,
}

impl ClientInfo {
    /// State that its server has for it, or may have; it keeps its server while there is any.
    #[inline]
    pub fn pins(&self) -> Features {
        self.pins.get()
    }

    /// Changes this state. `pin` is recorded if there was none before.
    pub fn set_pins(&self, features: Features, pin: impl FnOnce() -> Pin) {
        self.pins.set(features);
        PINS.with_borrow_mut(|pins| {
            if features.is_empty() {
                pins.remove(&self.id);
            } else {
                pins.entry(self.id).or_insert_with(pin);
            }
        });
    }

    /// Why it keeps its server, if it does.
    pub fn pin(&self) -> Option<Pin> {
        if self.pins().is_empty() { None } else { PINS.with_borrow(|pins| pins.get(&self.id).cloned()) }
    }

    /// The names of the features for which it keeps its server.
    pub fn pin_reasons(&self) -> String {
        self.pins().to_string()
    }

    /// The client has left this worker.
    pub(super) fn forget_pin(&self) {
        if !self.pins().is_empty() {
            PINS.with_borrow_mut(|pins| pins.remove(&self.id));
        }
    }
}
