//! Notable events of the process, for SHOW EVENTS, the API and the dashboard. Owns their kinds, and the list of the last
//! ones, which is bounded and merges repetitions. The log adds to it: each event is a log line with a field `event`.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Number of events that are kept.
pub const MAX_EVENTS: usize = 50;
/// Number of events of one kind that are kept: a failure that repeats must not displace all others.
const MAX_OF_KIND: usize = 20;
/// Longer texts are cut.
const MAX_TEXT_BYTES: usize = 1000;

/// A kind of event: its name, and what has happened.
pub struct EventKind {
    /// The value of the field `event`.
    pub name: &'static str,
    /// What has happened.
    pub meaning: &'static str,
}

const fn kind(name: &'static str, meaning: &'static str) -> EventKind {
    EventKind { name, meaning }
}

/// All kinds, for the documentation. A test compares them with the log lines of the program.
pub static KINDS: &[EventKind] = &[
    kind("addresses_changed", "a host name of a server resolves to other addresses"),
    kind("auth_file_not_reloaded", "auth_file has changed and is faulty; the previous users remain"),
    kind("auth_file_reloaded", "auth_file has changed and was read again"),
    kind("command", "a command of the console that changes something, such as PAUSE"),
    kind("database_removed", "the line of a database was removed"),
    kind("lingering_server", "a server did not close after its client had disconnected"),
    kind("login_failed", "a login to a server failed"),
    kind("logins_recovered", "a login to a server succeeded again"),
    kind("out_of_step", "a server sent a message that no request was waiting for, and was closed"),
    kind("query_wait_timeout", "a client was disconnected because it had waited too long for a server"),
    kind("reload_failed", "RELOAD found an error, and nothing was changed"),
    kind("reloaded", "the configuration was read again"),
    kind("reserve_used", "a pool uses its reserve"),
    kind("session_functions", "a database has functions that change the session of their caller"),
    kind("session_functions_unread", "the functions of a database could not be read"),
    kind("setting_changed", "a setting was changed with SET"),
    kind("shared_listener_lost", "a shared listener has ended; its clients are disconnected"),
    kind("shutdown", "a phase of the shutdown has begun"),
    kind("started", "the process accepts clients"),
    kind("token_refused", "a server refused an IAM token; the login is tried once more with a new one"),
];

/// One event, or several that are equal but for their time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// When it happened first.
    pub first_at: SystemTime,
    /// When it happened last.
    pub last_at: SystemTime,
    /// How often it happened.
    pub count: u64,
    /// What happened.
    pub event: NotableEvent,
}

/// What happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NotableEvent {
    /// Name of the kind.
    pub kind: String,
    /// Level of the log line: error, warn or info.
    pub level: &'static str,
    /// Database, if it is about one.
    pub database: String,
    /// User, if it is about one.
    pub user: String,
    /// The log line's message.
    pub message: String,
    /// What to do, if anything.
    pub hint: String,
}

/// The last events.
pub struct EventLog(Mutex<VecDeque<EventRecord>>);

/// Those of this process. Like the log, which adds them, the list is one per process.
pub static EVENTS: EventLog = EventLog::new();

impl EventLog {
    const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn list(&self) -> MutexGuard<'_, VecDeque<EventRecord>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event, or counts it if it is already in the list.
    pub fn add(&self, mut event: NotableEvent, at: SystemTime) {
        for text in [&mut event.message, &mut event.hint, &mut event.database, &mut event.user] {
            text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        }
        let mut list = self.list();
        let known = list.iter().position(|record| record.event == event);
        let record = match known.and_then(|place| list.remove(place)) {
            Some(record) => EventRecord { last_at: at, count: record.count + 1, ..record },
            None => EventRecord { first_at: at, last_at: at, count: 1, event },
        };
        let of_kind = list.iter().filter(|other| other.event.kind == record.event.kind).count();
        if of_kind >= MAX_OF_KIND
            && let Some(oldest) = list.iter().position(|other| other.event.kind == record.event.kind)
        {
            list.remove(oldest);
        }
        if list.len() >= MAX_EVENTS {
            list.pop_front();
        }
        list.push_back(record);
    }

    /// The events, the last one first.
    pub fn latest(&self) -> Vec<EventRecord> {
        self.list().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn event(kind: &str, message: &str) -> NotableEvent {
        NotableEvent { kind: kind.to_owned(), message: message.to_owned(), ..NotableEvent::default() }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn repetitions_are_merged_and_move_to_the_front() {
        let log = EventLog::new();
        log.add(event("a", "x"), at(1));
        log.add(event("b", "y"), at(2));
        log.add(event("a", "x"), at(3));
        let latest = log.latest();
        let first = &latest[0];
        assert_eq!((first.first_at, first.last_at, first.count), (at(1), at(3), 2));
        assert_eq!((first.event.message.as_str(), latest.len()), ("x", 2));
    }

    #[test]
    fn a_kind_that_repeats_does_not_displace_the_others() {
        let log = EventLog::new();
        log.add(event("reloaded", "rare"), at(0));
        for number in 0..1000 {
            log.add(event("login_failed", &format!("failure {number}")), at(number));
        }
        let latest = log.latest();
        assert_eq!(latest.len(), MAX_OF_KIND + 1);
        assert_eq!(latest[0].event.message, "failure 999");
        assert_eq!(latest[MAX_OF_KIND].event.kind, "reloaded");
        for number in 0..1000 {
            log.add(event(&format!("kind {number}"), ""), at(2000));
        }
        assert_eq!(log.latest().len(), MAX_EVENTS);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let log = EventLog::new();
        log.add(event("a", &"ü".repeat(MAX_TEXT_BYTES)), at(0));
        assert_eq!(log.latest()[0].event.message.len(), MAX_TEXT_BYTES);
    }

    #[test]
    fn kinds_are_sorted_and_described() {
        assert!(KINDS.is_sorted_by_key(|kind| kind.name));
        assert!(KINDS.iter().all(|kind| !kind.meaning.is_empty() && !kind.meaning.ends_with('.')));
    }
}
