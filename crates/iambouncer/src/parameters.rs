//! The session parameters that follow a client from server to server: which ones, and sets of their values.
//! Owns comparison and the SET statement; never talks to anyone.
//!
//! Sets are interned, so "does this server already have this client's values" is one pointer comparison.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

/// What PgBouncer always tracks, in the spelling of the server.
const ALWAYS: [&str; 5] =
    ["client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"];

/// Position of `client_encoding`.
const CLIENT_ENCODING: usize = 0;

/// Sets that only the interner still holds are dropped when there are more than this, or twice those in use.
const MAX_UNUSED_SETS: usize = 1024;

/// Values in the order of [`Parameters::names`]; `None` where neither client nor server has said anything.
pub type Values = [Option<Box<str>>];

/// An interned set of values: equal sets are the same allocation.
#[derive(Clone)]
pub struct ValueSet(Rc<Values>);

impl ValueSet {
    /// True when all values are equal.
    #[inline]
    pub fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.0
    }
}

/// The tracked names and all sets in use on this worker.
pub struct Parameters {
    names: Vec<Box<str>>,
    sets: RefCell<HashSet<Rc<Values>>>,
    sweep_above: Cell<usize>,
}

impl Parameters {
    /// `extra` are further names (`track_extra_parameters`).
    pub fn new(extra: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<Box<str>> = ALWAYS.iter().map(|&name| name.into()).collect();
        for name in extra {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(&name)) {
                names.push(name.into());
            }
        }
        Self { names, sets: RefCell::default(), sweep_above: Cell::new(MAX_UNUSED_SETS) }
    }

    /// Tracked names.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Position of a name, whatever its case.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.eq_ignore_ascii_case(name))
    }

    /// The set without any value.
    pub fn empty(&self) -> ValueSet {
        self.intern(vec![None; self.names.len()])
    }

    /// The set of these values, in the order of [`Parameters::names`].
    pub fn intern(&self, values: Vec<Option<Box<str>>>) -> ValueSet {
        let mut sets = self.sets.borrow_mut();
        if let Some(known) = sets.get(values.as_slice()) {
            return ValueSet(known.clone());
        }
        if sets.len() > self.sweep_above.get() {
            sets.retain(|set| Rc::strong_count(set) > 1);
            // Many sets in use must not make every new one look at them all.
            self.sweep_above.set(MAX_UNUSED_SETS.max(2 * sets.len()));
        }
        let set: Rc<Values> = values.into();
        sets.insert(set.clone());
        ValueSet(set)
    }

    /// `set` with one value changed.
    pub fn with(&self, set: &ValueSet, position: usize, value: &str) -> ValueSet {
        if set.values().get(position).is_none_or(|old| old.as_deref() == Some(value)) {
            return set.clone();
        }
        let mut values = set.values().to_vec();
        values[position] = Some(value.into());
        self.intern(values)
    }

    /// `set` with the values of `over` where it has any.
    pub fn overlay(&self, set: &ValueSet, over: &Values) -> ValueSet {
        let merged = set.values().iter().zip(over).map(|(old, new)| new.clone().or_else(|| old.clone()));
        self.intern(merged.collect())
    }

    /// The queries that bring a server from `have` to `want`, in order; none when nothing differs. The server reads a
    /// whole query in the encoding that was in force before it, so `client_encoding` has one of its own, in front.
    pub fn set_statements(&self, have: &ValueSet, want: &ValueSet) -> Vec<String> {
        let (mut encoding, mut others) = (String::new(), String::new());
        for (position, ((name, have), want)) in
            self.names.iter().zip(have.values()).zip(want.values()).enumerate()
        {
            if have == want {
                continue;
            }
            let sql = if position == CLIENT_ENCODING { &mut encoding } else { &mut others };
            match want.as_deref() {
                Some(want) => push_set(sql, name, want),
                // The client has no wish, and the server has another client's.
                None => sql.extend(["RESET ", name, ";"]),
            }
        }
        [encoding, others].into_iter().filter(|sql| !sql.is_empty()).collect()
    }
}

/// Appends `SET name=…` in ASCII only: in some encodings (BIG5, SJIS, GBK, UHC, JOHAB) the second byte of a character may
/// be a backslash or, read wrongly, swallow the quote that ends the text.
fn push_set(sql: &mut String, name: &str, value: &str) {
    sql.extend(["SET ", name, "=E'"]);
    // An escape string means the same whatever standard_conforming_strings is at the moment.
    for c in value.chars() {
        match c {
            '\'' | '\\' => sql.extend([c, c]),
            c if c.is_ascii() => sql.push(c),
            c => sql.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    sql.push_str("';");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_the_same_set() {
        let parameters = Parameters::new(["IntervalStyle".to_owned(), "timezone".to_owned()]);
        assert_eq!(parameters.names().len(), 6);
        let zone = parameters.position("timezone").unwrap();
        let empty = parameters.empty();
        let a = parameters.with(&empty, zone, "UTC");
        let b = parameters.with(&empty, zone, "UTC");
        assert!(a.same(&b));
        assert!(!a.same(&empty));
        assert_eq!(parameters.set_statements(&empty, &a), ["SET TimeZone=E'UTC';"]);
        assert!(parameters.set_statements(&a, &b).is_empty());
        assert_eq!(parameters.set_statements(&a, &empty), ["RESET TimeZone;"]);
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let parameters = Parameters::new([]);
        let name = parameters.position("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, r"a'; DROP TABLE t; -- \'");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            [r"SET application_name=E'a''; DROP TABLE t; -- \\''';"]
        );
    }

    #[test]
    fn the_encoding_comes_first_and_no_byte_depends_on_it() {
        let parameters = Parameters::new([]);
        let name = parameters.position("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, "表'");
        let set = parameters.with(&set, CLIENT_ENCODING, "SJIS");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            ["SET client_encoding=E'SJIS';", r"SET application_name=E'\U00008868''';"]
        );
    }
}
