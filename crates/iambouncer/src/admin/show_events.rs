//! SHOW EVENTS and SHOW LOGIN_FAILURES: what has happened. Owns their tables; the lists belong to [`crate::events`] and the
//! counters of logins.

use super::columns::{Records, Table, int8, shown, text};
use super::console::Console;
use crate::events::{EVENTS as LIST, EventRecord};
use crate::identities::text_of_time;
use crate::stats::last_failures::PoolFailures;
use crate::stats::snapshot::PoolName;

pub(super) static EVENTS: Table<EventRecord> = Table {
    columns: &[
        text("time", |record| shown(text_of_time(record.last_at))),
        text("event", |record| shown(&record.event.kind)),
        text("level", |record| shown(record.event.level)),
        text("database", |record| shown(&record.event.database)),
        text("user", |record| shown(&record.event.user)),
        text("message", |record| shown(&record.event.message)),
        text("hint", |record| shown(&record.event.hint)),
        int8("count", |record| shown(record.count)),
        text("first_time", |record| shown(text_of_time(record.first_at))),
    ],
    records: Records::Here(|_| LIST.latest()),
};

/// Database and user, and the failures.
type FailureRecord = (PoolName, PoolFailures);

pub(super) static LOGIN_FAILURES: Table<FailureRecord> = Table {
    columns: &[
        text("database", |((database, _), _)| shown(database)),
        text("user", |((_, user), _)| shown(user)),
        text("endpoint", |(_, failures)| shown(&failures.last.endpoint)),
        text("time", |(_, failures)| shown(text_of_time(failures.last.at))),
        text("cause", |(_, failures)| shown(failures.last.cause)),
        text("reason", |(_, failures)| shown(failures.last.reason)),
        text("message", |(_, failures)| shown(&failures.last.message)),
        text("remedy", |(_, failures)| shown(&failures.last.remedy)),
        int8("failures", |(_, failures)| shown(failures.count)),
        text("recovered", |(_, failures)| failures.recovered_at.map(text_of_time)),
    ],
    records: Records::Here(failures),
};

fn failures(console: &Console) -> Vec<FailureRecord> {
    console.context.process.logins.last_failures.list()
}
