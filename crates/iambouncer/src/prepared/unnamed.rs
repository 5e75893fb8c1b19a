//! The unnamed statement. PostgreSQL keeps it until the next unnamed Parse, so a client may use it in a later batch than
//! the one that made it, and that batch may run on another server. Owns the texts from which it is made again there.

use super::effect::Effect;
use super::interned::{HasBody, InternTable};
use std::rc::Rc;

/// Longest unnamed statement that is kept to be made again, in bytes. A client with a longer one keeps its server
/// instead, until it parses another.
pub const MAX_KEPT_BYTES: usize = 256 * 1024;

/// The text of an unnamed statement.
pub struct UnnamedText {
    body: Option<Box<[u8]>>,
    /// What it may do.
    pub effect: Effect,
}

impl UnnamedText {
    /// Query text with its zero, and parameter types; `None` if it was not kept.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// One whose text is not kept: it is too long, or its server is the client's own. It is equal to no other.
    pub fn without_body(effect: Effect) -> Rc<Self> {
        Rc::new(Self { body: None, effect })
    }
}

/// A client's unnamed statement, if it has one.
pub type Unnamed = Option<Rc<UnnamedText>>;

/// What a server has as its unnamed statement.
#[derive(Clone, Default)]
pub enum ServerUnnamed {
    /// None.
    #[default]
    None,
    /// This one.
    Text(Rc<UnnamedText>),
    /// It may have one; which is not known.
    Unknown,
    /// That of the client whose own it is, in session pooling.
    Own,
}

impl ServerUnnamed {
    /// True when the server has this text.
    pub fn is(&self, text: &Rc<UnnamedText>) -> bool {
        matches!(self, Self::Text(here) if Rc::ptr_eq(here, text))
    }
}

impl HasBody for UnnamedText {
    fn body(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }
}

/// All texts of unnamed statements on this worker. Equal texts are the same allocation.
#[derive(Default)]
pub struct UnnamedTexts(InternTable<UnnamedText>);

impl UnnamedTexts {
    /// The text of this body: the one that is known, or a new one.
    pub fn intern(&self, body: &[u8]) -> Rc<UnnamedText> {
        let make = || UnnamedText { body: Some(body.into()), effect: Effect::of(body) };
        self.0.get_or_add(body, make)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_long_ones_are_equal_to_none() {
        let texts = UnnamedTexts::default();
        let a = texts.intern(b"SELECT 1\0\0\0");
        assert!(Rc::ptr_eq(&a, &texts.intern(b"SELECT 1\0\0\0")));
        assert!(!Rc::ptr_eq(&a, &texts.intern(b"SELECT 2\0\0\0")));
        let long = UnnamedText::without_body(Effect::None);
        let server = ServerUnnamed::Text(long.clone());
        assert!(server.is(&long) && !server.is(&UnnamedText::without_body(Effect::None)));
    }
}
