//! Functions of databases that change the session of their caller (`session_state = follow`), and the settings with which
//! sessions begin. Owns what is known about each database at all workers, and when it is due to be read again; sends no query.

mod catalog;
mod login_settings;
pub mod queries;

pub use catalog::{Catalog, SessionFunction};
use login_settings::LoginSettings;
pub use sql::names::NameUse;

use crate::config::SessionStateFunctions;
use crate::limits::SweptTable;
use crate::prepared::CallCache;
use sql::{ChangingNames, SessionChanges};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// What is known is compared with the catalog after this time. Changes are noticed within 30 seconds, including the time
/// until a server is idle.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(20);

/// What statements of a database may change by calling functions.
#[derive(Debug)]
enum Functions {
    /// They could not be read: as if there were none.
    Unknown,
    /// They could not be read: every statement may change anything.
    Opaque,
    /// These names; often none.
    Known(ChangingNames),
}

/// For what the functions of a database were read. Another configuration needs another reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFor {
    /// The server and the database on it.
    pub target: String,
    /// `session_state_functions`.
    pub setting: SessionStateFunctions,
}

/// The functions of one database, shared by its pools at all workers.
#[derive(Debug)]
struct SharedFunctions {
    /// Changes with the functions; odd while a statement can change something by calling one.
    version: AtomicU64,
    /// How often clients have changed functions, or what calls them, …
    changes: AtomicU32,
    /// … and how often they had when the functions were last compared with the catalog.
    compared: AtomicU32,
    login_settings: LoginSettings,
    state: Mutex<ReadState>,
}

#[derive(Debug)]
struct ReadState {
    functions: Arc<Functions>,
    report: Arc<[SessionFunction]>,
    /// Of the catalog that was read.
    fingerprint: Option<String>,
    read_for: Option<ReadFor>,
    checked_at: Option<Instant>,
    /// The connection has failed during the last check.
    has_lost: bool,
    /// Why they are not all.
    problem: Option<String>,
    /// Why the last reading failed, since when nothing was compared.
    failure: Option<String>,
}

/// Process-wide numbers of versions, so that a statement's cached effect is never mistaken for that of another database.
static LAST_VERSION: AtomicU64 = AtomicU64::new(0);

impl Default for SharedFunctions {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(0),
            changes: AtomicU32::new(0),
            compared: AtomicU32::new(0),
            login_settings: LoginSettings::default(),
            state: Mutex::new(ReadState {
                functions: Arc::new(Functions::Unknown),
                report: Arc::default(),
                fingerprint: None,
                read_for: None,
                checked_at: None,
                has_lost: false,
                problem: None,
                failure: None,
            }),
        }
    }
}

impl SharedFunctions {
    fn state(&self) -> MutexGuard<'_, ReadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: &mut ReadState, functions: Functions) {
        let is_harmless = match &functions {
            Functions::Unknown => true,
            Functions::Opaque => false,
            Functions::Known(names) => names.is_empty(),
        };
        state.functions = Arc::new(functions);
        let next = LAST_VERSION.fetch_add(1, Ordering::Relaxed) + 1;
        self.version.store(next << 1 | u64::from(!is_harmless), Ordering::Release);
    }
}

/// The functions of all databases of the process.
#[derive(Default)]
pub struct FunctionRegistry(Mutex<SweptTable<String, Weak<SharedFunctions>>>);

impl FunctionRegistry {
    /// Those of a database, by the name that clients use.
    pub fn of_database(&self, name: &str) -> DatabaseFunctions {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.to_owned();
        let known = table.get(&name).and_then(Weak::upgrade);
        let shared = known.unwrap_or_else(|| {
            let shared = Arc::<SharedFunctions>::default();
            table.insert(name, Arc::downgrade(&shared), |known| known.strong_count() > 0);
            shared
        });
        DatabaseFunctions { shared, seen: Cell::new(0), current: RefCell::new(Arc::new(Functions::Unknown)) }
    }
}

impl FunctionRegistry {
    /// All functions with an effect, and the databases whose functions could not be read, by database.
    pub fn rows(&self) -> Vec<FunctionRow> {
        let databases: BTreeMap<String, Arc<SharedFunctions>> = {
            let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            table.iter().filter_map(|(name, known)| Some((name.clone(), known.upgrade()?))).collect()
        };
        let mut rows = Vec::new();
        for (database, shared) in databases {
            let state = shared.state();
            let mut add = |content| rows.push(FunctionRow { database: database.clone(), content });
            state.report.iter().for_each(|function| add(Ok(function.clone())));
            state.failure.iter().chain(&state.problem).for_each(|reason| add(Err(reason.clone())));
        }
        rows
    }
}

/// A check that is under way.
#[must_use]
pub struct CheckBegun {
    changes: u32,
}

/// What was read of a catalog.
pub struct FunctionsRead {
    /// Changes with the catalog.
    pub fingerprint: String,
    /// The functions.
    pub catalog: Catalog,
}

/// What is known about a database, for people.
pub struct FunctionRow {
    /// The database, by the name that clients use.
    pub database: String,
    content: Result<SessionFunction, String>,
}

impl FunctionRow {
    /// A function with an effect.
    pub fn function(&self) -> Option<&SessionFunction> {
        self.content.as_ref().ok()
    }

    /// Why the functions could not be read.
    pub fn problem(&self) -> Option<&str> {
        self.content.as_ref().err().map(String::as_str)
    }
}

/// What one worker knows about the functions of a database.
pub struct DatabaseFunctions {
    shared: Arc<SharedFunctions>,
    seen: Cell<u64>,
    current: RefCell<Arc<Functions>>,
}

impl DatabaseFunctions {
    /// True if statements may change their session by calling functions.
    #[inline]
    pub fn may_change(&self) -> bool {
        self.shared.version.load(Ordering::Relaxed) & 1 == 1
    }

    /// True if the database has been read, so that a function without an effect is known to have none.
    pub fn are_known(&self) -> bool {
        self.update();
        matches!(**self.current.borrow(), Functions::Known(_))
    }

    /// What a text may change by calling functions.
    #[cold]
    pub fn changes_of(&self, text: &[u8]) -> Option<Rc<SessionChanges>> {
        self.update();
        match &**self.current.borrow() {
            Functions::Unknown => None,
            Functions::Opaque => Some(Rc::new(SessionChanges::unknown_code())),
            Functions::Known(names) => names.changes_of(text).map(Rc::from),
        }
    }

    /// The same for a statement that is executed again and again.
    #[cold]
    pub fn cached_changes_of(&self, text: &[u8], cache: &CallCache) -> Option<Rc<SessionChanges>> {
        self.update();
        cache.get(self.seen.get(), || self.changes_of(text))
    }

    fn update(&self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if self.seen.get() != version {
            let state = self.shared.state();
            self.current.replace(state.functions.clone());
            // As it is now, under the lock.
            self.seen.set(self.shared.version.load(Ordering::Acquire));
        }
    }

    /// The settings with which sessions of the database begin.
    pub fn login_settings(&self) -> &LoginSettings {
        &self.shared.login_settings
    }

    /// A client has changed functions, what calls them, or settings of roles or databases.
    pub fn note_change(&self) {
        self.shared.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// True if a client has done so, and nothing has been compared since.
    #[inline]
    pub fn are_changed(&self) -> bool {
        self.shared.changes.load(Ordering::Acquire) != self.shared.compared.load(Ordering::Relaxed)
    }

    /// True if the functions have to be compared with the catalog: they have not been for a while, or for something else.
    pub fn is_check_due(&self, now: Instant, read_for: &ReadFor) -> bool {
        let state = self.shared.state();
        let is_fresh = state.checked_at.is_some_and(|at| now.saturating_duration_since(at) < CHECK_INTERVAL);
        !is_fresh || state.read_for.as_ref() != Some(read_for)
    }

    /// As [`is_check_due`](Self::is_check_due), and the caller is the one who does it. Returns what
    /// [`checked`](Self::checked) needs.
    ///
    /// After a change by a client, every caller checks until one check has ended: nothing that was known before is used.
    pub fn begin_check(&self, now: Instant, read_for: &ReadFor) -> Option<CheckBegun> {
        let changes = self.shared.changes.load(Ordering::Acquire);
        let is_changed = changes != self.shared.compared.load(Ordering::Acquire);
        let is_due = is_changed || self.is_check_due(now, read_for);
        let mut state = self.shared.state();
        // The first reading is not left to another worker, whose server may be slow.
        if is_due && state.read_for.as_ref() == Some(read_for) {
            state.checked_at = Some(now);
        }
        is_due.then_some(CheckBegun { changes })
    }

    /// The connection has failed during a check. True if the next server is to be asked; false if the one before has
    /// failed, too.
    pub fn retries_check(&self) -> bool {
        let mut state = self.shared.state();
        state.checked_at = None;
        !std::mem::replace(&mut state.has_lost, true)
    }

    /// The fingerprint of the catalog from which they are, if they were read for the same.
    pub fn fingerprint(&self, read_for: &ReadFor) -> Option<String> {
        let state = self.shared.state();
        let is_same = state.read_for.as_ref() == Some(read_for);
        state.fingerprint.clone().filter(|_| is_same)
    }

    /// They are still those of the catalog.
    pub fn confirm(&self) {
        self.shared.state().failure = None;
    }

    /// They have been compared with the catalog, or that was tried.
    pub fn checked(&self, now: Instant, read_for: ReadFor, began: CheckBegun) {
        self.shared.compared.store(began.changes, Ordering::Release);
        let mut state = self.shared.state();
        state.checked_at = Some(now);
        state.has_lost = false;
        state.read_for = Some(read_for);
    }

    /// Keeps what was read.
    pub fn record(&self, database: &str, read: FunctionsRead, read_for: &ReadFor) {
        let FunctionsRead { fingerprint, catalog } = read;
        let report = catalog.report();
        let mut state = self.shared.state();
        if *state.report != *report && !report.is_empty() {
            tracing::info!(
                event = "session_functions",
                database,
                functions_found = report.len(),
                "functions of this database change the session of their caller, see SHOW FUNCTIONS"
            );
        }
        let problem = catalog.problem().map(str::to_owned);
        let is_opaque = problem.is_some() && read_for.setting == SessionStateFunctions::Strict;
        if let Some(reason) = problem.as_deref().filter(|reason| state.problem.as_deref() != Some(reason)) {
            warn_unread(
                database,
                reason,
                if is_opaque { OPAQUE } else { "what the others change does not follow the clients" },
            );
        }
        state.fingerprint = Some(fingerprint);
        state.problem = problem;
        state.failure = None;
        state.report = report.into();
        let known = Functions::Known(catalog.into_names());
        self.shared.set(&mut state, if is_opaque { Functions::Opaque } else { known });
    }

    /// They could not be read. What was known remains, if it was read for the same.
    pub fn record_failure(&self, database: &str, reason: &str, read_for: &ReadFor) {
        let mut state = self.shared.state();
        let is_new = state.failure.as_deref() != Some(reason);
        state.failure = Some(reason.to_owned());
        let has_names = matches!(&*state.functions, Functions::Known(_));
        let is_kept = has_names && state.read_for.as_ref() == Some(read_for);
        let (functions, consequence) = match read_for.setting {
            SessionStateFunctions::Careful if is_kept => (None, "those that were known are used"),
            SessionStateFunctions::Careful => {
                (Some(Functions::Unknown), "what they change does not follow the clients")
            }
            SessionStateFunctions::Strict => (Some(Functions::Opaque), OPAQUE),
        };
        if is_new {
            warn_unread(database, reason, consequence);
        }
        if let Some(functions) = functions {
            state.fingerprint = None;
            state.problem = None;
            state.report = Arc::default();
            self.shared.set(&mut state, functions);
        }
    }
}

/// The consequence of [`Functions::Opaque`], for the log.
const OPAQUE: &str = "clients keep their servers";

fn warn_unread(database: &str, reason: &str, consequence: &str) {
    tracing::warn!(
        event = "session_functions_unread",
        database,
        reason,
        "the functions of the database could not be read completely: {consequence}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_for(target: &str) -> ReadFor {
        ReadFor { target: target.to_owned(), setting: SessionStateFunctions::Careful }
    }

    #[test]
    fn workers_share_what_is_known_about_a_database() {
        let registry = FunctionRegistry::default();
        let (one, other) = (registry.of_database("a"), registry.of_database("a"));
        assert!(!one.may_change() && !one.are_known());
        let mut catalog = Catalog::default();
        catalog.add_opaque_routine("lock_it");
        one.record("a", FunctionsRead { fingerprint: "1".to_owned(), catalog }, &read_for("a"));
        assert!(other.may_change() && other.are_known());
        let cache = CallCache::default();
        assert!(other.cached_changes_of(b"SELECT lock_it()", &cache).is_some());
        one.record(
            "a",
            FunctionsRead { fingerprint: "2".to_owned(), catalog: Catalog::default() },
            &read_for("a"),
        );
        assert!(!other.may_change());
        assert!(other.cached_changes_of(b"SELECT lock_it()", &cache).is_none());
        assert!(!registry.of_database("b").are_known());
    }

    #[test]
    fn without_knowledge_the_setting_decides() {
        let functions = FunctionRegistry::default().of_database("a");
        functions.record_failure("a", "no", &read_for("a"));
        assert!(!functions.may_change());
        functions.record_failure(
            "a",
            "no",
            &ReadFor { setting: SessionStateFunctions::Strict, ..read_for("a") },
        );
        assert!(functions.may_change());
        assert!(functions.changes_of(b"SELECT 1").is_some());
    }

    #[test]
    fn a_check_is_due_after_a_while_and_after_a_change() {
        let functions = FunctionRegistry::default().of_database("a");
        let now = Instant::now();
        let begin = |now, target| functions.begin_check(now, &read_for(target));
        assert!(begin(now, "a").is_some());
        let first = begin(now, "a").expect("the first reading is done by each server until one has ended");
        functions.checked(now, read_for("a"), first);
        assert!(begin(now, "a").is_none());
        let other = begin(now, "b").unwrap();
        functions.checked(now, read_for("b"), other);
        assert!(begin(now + CHECK_INTERVAL, "b").is_some());
        assert!(begin(now + CHECK_INTERVAL, "b").is_none(), "only one does it");
        assert!(functions.retries_check() && !functions.retries_check());
        let again = begin(now + CHECK_INTERVAL, "b").expect("the other one has failed");
        functions.note_change();
        functions.checked(now, read_for("b"), again);
        assert!(functions.are_changed() && begin(now, "b").is_some(), "the change came during the check");
        let last = begin(now, "b").unwrap();
        functions.checked(now, read_for("b"), last);
        assert!(!functions.are_changed() && begin(now, "b").is_none());
    }

    #[test]
    fn what_was_known_remains_when_it_cannot_be_read_again() {
        let functions = FunctionRegistry::default().of_database("a");
        let mut catalog = Catalog::default();
        catalog.add_opaque_routine("lock_it");
        let began = functions.begin_check(Instant::now(), &read_for("a")).unwrap();
        functions.record("a", FunctionsRead { fingerprint: "1".to_owned(), catalog }, &read_for("a"));
        functions.checked(Instant::now(), read_for("a"), began);
        functions.record_failure("a", "lock timeout", &read_for("a"));
        assert!(functions.changes_of(b"SELECT lock_it()").is_some());
        functions.record_failure("a", "lock timeout", &read_for("b"));
        assert!(functions.changes_of(b"SELECT lock_it()").is_none());
    }
}
