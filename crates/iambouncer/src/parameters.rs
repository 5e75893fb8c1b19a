//! Session parameters that are restored when a client changes its server: their names, and sets of values. Owns
//! comparison; never sends anything.
//!
//! Sets are interned, so that checking whether a server has a client's values is a pointer comparison.

mod names;
mod set_statements;

pub use set_statements::{push_current_setting, push_literal};

use crate::shared_values::SharedValues;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::OnceLock;

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

/// The role that is in force, if it is not that of the session authorization.
pub const ROLE: &str = "role";

/// The number of the first name that is not tracked for all clients.
const FIRST_FOLLOWED: u16 = 1 << 14;

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

    /// Number of values.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// A number that equal sets share in this process. It does not reveal the values: its key is a secret of the process.
    pub fn fingerprint(&self) -> u32 {
        static KEY: OnceLock<RandomState> = OnceLock::new();
        KEY.get_or_init(RandomState::new).hash_one(&*self.0) as u32
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

    /// The current value; `session` is what the session had before the transaction.
    pub fn current<'a>(&'a self, session: &'a ValueSet, id: ParameterId) -> Option<&'a str> {
        match self {
            Self::Unchanged | Self::Restored => session.get(id),
            Self::Changed(values) => values.get(id),
        }
    }

    /// The transaction has ended: the session has the values. True if they are others.
    #[inline]
    pub fn commit(&mut self, session: &mut ValueSet) -> bool {
        if matches!(self, Self::Unchanged) {
            return false;
        }
        if let Self::Changed(values) = std::mem::take(self) {
            *session = values;
        }
        true
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
    /// That of [`ROLE`].
    role: Option<ParameterId>,
    /// That of [`SESSION_AUTHORIZATION`].
    authorization: Option<ParameterId>,
    sets: SharedValues<Values>,
}

impl Parameters {
    /// `extra` contains additional names (`track_extra_parameters`).
    pub fn new(extra: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<Box<str>> = ALWAYS.iter().map(|&name| name.into()).collect();
        for name in extra {
            let is_new = !names.iter().any(|known| known.eq_ignore_ascii_case(&name));
            if is_new && names.len() < usize::from(FIRST_FOLLOWED) {
                names.push(name.into());
            }
        }
        let mut parameters = Self { names, role: None, authorization: None, sets: SharedValues::default() };
        parameters.role = parameters.followed(ROLE);
        parameters.authorization = parameters.followed(SESSION_AUTHORIZATION);
        parameters
    }

    /// The tracked parameter with this name, ignoring case.
    pub fn id(&self, name: &str) -> Option<ParameterId> {
        let at = self.names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        u16::try_from(at).ok().map(ParameterId)
    }

    /// The parameter with this name, ignoring case, which some client has set. `None` if there are too many names.
    pub fn followed(&self, name: &str) -> Option<ParameterId> {
        self.id(name).or_else(|| {
            let number = names::number(&name.to_ascii_lowercase())?;
            number.checked_add(FIRST_FOLLOWED).map(ParameterId)
        })
    }

    /// The name of a parameter.
    pub fn name(&self, id: ParameterId) -> &str {
        match id.0.checked_sub(FIRST_FOLLOWED) {
            Some(number) => names::name(number),
            None => self.names.get(usize::from(id.0)).map_or("", |name| name),
        }
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

    /// `set` without one value.
    pub fn without(&self, set: &ValueSet, id: ParameterId) -> ValueSet {
        match set.get(id) {
            Some(_) => self.filter(set, |known| known != id),
            None => set.clone(),
        }
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
        assert_eq!(parameters.set_statements(&empty, &a, "app"), ["SET TimeZone='UTC';"]);
        assert!(parameters.set_statements(&a, &b, "app").is_empty());
        assert_eq!(parameters.set_statements(&a, &empty, "app"), ["RESET TimeZone;"]);
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
}
