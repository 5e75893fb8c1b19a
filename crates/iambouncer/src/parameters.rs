//! Session parameters that are restored when a client changes its server: their names, and sets of values. Owns
//! comparison and SET statements; never sends anything.
//!
//! Sets are interned, so that checking whether a server has a client's values is a pointer comparison.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

/// Parameters that PgBouncer always tracks, as spelled by the server.
const ALWAYS: [&str; 5] =
    ["client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"];

/// Position of `client_encoding`.
const CLIENT_ENCODING: usize = 0;

/// Sets without other references are dropped if there are more than this, or than twice those in use.
const MAX_UNUSED_SETS: usize = 1024;

/// Values in the order of [`Parameters::names`]; `None` if unset by both client and server.
pub type Values = [Option<Box<str>>];

/// An interned set of values: equal sets are the same allocation.
#[derive(Clone)]
pub struct ValueSet(Rc<Values>);

impl ValueSet {
    /// True if all values are equal.
    #[inline]
    pub fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The values.
    pub fn values(&self) -> &Values {
        &self.0
    }
}

/// The tracked names and all sets used on this worker.
pub struct Parameters {
    names: Vec<Box<str>>,
    sets: RefCell<HashSet<Rc<Values>>>,
    sweep_above: Cell<usize>,
}

impl Parameters {
    /// `extra` contains additional names (`track_extra_parameters`).
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

    /// Position of a name, ignoring case.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.eq_ignore_ascii_case(name))
    }

    /// The set without values.
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
            // Otherwise, with many in use, each new one would scan all of them.
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

    /// `set`, overridden by the values in `over`.
    pub fn overlay(&self, set: &ValueSet, over: &Values) -> ValueSet {
        let merged = set.values().iter().zip(over).map(|(old, new)| new.clone().or_else(|| old.clone()));
        self.intern(merged.collect())
    }

    /// The queries that change a server's values from `have` to `want`, in order; none if they are equal. The server
    /// decodes a query in the encoding set before it, so `client_encoding` is set first, in a query of its own.
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
                // The client has not set it, and the server has the value of another client.
                None => sql.extend(["RESET ", name, ";"]),
            }
        }
        [encoding, others].into_iter().filter(|sql| !sql.is_empty()).collect()
    }
}

/// Appends `SET name=…` in ASCII only: in some encodings (BIG5, SJIS, GBK, UHC, JOHAB) the second byte of a character
/// may be a backslash or, if misinterpreted, consume the closing quote.
fn push_set(sql: &mut String, name: &str, value: &str) {
    sql.extend(["SET ", name, "=E'"]);
    // The meaning of an escape string does not depend on standard_conforming_strings.
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
    fn equal_sets_are_interned() {
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
    fn quotes_in_values_are_escaped() {
        let parameters = Parameters::new([]);
        let name = parameters.position("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, r"a'; DROP TABLE t; -- \'");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            [r"SET application_name=E'a''; DROP TABLE t; -- \\''';"]
        );
    }

    #[test]
    fn the_encoding_is_set_first_and_other_values_are_ascii() {
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
