//! Session parameters that are restored when a client changes its server: their names, and sets of values. Owns
//! comparison and SET statements; never sends anything.
//!
//! Sets are interned, so that checking whether a server has a client's values is a pointer comparison.

use crate::quoted_text;
use crate::shared_values::SharedValues;
use std::rc::Rc;

/// Parameters that PgBouncer always tracks, as spelled by the server: those that a server of some version reports and
/// that a client can change.
const ALWAYS: [&str; 9] = [
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "standard_conforming_strings",
    "application_name",
    "default_transaction_read_only",
    "scram_iterations",
    "search_path",
    "session_authorization",
];

/// The right to set other parameters depends on it.
pub const SESSION_AUTHORIZATION: &str = "session_authorization";

/// Its value is a list of identifiers, each of which is an argument of SET.
const SEARCH_PATH: &str = "search_path";

/// `client_encoding` in [`ALWAYS`].
const CLIENT_ENCODING: ParameterId = ParameterId(0);

/// A tracked parameter: the index of its name in [`Parameters`], the same for all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId(u16);

/// Values sorted by parameter, without those unset by both client and server. Not a slice, whose pointers are twice as
/// large: each client holds two.
type Values = Vec<(ParameterId, Box<str>)>;

/// An interned set of values: equal sets are the same allocation.
#[derive(Clone)]
pub struct ValueSet(Rc<Values>);

impl ValueSet {
    /// True if all values are equal.
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

/// The values of a session that its transaction has changed. A rollback restores them; the server then reports the
/// restored values before it is idle, so what is committed is what it reported last.
#[derive(Default)]
pub enum TransactionValues {
    /// None.
    #[default]
    Unchanged,
    /// The session will have these.
    Changed(ValueSet),
    /// The session has restored its own values. What the server reports are those of its login.
    Restored,
}

impl TransactionValues {
    /// Records a value that the server has reported; `session` is what the session had before the transaction.
    pub fn record(&mut self, parameters: &Parameters, session: &ValueSet, id: ParameterId, value: &str) {
        let current = match self {
            Self::Unchanged => session,
            Self::Changed(values) => values,
            Self::Restored => return,
        };
        *self = Self::Changed(parameters.with(current, id, value));
    }

    /// The transaction has ended: the session has the values.
    #[inline]
    pub fn commit(&mut self, session: &mut ValueSet) {
        if matches!(self, Self::Unchanged) {
            return;
        }
        if let Self::Changed(values) = std::mem::take(self) {
            *session = values;
        }
    }
}

/// A set of parameters.
#[derive(Debug, Clone, Default)]
pub struct ParameterIds(Vec<ParameterId>);

impl ParameterIds {
    /// Adds a parameter.
    pub fn insert(&mut self, id: ParameterId) {
        if let Err(at) = self.0.binary_search(&id) {
            self.0.insert(at, id);
        }
    }

    /// True if the set contains it.
    pub fn contains(&self, id: ParameterId) -> bool {
        self.0.binary_search(&id).is_ok()
    }
}

/// The tracked names and all sets used on this worker.
pub struct Parameters {
    names: Vec<Box<str>>,
    sets: SharedValues<Values>,
}

impl Parameters {
    /// `extra` contains additional names (`track_extra_parameters`).
    pub fn new(extra: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<Box<str>> = ALWAYS.iter().map(|&name| name.into()).collect();
        for name in extra {
            let is_new = !names.iter().any(|known| known.eq_ignore_ascii_case(&name));
            if is_new && names.len() < usize::from(u16::MAX) {
                names.push(name.into());
            }
        }
        Self { names, sets: SharedValues::default() }
    }

    /// The tracked parameter with this name, ignoring case.
    pub fn id(&self, name: &str) -> Option<ParameterId> {
        let at = self.names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        u16::try_from(at).ok().map(ParameterId)
    }

    /// The name of a tracked parameter.
    pub fn name(&self, id: ParameterId) -> &str {
        self.names.get(usize::from(id.0)).map_or("", |name| name)
    }

    /// The set without values.
    pub fn empty(&self) -> ValueSet {
        self.set_of([])
    }

    /// The set of these values; of several for one parameter, the last is used.
    pub fn set_of(&self, values: impl IntoIterator<Item = (ParameterId, Box<str>)>) -> ValueSet {
        let mut sorted: Vec<(ParameterId, Box<str>)> = values.into_iter().collect();
        sorted.reverse();
        sorted.sort_by_key(|(id, _)| *id);
        sorted.dedup_by_key(|(id, _)| *id);
        self.intern(sorted)
    }

    fn intern(&self, values: Vec<(ParameterId, Box<str>)>) -> ValueSet {
        ValueSet(self.sets.share(values))
    }

    /// `set` with one value changed.
    pub fn with(&self, set: &ValueSet, id: ParameterId, value: &str) -> ValueSet {
        if set.get(id) == Some(value) {
            return set.clone();
        }
        self.overlay(set, [(id, value)])
    }

    /// `set`, overridden by the values in `over`.
    pub fn overlay<'a>(
        &self,
        set: &ValueSet,
        over: impl IntoIterator<Item = (ParameterId, &'a str)>,
    ) -> ValueSet {
        let own = |(id, value): (ParameterId, &str)| (id, value.into());
        self.set_of(set.iter().map(own).chain(over.into_iter().map(own)))
    }

    /// The values of `set` for which `keeps` returns true.
    pub fn filter(&self, set: &ValueSet, keeps: impl Fn(ParameterId) -> bool) -> ValueSet {
        self.intern(set.0.iter().filter(|(id, _)| keeps(*id)).cloned().collect())
    }

    /// The queries that change a server's values from `have` to `want`, in order; none if they are equal. The server
    /// decodes a query in the encoding set before it, so `client_encoding` is set first, in a query of its own. Values
    /// are set by the user that has logged in.
    pub fn set_statements(&self, have: &ValueSet, want: &ValueSet) -> Vec<String> {
        let (mut encoding, mut others, mut authorization) = (String::new(), String::new(), String::new());
        let mut ids = ParameterIds::default();
        have.iter().chain(want.iter()).for_each(|(id, _)| ids.insert(id));
        for id in ids.0 {
            if have.get(id) == want.get(id) {
                continue;
            }
            let sql = match self.name(id) {
                _ if id == CLIENT_ENCODING => &mut encoding,
                SESSION_AUTHORIZATION => &mut authorization,
                _ => &mut others,
            };
            match want.get(id) {
                Some(want) => push_set(sql, self.name(id), want),
                // The client has not set it, and the server has the value of another client.
                None => sql.extend(["RESET ", self.name(id), ";"]),
            }
        }
        if !authorization.is_empty() && !others.is_empty() {
            others.insert_str(0, "RESET session_authorization;");
        }
        others.push_str(&authorization);
        [encoding, others].into_iter().filter(|sql| !sql.is_empty()).collect()
    }
}

/// Appends `SET name=…`.
fn push_set(sql: &mut String, name: &str, value: &str) {
    sql.extend(["SET ", name, "="]);
    match name.eq_ignore_ascii_case(SEARCH_PATH).then(|| identifiers(value)).flatten() {
        Some(list) if !list.is_empty() => {
            for (at, identifier) in list.iter().enumerate() {
                sql.push_str(if at > 0 { "," } else { "" });
                push_literal(sql, identifier);
            }
        }
        _ => push_literal(sql, value),
    }
    sql.push(';');
}

/// Appends a string in ASCII only: in some encodings (BIG5, SJIS, GBK, UHC, JOHAB) the second byte of a character may be
/// a backslash or, if misinterpreted, consume the closing quote.
fn push_literal(sql: &mut String, value: &str) {
    // The meaning of an escape string does not depend on standard_conforming_strings.
    let needs_escapes = value.contains('\\') || !value.is_ascii();
    sql.push_str(if needs_escapes { "E'" } else { "'" });
    for c in value.chars() {
        match c {
            '\'' | '\\' => sql.extend([c, c]),
            c if c.is_ascii() => sql.push(c),
            c => sql.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    sql.push('\'');
}

/// The identifiers of a list as the server reads it: unquoted ones are in lower case. `None` if the list is malformed.
fn identifiers(list: &str) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let identifier = if let Some(quoted) = rest.strip_prefix('"') {
            let (identifier, after) = quoted_text::read(quoted, '"')?;
            rest = after.trim_start();
            identifier
        } else {
            let end = rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            let identifier = rest[..end].to_ascii_lowercase();
            rest = rest[end..].trim_start();
            identifier
        };
        found.push(identifier);
        rest = match (rest.strip_prefix(','), rest) {
            (Some(next), _) if !next.trim_start().is_empty() => next.trim_start(),
            (None, "") => "",
            _ => return None,
        };
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_interned() {
        let parameters = Parameters::new(["IntervalStyle".to_owned(), "timezone".to_owned()]);
        assert_eq!((parameters.names.len(), parameters.id("no_such_name")), (10, None));
        let zone = parameters.id("timezone").unwrap();
        let empty = parameters.empty();
        let a = parameters.with(&empty, zone, "UTC");
        let b = parameters.with(&empty, zone, "UTC");
        assert!(a.same(&b));
        assert!(!a.same(&empty));
        assert_eq!(parameters.set_statements(&empty, &a), ["SET TimeZone='UTC';"]);
        assert!(parameters.set_statements(&a, &b).is_empty());
        assert_eq!(parameters.set_statements(&a, &empty), ["RESET TimeZone;"]);
    }

    #[test]
    fn the_last_value_is_used_and_others_are_kept() {
        let parameters = Parameters::new([]);
        let (zone, name) = (parameters.id("TimeZone").unwrap(), parameters.id("application_name").unwrap());
        let a = parameters.overlay(&parameters.empty(), [(name, "psql"), (zone, "UTC"), (name, "cron")]);
        assert_eq!((a.get(zone), a.get(name), a.get(CLIENT_ENCODING)), (Some("UTC"), Some("cron"), None));
        let b = parameters.filter(&a, |id| id == zone);
        assert!(b.same(&parameters.with(&parameters.empty(), zone, "UTC")));
    }

    #[test]
    fn values_of_a_transaction_reach_the_session_when_it_ends() {
        let parameters = Parameters::new([]);
        let (zone, name) = (parameters.id("TimeZone").unwrap(), parameters.id("application_name").unwrap());
        let before = parameters.with(&parameters.empty(), name, "psql");
        let mut session = before.clone();
        let mut transaction = TransactionValues::default();
        transaction.record(&parameters, &session, zone, "UTC");
        transaction.record(&parameters, &session, name, "cron");
        assert!(session.same(&before));
        transaction.commit(&mut session);
        assert_eq!((session.get(zone), session.get(name)), (Some("UTC"), Some("cron")));
        transaction.commit(&mut session);
        assert_eq!(session.get(name), Some("cron"));
        transaction = TransactionValues::Restored;
        transaction.record(&parameters, &session, name, "psql");
        transaction.commit(&mut session);
        assert_eq!(session.get(name), Some("cron"));
        transaction.record(&parameters, &session, name, "psql");
        transaction.commit(&mut session);
        assert_eq!(session.get(name), Some("psql"));
    }

    #[test]
    fn quotes_in_values_are_escaped() {
        let parameters = Parameters::new([]);
        let name = parameters.id("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, r"a'; DROP TABLE t; -- \'");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            [r"SET application_name=E'a''; DROP TABLE t; -- \\''';"]
        );
    }

    #[test]
    fn the_encoding_is_set_first_and_other_values_are_ascii() {
        let parameters = Parameters::new([]);
        let name = parameters.id("application_name").unwrap();
        let set = parameters.with(&parameters.empty(), name, "表'");
        let set = parameters.with(&set, CLIENT_ENCODING, "SJIS");
        assert_eq!(
            parameters.set_statements(&parameters.empty(), &set),
            ["SET client_encoding='SJIS';", r"SET application_name=E'\U00008868''';"]
        );
    }

    #[test]
    fn the_session_authorization_is_set_last() {
        let parameters = Parameters::new(["IntervalStyle".to_owned()]);
        let id = |name: &str| parameters.id(name).unwrap();
        let app = parameters.with(&parameters.empty(), id("session_authorization"), "app");
        let other = parameters.with(&app, id("session_authorization"), "other");
        assert_eq!(parameters.set_statements(&app, &other), ["SET session_authorization='other';"]);
        let both = parameters.with(&other, id("IntervalStyle"), "iso_8601");
        let sql =
            "RESET session_authorization;SET IntervalStyle='iso_8601';SET session_authorization='other';";
        assert_eq!(parameters.set_statements(&app, &both), [sql]);
    }

    #[test]
    fn the_search_path_is_set_as_a_list() {
        let parameters = Parameters::new([]);
        let path = parameters.id("search_path").unwrap();
        for (value, sql) in [
            ("\"$user\", public", "SET search_path='$user','public';"),
            ("A,\"B\"", "SET search_path='a','B';"),
            ("\"a\"\"b, c\"", "SET search_path='a\"b, c';"),
            ("\"\"", "SET search_path='';"),
            ("", "SET search_path='';"),
            ("it's", "SET search_path='it''s';"),
            // The server refuses these as well.
            ("a,", "SET search_path='a,';"),
            ("a b", "SET search_path='a b';"),
            ("\"a", "SET search_path='\"a';"),
        ] {
            let set = parameters.with(&parameters.empty(), path, value);
            assert_eq!(parameters.set_statements(&parameters.empty(), &set), [sql], "{value}");
        }
    }
}
