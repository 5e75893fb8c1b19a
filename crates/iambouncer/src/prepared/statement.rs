//! Statements by their text. Owns the table of all texts in use on this worker and the names servers know them by.

use std::borrow::Borrow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names that servers see begin like this. A client's own statement of such a name is none of ours.
const NAME_PREFIX: &str = "iamb_";
/// Texts that nobody uses any more are dropped when this many were added since the last look.
const SWEEP_EVERY: usize = 1024;
/// The same, when this many bytes of text were added.
const SWEEP_EVERY_BYTES: usize = 32 * 1024 * 1024;

/// Process-wide, so that a name stays right when a server moves between workers.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A statement as servers know it.
pub struct Statement {
    /// Unique in this process.
    pub id: u64,
    /// Name on servers.
    pub name: Box<[u8]>,
    /// Query text with its zero, and parameter types: see [`wire::frontend::Parse::body`].
    pub body: Box<[u8]>,
}

/// Compares and hashes by body, so that a table of statements can be searched with the bytes of a message.
struct ByBody(Rc<Statement>);

impl Borrow<[u8]> for ByBody {
    fn borrow(&self) -> &[u8] {
        &self.0.body
    }
}

impl Hash for ByBody {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.body.hash(state);
    }
}

impl PartialEq for ByBody {
    fn eq(&self, other: &Self) -> bool {
        self.0.body == other.0.body
    }
}

impl Eq for ByBody {}

/// All statements in use on this worker.
#[derive(Default)]
pub struct Interner {
    table: RefCell<HashSet<ByBody>>,
    added: Cell<usize>,
    added_bytes: Cell<usize>,
}

impl Interner {
    /// The statement of this body: the one that is known, or a new one.
    pub fn intern(&self, body: &[u8]) -> Rc<Statement> {
        let mut table = self.table.borrow_mut();
        if let Some(known) = table.get(body) {
            return known.0.clone();
        }
        self.added.set(self.added.get() + 1);
        self.added_bytes.set(self.added_bytes.get() + body.len());
        if self.added.get() > SWEEP_EVERY || self.added_bytes.get() > SWEEP_EVERY_BYTES {
            table.retain(|entry| Rc::strong_count(&entry.0) > 1);
            self.added.set(0);
            self.added_bytes.set(0);
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}{id}").into_bytes().into();
        let statement = Rc::new(Statement { id, name, body: body.into() });
        table.insert(ByBody(statement.clone()));
        statement
    }

    /// Number of texts held.
    pub fn len(&self) -> usize {
        self.table.borrow().len()
    }

    /// True when no text is held.
    pub fn is_empty(&self) -> bool {
        self.table.borrow().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_text_decides() {
        let interner = Interner::default();
        let a = interner.intern(b"SELECT 1\0\0\0");
        let b = interner.intern(b"SELECT 1\0\0\0");
        let c = interner.intern(b"SELECT 1\0\0\x01\0\0\0\x17");
        assert!(Rc::ptr_eq(&a, &b));
        assert_ne!(a.id, c.id);
    }

    #[test]
    fn unused_texts_are_dropped() {
        let interner = Interner::default();
        let kept = interner.intern(b"kept\0\0\0");
        for i in 0..=SWEEP_EVERY {
            interner.intern(format!("{i}\0\0\0").as_bytes());
        }
        assert!(interner.len() <= 3, "{}", interner.len());
        assert!(Rc::ptr_eq(&kept, &interner.intern(b"kept\0\0\0")));
    }
}
