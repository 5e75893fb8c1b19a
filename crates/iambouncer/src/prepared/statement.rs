//! Statements by their text. Owns the table of all texts in use and the names servers know them by: one table for the
//! process, behind a lock, and in front of it one for each worker, which is all that is looked at once a text is known.

use super::effect::Effect;
use super::interned::{ByBody, HasBody, InternTable, SweepTimer};
use std::collections::HashSet;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Names that servers see begin like this. A client's own statement of such a name is none of ours.
pub const NAME_PREFIX: &str = "iamb_";

/// A text and the name it has on all servers, whichever worker holds them.
pub struct Text {
    /// Unique in this process.
    pub id: u64,
    /// Name on servers.
    pub name: Box<[u8]>,
    /// Query text with its zero, and parameter types: see [`wire::frontend::Parse::body`]. Empty for a private text.
    pub body: Box<[u8]>,
    /// What it may do.
    pub effect: Effect,
}

/// A statement as one worker uses it: cheap to share there, without touching what other workers touch.
pub struct Statement(Arc<Text>);

impl Deref for Statement {
    type Target = Text;

    fn deref(&self) -> &Text {
        &self.0
    }
}

impl Statement {
    /// Its text is not kept: see [`Interner::private`].
    pub fn is_private(&self) -> bool {
        self.0.body.is_empty()
    }

    /// The part that can go to another worker.
    pub fn text(&self) -> Arc<Text> {
        self.0.clone()
    }
}

impl HasBody for Statement {
    fn body(&self) -> &[u8] {
        &self.body
    }
}

impl HasBody for Text {
    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// All texts of the process.
#[derive(Default)]
struct Texts {
    table: HashSet<ByBody<Arc<Text>>>,
    since_sweep: SweepTimer,
    last_id: u64,
}

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

/// The text of this body: the one that is known, or a new one.
fn text(body: &[u8]) -> Arc<Text> {
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = texts.table.get(body) {
        return known.0.clone();
    }
    if texts.since_sweep.add(body) {
        texts.table.retain(|entry| Arc::strong_count(&entry.0) > 1);
    }
    texts.last_id += 1;
    let id = texts.last_id;
    let text = Arc::new(Text { id, name: server_name(id), body: body.into(), effect: Effect::of(body) });
    texts.table.insert(ByBody(text.clone()));
    text
}

fn server_name(id: u64) -> Box<[u8]> {
    format!("{NAME_PREFIX}{id}").into_bytes().into()
}

/// All statements in use on this worker.
#[derive(Default)]
pub struct Interner(InternTable<Statement>);

impl Interner {
    /// The statement of this body: the one that is known, or a new one.
    pub fn intern(&self, body: &[u8]) -> Rc<Statement> {
        self.0.get_or_add(body, || Statement(text(body)))
    }

    /// A statement that is not shared and whose text is not kept: only the server that was sent it has it.
    pub fn private(effect: Effect) -> Rc<Statement> {
        let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        texts.last_id += 1;
        let id = texts.last_id;
        Rc::new(Statement(Arc::new(Text { id, name: server_name(id), body: Box::default(), effect })))
    }

    /// The statement of a text that comes from another worker.
    pub fn adopt(&self, text: &Arc<Text>) -> Rc<Statement> {
        self.0.get_or_add(&text.body, || Statement(text.clone()))
    }

    /// Number of texts held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when no text is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::interned::SWEEP_EVERY;
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
    fn workers_know_a_text_by_the_same_name() {
        let (one, other) = (Interner::default(), Interner::default());
        let here = one.intern(b"SELECT 'both'\0\0\0");
        assert_eq!(here.id, other.intern(b"SELECT 'both'\0\0\0").id);
        let third = Interner::default();
        assert!(Rc::ptr_eq(&third.adopt(&here.text()), &third.intern(b"SELECT 'both'\0\0\0")));
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
