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

/// `client_encoding` in [`ALWAYS`].
const CLIENT_ENCODING: ParameterId = ParameterId(0);

/// Sets that only the interner still holds are dropped when there are more than this, or twice those in use.
const MAX_UNUSED_SETS: usize = 1024;

/// A parameter that follows clients, by its name in [`Parameters`]. The same for all workers of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(u16);

/// Values by parameter, sorted, without those that neither client nor server has given.
type Values = [(ParameterId, Box<str>)];

/// An interned set of values: equal sets are the same allocation.
#[derive(Clone)]
pub struct ValueSet(Rc<Values>);

impl ValueSet {
    /// True when all values are equal.
    #[inline]
    pub fn same(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The value of a parameter.
    pub fn get(&self, id: ParameterId) -> Option<&str> {
        self.0.binary_search_by_key(&id, |(known, _)| *known).ok().map(|at| &*self.0[at].1)
    }

    /// The values by parameter.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &str)> {
        self.0.iter().map(|(id, value)| (*id, &**value))
    }
}

/// A set of parameters, of whatever names.
#[derive(Debug, Clone, Default)]
pub struct ParameterIds(Vec<ParameterId>);

impl ParameterIds {
    /// Adds one.
    pub fn insert(&mut self, id: ParameterId) {
        if let Err(at) = self.0.binary_search(&id) {
            self.0.insert(at, id);
        }
    }

    /// True if it is in the set.
    pub fn contains(&self, id: ParameterId) -> bool {
        self.0.binary_search(&id).is_ok()
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
            let is_new = !names.iter().any(|known| known.eq_ignore_ascii_case(&name));
            if is_new && names.len() < usize::from(u16::MAX) {
                names.push(name.into());
            }
        }
        Self { names, sets: RefCell::default(), sweep_above: Cell::new(MAX_UNUSED_SETS) }
    }

    /// The tracked parameter of this name, whatever its case.
    pub fn id(&self, name: &str) -> Option<ParameterId> {
        let at = self.names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        u16::try_from(at).ok().map(ParameterId)
    }

    /// The name of a tracked parameter.
    pub fn name(&self, id: ParameterId) -> &str {
        self.names.get(usize::from(id.0)).map_or("", |name| name)
    }

    /// The set without any value.
    pub fn empty(&self) -> ValueSet {
        self.set_of([])
    }

    /// The set of these values; of several for one parameter the last counts.
    pub fn set_of(&self, values: impl IntoIterator<Item = (ParameterId, Box<str>)>) -> ValueSet {
        let mut sorted: Vec<(ParameterId, Box<str>)> = values.into_iter().collect();
        sorted.reverse();
        sorted.sort_by_key(|(id, _)| *id);
        sorted.dedup_by_key(|(id, _)| *id);
        self.intern(sorted)
    }

    fn intern(&self, values: Vec<(ParameterId, Box<str>)>) -> ValueSet {
        let mut sets = self.sets.borrow_mut();
        if let Some(known) = sets.get(values.as_slice()) {
            return ValueSet(known.clone());
        }
        if sets.len() > self.sweep_above.get() {
            sets.retain(|set| Rc::strong_count(set) > 1);
            // With many sets in use, not every new one may search them all.
            self.sweep_above.set(MAX_UNUSED_SETS.max(2 * sets.len()));
        }
        let set: Rc<Values> = values.into();
        sets.insert(set.clone());
        ValueSet(set)
    }

    /// `set` with one value changed.
    pub fn with(&self, set: &ValueSet, id: ParameterId, value: &str) -> ValueSet {
        if set.get(id) == Some(value) {
            return set.clone();
        }
        self.overlay(set, [(id, value)])
    }

    /// `set` with these values in place of its own.
    pub fn overlay<'a>(
        &self,
        set: &ValueSet,
        over: impl IntoIterator<Item = (ParameterId, &'a str)>,
    ) -> ValueSet {
        let own = |(id, value): (ParameterId, &str)| (id, value.into());
        self.set_of(set.iter().map(own).chain(over.into_iter().map(own)))
    }

    /// The values of `set` for which `keeps` holds.
    pub fn filter(&self, set: &ValueSet, keeps: impl Fn(ParameterId) -> bool) -> ValueSet {
        self.intern(set.0.iter().filter(|(id, _)| keeps(*id)).cloned().collect())
    }

    /// The queries that bring a server from `have` to `want`, in order; none when nothing differs. The server reads a
    /// whole query in the encoding that was in force before it, so `client_encoding` has one of its own, in front.
    pub fn set_statements(&self, have: &ValueSet, want: &ValueSet) -> Vec<String> {
        let (mut encoding, mut others) = (String::new(), String::new());
        let mut ids = ParameterIds::default();
        have.iter().chain(want.iter()).for_each(|(id, _)| ids.insert(id));
        for id in ids.0 {
            if have.get(id) == want.get(id) {
                continue;
            }
            let sql = if id == CLIENT_ENCODING { &mut encoding } else { &mut others };
            match want.get(id) {
                Some(want) => push_set(sql, self.name(id), want),
                // The client has no value of its own, and the server has another client's.
                None => sql.extend(["RESET ", self.name(id), ";"]),
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
        assert_eq!((parameters.names.len(), parameters.id("no_such_name")), (6, None));
        let zone = parameters.id("timezone").unwrap();
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
    fn the_last_value_counts_and_others_stay() {
        let parameters = Parameters::new([]);
        let (zone, name) = (parameters.id("TimeZone").unwrap(), parameters.id("application_name").unwrap());
        let a = parameters.overlay(&parameters.empty(), [(name, "psql"), (zone, "UTC"), (name, "cron")]);
        assert_eq!((a.get(zone), a.get(name), a.get(CLIENT_ENCODING)), (Some("UTC"), Some("cron"), None));
        let b = parameters.filter(&a, |id| id == zone);
        assert!(b.same(&parameters.with(&parameters.empty(), zone, "UTC")));
    }

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        let parameters = Parameters::new([]);
        let name = parameters.id("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, r"a'; DROP TABLE t; -- \'");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            [r"SET application_name=E'a''; DROP TABLE t; -- \\''';"]
        );
    }

    #[test]
    fn the_encoding_comes_first_and_no_byte_depends_on_it() {
        let parameters = Parameters::new([]);
        let name = parameters.id("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, "表'");
        let set = parameters.with(&set, CLIENT_ENCODING, "SJIS");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            ["SET client_encoding=E'SJIS';", r"SET application_name=E'\U00008868''';"]
        );
    }
}
