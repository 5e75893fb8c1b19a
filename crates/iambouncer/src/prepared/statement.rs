//! Statements by text. Owns the table of all texts in use and their names on servers: one table for the process, behind
//! a lock, and in front of it one per worker, which is sufficient once a text is known.

use super::call_cache::CallCache;
use super::effect::Effect;
use super::interned::{ByBody, HasBody, InternTable, SweepTimer};
use sql::SessionChanges;
use std::collections::HashSet;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Prefix of statement names on servers. Client names with this prefix are escaped.
pub const NAME_PREFIX: &str = "iamb_";

/// A text and its name on all servers, at every worker.
pub struct Text {
    /// Unique in this process.
    pub id: u64,
    /// Name on servers.
    pub name: Box<[u8]>,
    /// Query text with its zero byte, and parameter types: see [`wire::frontend::Parse::body`]. Empty for a private
    /// text.
    pub body: Box<[u8]>,
    /// Its effect.
    pub effect: Effect,
    /// What it may change in its session.
    pub changes: Option<Box<SessionChanges>>,
    /// The statement that it executes by its name on servers: EXECUTE, EXPLAIN EXECUTE.
    pub executed: Option<Arc<Self>>,
}

/// A worker's handle of a statement: cheap to share there, without touching memory that other workers modify.
pub struct Statement {
    text: Arc<Text>,
    /// What it changes by calling functions.
    pub calls: CallCache,
}

impl Deref for Statement {
    type Target = Text;

    fn deref(&self) -> &Text {
        &self.text
    }
}

impl Statement {
    fn new(text: Arc<Text>) -> Self {
        Self { text, calls: CallCache::default() }
    }

    /// True if its text is not kept: see [`Interner::private`].
    pub fn is_private(&self) -> bool {
        self.text.body.is_empty()
    }

    /// The part that can be passed to another worker.
    pub fn text(&self) -> Arc<Text> {
        self.text.clone()
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

/// The text with this body, created if necessary. If it executes another one, the body has that one's name on servers.
fn text(body: &[u8], executed: Option<&Arc<Text>>) -> Arc<Text> {
    let texts = || TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(existing) = texts().table.get(body) {
        return existing.0.clone();
    }
    // Without the lock, since a text may be long.
    let mut changes = SessionChanges::of(body);
    let mut effect = Effect::of(body);
    if let Some(executed) = executed {
        if let Some(more) = &executed.changes {
            changes.get_or_insert_default().add(more);
        }
        effect = executed.effect;
    }
    let mut texts = texts();
    if let Some(existing) = texts.table.get(body) {
        return existing.0.clone();
    }
    if texts.since_sweep.add(body) {
        texts.table.retain(|entry| Arc::strong_count(&entry.0) > 1);
    }
    texts.last_id += 1;
    let id = texts.last_id;
    let executed = executed.cloned();
    let text = Arc::new(Text { id, name: server_name(id), body: body.into(), effect, changes, executed });
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
    /// The statement with this body, created if necessary.
    pub fn intern(&self, body: &[u8]) -> Rc<Statement> {
        self.0.get_or_add(body, || Statement::new(text(body, None)))
    }

    /// The same for a body that executes another statement by its name on servers.
    pub fn intern_executing(&self, body: &[u8], executed: &Statement) -> Rc<Statement> {
        self.0.get_or_add(body, || Statement::new(text(body, Some(&executed.text))))
    }

    /// A statement that is not shared and whose text is not kept: it exists only on one server.
    pub fn private(effect: Effect) -> Rc<Statement> {
        let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        texts.last_id += 1;
        let id = texts.last_id;
        let changes = Some(Box::new(SessionChanges::unreadable()));
        Rc::new(Statement::new(Arc::new(Text {
            id,
            name: server_name(id),
            body: Box::default(),
            effect,
            changes,
            executed: None,
        })))
    }

    /// The statement for a text from another worker.
    pub fn adopt(&self, text: &Arc<Text>) -> Rc<Statement> {
        if text.body.is_empty() {
            return Rc::new(Statement::new(text.clone()));
        }
        self.0.get_or_add(&text.body, || Statement::new(text.clone()))
    }

    /// Number of texts.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::interned::SWEEP_EVERY;
    use super::*;

    #[test]
    fn statements_are_distinguished_by_full_text() {
        let interner = Interner::default();
        let a = interner.intern(b"SELECT 1\0\0\0");
        let b = interner.intern(b"SELECT 1\0\0\0");
        let c = interner.intern(b"SELECT 1\0\0\x01\0\0\0\x17");
        assert!(Rc::ptr_eq(&a, &b));
        assert_ne!(a.id, c.id);
    }

    #[test]
    fn a_text_has_the_same_name_at_all_workers() {
        let (one, other) = (Interner::default(), Interner::default());
        let first = one.intern(b"SELECT 'both'\0\0\0");
        assert_eq!(first.id, other.intern(b"SELECT 'both'\0\0\0").id);
        let third = Interner::default();
        assert!(Rc::ptr_eq(&third.adopt(&first.text()), &third.intern(b"SELECT 'both'\0\0\0")));
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
