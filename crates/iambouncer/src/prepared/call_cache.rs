//! What a statement changes by calling functions, as it was determined last. Owns the cached value; what it is, the
//! database's functions decide.

use sql::SessionChanges;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// The effect of a statement's calls in one version of the functions of one database.
#[derive(Default)]
pub struct CallCache {
    version: Cell<u64>,
    changes: RefCell<Option<Rc<SessionChanges>>>,
}

impl CallCache {
    /// The effect in this version, which is not 0; determined by `make` if it is not that of the last call.
    pub fn get(
        &self,
        version: u64,
        make: impl FnOnce() -> Option<Rc<SessionChanges>>,
    ) -> Option<Rc<SessionChanges>> {
        if self.version.replace(version) != version {
            let changes = make();
            self.changes.replace(changes);
        }
        self.changes.borrow().clone()
    }
}
