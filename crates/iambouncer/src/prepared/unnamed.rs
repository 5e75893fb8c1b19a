//! The unnamed statement. PostgreSQL keeps it until the next unnamed Parse, so a client may use it in a later batch,
//! which may run on another server. Owns the texts for parsing it again there.

use super::call_cache::CallCache;
use super::effect::Effect;
use super::interned::{HasBody, InternTable};
use sql::SessionChanges;
use std::rc::Rc;

/// Longest unnamed statement that is kept for parsing it again, in bytes. A client with a longer one keeps its server
/// until it parses another.
pub const MAX_KEPT_BYTES: usize = 256 * 1024;

/// The text of an unnamed statement.
pub struct UnnamedText {
    body: Option<Box<[u8]>>,
    /// Its effect.
    pub effect: Effect,
    /// What it may change in its session.
    pub changes: Option<Box<SessionChanges>>,
    /// What it changes by calling functions.
    pub calls: CallCache,
}

impl UnnamedText {
    /// Query text with its zero byte, and parameter types; `None` if it was not kept.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// A statement whose text is not kept, because it is too long or the client keeps its server. It is not equal to
    /// any other.
    pub fn without_body(effect: Effect, changes: Option<Box<SessionChanges>>) -> Rc<Self> {
        Rc::new(Self { body: None, effect, changes, calls: CallCache::default() })
    }
}

/// A client's unnamed statement, if it has one.
pub type Unnamed = Option<Rc<UnnamedText>>;

/// The unnamed statement of a server.
#[derive(Clone, Default)]
pub enum ServerUnnamed {
    /// None.
    #[default]
    None,
    /// This one.
    Text(Rc<UnnamedText>),
    /// Unknown; there may be none.
    Unknown,
    /// That of its client, in session pooling.
    Own,
}

impl ServerUnnamed {
    /// Records what the server has, unless it is that of a client that has the server to itself: then only the server
    /// knows whether a query, a Close or an error has changed it.
    pub fn set_unless_own(&mut self, now: Self) {
        if !matches!(self, Self::Own) {
            *self = now;
        }
    }

    /// True if the server has this text.
    pub fn is(&self, text: &Rc<UnnamedText>) -> bool {
        matches!(self, Self::Text(current) if Rc::ptr_eq(current, text))
    }
}

impl HasBody for UnnamedText {
    fn body(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }
}

/// All texts of unnamed statements on this worker. Equal texts share an allocation.
#[derive(Default)]
pub struct UnnamedTexts(InternTable<UnnamedText>);

impl UnnamedTexts {
    /// The text with this body, created if necessary.
    pub fn intern(&self, body: &[u8]) -> Rc<UnnamedText> {
        let make = || UnnamedText {
            body: Some(body.into()),
            effect: Effect::of(body),
            changes: SessionChanges::of(body),
            calls: CallCache::default(),
        };
        self.0.get_or_add(body, make)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_an_allocation_and_long_texts_do_not() {
        let texts = UnnamedTexts::default();
        let a = texts.intern(b"SELECT 1\0\0\0");
        assert!(Rc::ptr_eq(&a, &texts.intern(b"SELECT 1\0\0\0")));
        assert!(!Rc::ptr_eq(&a, &texts.intern(b"SELECT 2\0\0\0")));
        let long = UnnamedText::without_body(Effect::None, None);
        let server = ServerUnnamed::Text(long.clone());
        assert!(server.is(&long) && !server.is(&UnnamedText::without_body(Effect::None, None)));
    }
}
