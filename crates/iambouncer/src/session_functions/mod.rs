//! Functions of databases that change the session of their caller (`session_state = follow`). Owns what is known about
//! each database at all workers, and when it is due to be read again; sends no query.

mod catalog;
pub mod queries;

pub use catalog::{Catalog, SessionFunction};
pub use sql::names::NameUse;

use crate::config::SessionStateFunctions;
use crate::limits::SweptTable;
use crate::prepared::CallCache;
use sql::{ChangingNames, Feature, Features, SessionChanges};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// For what the functions of a database were read. Another configuration or schema needs another reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadFor {
    /// The server and the database on it.
    pub target: String,
    /// `session_state_functions`.
    pub setting: SessionStateFunctions,
    /// Changes when a client changes the schema.
    pub schema_version: u32,
}

/// The functions of one database, shared by its pools at all workers.
#[derive(Debug)]
struct SharedFunctions {
    /// Changes with the functions; odd while a statement can change something by calling one.
    version: AtomicU64,
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
    /// Why the last reading failed.
    failure: Option<String>,
}

/// Process-wide numbers of versions, so that a statement's cached effect is never mistaken for that of another database.
static LAST_VERSION: AtomicU64 = AtomicU64::new(0);

impl Default for SharedFunctions {
    fn default() -> Self {
        Self {
            version: AtomicU64::new(0),
            state: Mutex::new(ReadState {
                functions: Arc::new(Functions::Unknown),
                report: Arc::default(),
                fingerprint: None,
                read_for: None,
                checked_at: None,
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
            state.failure.iter().for_each(|reason| add(Err(reason.clone())));
        }
        rows
    }
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
            Functions::Opaque => Some(Rc::new(SessionChanges {
                begins: Features::of(&[Feature::UnknownCode]),
                ..SessionChanges::default()
            })),
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

    /// True if the functions have to be compared with the catalog: they have not been for a while, or for something else.
    pub fn is_check_due(&self, now: Instant, read_for: &ReadFor) -> bool {
        let state = self.shared.state();
        let is_fresh = state.checked_at.is_some_and(|at| now.saturating_duration_since(at) < CHECK_INTERVAL);
        !is_fresh || state.read_for.as_ref() != Some(read_for)
    }

    /// As [`is_check_due`](Self::is_check_due), and the caller is the one who does it.
    pub fn begin_check(&self, now: Instant, read_for: &ReadFor) -> bool {
        let is_due = self.is_check_due(now, read_for);
        let mut state = self.shared.state();
        // The first reading is not left to another worker, whose server may be slow.
        if is_due && state.read_for.is_some() {
            state.checked_at = Some(now);
            state.read_for = Some(read_for.clone());
        }
        is_due
    }

    /// The fingerprint of the catalog from which they are, if they were read with the same setting.
    pub fn fingerprint(&self, setting: SessionStateFunctions) -> Option<String> {
        let state = self.shared.state();
        let has_same_setting = state.read_for.as_ref().is_some_and(|known| known.setting == setting);
        state.fingerprint.clone().filter(|_| has_same_setting)
    }

    /// They have been compared with the catalog.
    pub fn checked(&self, now: Instant, read_for: ReadFor) {
        let mut state = self.shared.state();
        state.checked_at = Some(now);
        state.read_for = Some(read_for);
    }

    /// Keeps what was read.
    pub fn record(&self, database: &str, read: FunctionsRead) {
        let FunctionsRead { fingerprint, catalog } = read;
        let report = catalog.report();
        let mut state = self.shared.state();
        let is_new = *state.report != *report;
        if is_new && !report.is_empty() {
            tracing::info!(
                event = "session_functions",
                database,
                functions_found = report.len(),
                "functions of this database change the session of their caller, see SHOW FUNCTIONS"
            );
        }
        state.fingerprint = Some(fingerprint);
        state.failure = None;
        state.report = report.into();
        self.shared.set(&mut state, Functions::Known(catalog.into_names()));
    }

    /// They could not be read.
    pub fn record_failure(&self, database: &str, reason: &str, setting: SessionStateFunctions) {
        let mut state = self.shared.state();
        let is_new = state.failure.as_deref() != Some(reason);
        let (functions, consequence) = match setting {
            SessionStateFunctions::Careful => {
                (Functions::Unknown, "what they change does not follow the clients")
            }
            SessionStateFunctions::Strict => (Functions::Opaque, "clients keep their servers"),
        };
        if is_new {
            tracing::warn!(
                event = "session_functions_unread",
                database,
                reason,
                "the functions of the database could not be read: {consequence}"
            );
        }
        state.failure = Some(reason.to_owned());
        state.fingerprint = None;
        state.report = Arc::default();
        self.shared.set(&mut state, functions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_for(schema_version: u32) -> ReadFor {
        ReadFor { target: "a:5432/b".to_owned(), setting: SessionStateFunctions::Careful, schema_version }
    }

    #[test]
    fn workers_share_what_is_known_about_a_database() {
        let registry = FunctionRegistry::default();
        let (one, other) = (registry.of_database("a"), registry.of_database("a"));
        assert!(!one.may_change() && !one.are_known());
        let mut catalog = Catalog::default();
        catalog.add_opaque_routine("lock_it");
        one.record("a", FunctionsRead { fingerprint: "1".to_owned(), catalog });
        assert!(other.may_change() && other.are_known());
        let cache = CallCache::default();
        assert!(other.cached_changes_of(b"SELECT lock_it()", &cache).is_some());
        one.record("a", FunctionsRead { fingerprint: "2".to_owned(), catalog: Catalog::default() });
        assert!(!other.may_change());
        assert!(other.cached_changes_of(b"SELECT lock_it()", &cache).is_none());
        assert!(!registry.of_database("b").are_known());
    }

    #[test]
    fn without_knowledge_the_setting_decides() {
        let functions = FunctionRegistry::default().of_database("a");
        functions.record_failure("a", "no", SessionStateFunctions::Careful);
        assert!(!functions.may_change());
        functions.record_failure("a", "no", SessionStateFunctions::Strict);
        assert!(functions.may_change());
        assert!(functions.changes_of(b"SELECT 1").is_some());
    }

    #[test]
    fn a_check_is_due_after_a_while_and_after_a_change_of_the_schema() {
        let functions = FunctionRegistry::default().of_database("a");
        let now = Instant::now();
        assert!(functions.begin_check(now, &read_for(0)));
        assert!(
            functions.begin_check(now, &read_for(0)),
            "the first reading is done by each server until one has ended"
        );
        functions.checked(now, read_for(0));
        assert!(!functions.begin_check(now, &read_for(0)));
        assert!(functions.begin_check(now, &read_for(1)));
        assert!(!functions.begin_check(now, &read_for(1)), "only one does it");
        assert!(functions.begin_check(now + CHECK_INTERVAL, &read_for(1)));
    }
}
