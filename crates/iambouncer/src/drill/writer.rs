//! One client of a drill: it writes an entry, waits for the outcome, and writes the next one. Owns what an error means for
//! an entry.

use super::history::{EntryOutcome, WrittenEntry};
use super::{Drill, DrillSession, LOGIN_PAUSE};
use crate::sql_client::SqlError;
use crate::worker::{self, timers};
use std::rc::Rc;

/// Maximum number of entries: all are kept in memory.
const MAX_ENTRIES: u64 = 5_000_000;
/// SQLSTATEs of errors that a pooler reports before a server has received anything: no server can be reached, none is
/// free.
const NOTHING_SENT: [&str; 2] = ["08001", "53300"];

/// Writes until the end of the drill.
pub(super) async fn write(drill: Rc<Drill>, number: u32) {
    let mut session = None;
    // The clients do not begin at the same moment.
    let mut next_at = worker::now() + drill.interval * (number % 100) / 100;
    while !drill.is_over() && drill.next_entry.get() < MAX_ENTRIES {
        timers::sleep_until(next_at.min(drill.ends_at)).await;
        let Some(open) = &mut session else {
            match drill.log_in().await {
                Ok(opened) => session = Some(opened),
                Err(_) => timers::sleep(LOGIN_PAUSE).await,
            }
            continue;
        };
        if drill.is_over() {
            break;
        }
        let entry = drill.next_entry.replace(drill.next_entry.get() + 1);
        // A login that was necessary counts.
        let began = next_at;
        // Half of the clients use transactions of several statements.
        let outcome = match number.is_multiple_of(2) {
            true => write_alone(open, &drill.table, entry).await,
            false => write_in_transaction(open, &drill.table, entry).await,
        };
        let is_usable = matches!(outcome, EntryOutcome::Committed) || open_again(open, &outcome).await;
        let ended = worker::now();
        drill.attempts.borrow_mut().push(WrittenEntry { entry, began, ended, outcome });
        if !is_usable {
            session = None;
        }
        // What was missed while it waited is not made up for.
        next_at = (next_at + drill.interval).max(ended);
    }
    if let Some(session) = session {
        session.login.close();
    }
    drill.running.set(drill.running.get() - 1);
}

fn insert(table: &str, entry: u64) -> String {
    format!("INSERT INTO {table} VALUES ({entry})")
}

/// The INSERT commits itself.
async fn write_alone(session: &mut DrillSession, table: &str, entry: u64) -> EntryOutcome {
    match session.query(&insert(table, entry)).await {
        Ok(_) => EntryOutcome::Committed,
        Err(error) => outcome_of(&error, &NOTHING_SENT),
    }
}

async fn write_in_transaction(session: &mut DrillSession, table: &str, entry: u64) -> EntryOutcome {
    for sql in ["BEGIN", &insert(table, entry)] {
        match session.query(sql).await {
            Ok(_) => {}
            Err(error) => return EntryOutcome::Failed(code_of(&error)),
        }
    }
    match session.query("COMMIT").await {
        Ok(_) => EntryOutcome::Committed,
        Err(error) => outcome_of(&error, &[]),
    }
}

/// The outcome of an entry if the statement that commits it has failed; with one of the `harmless` SQLSTATEs, it was not
/// executed.
fn outcome_of(error: &SqlError, harmless: &[&str]) -> EntryOutcome {
    let code = code_of(error);
    match error {
        SqlError::Refused { severity, .. } if severity == "ERROR" => EntryOutcome::Failed(code),
        SqlError::Refused { code: sqlstate, .. } if harmless.contains(&sqlstate.as_str()) => {
            EntryOutcome::Failed(code)
        }
        _ => EntryOutcome::Unknown(code),
    }
}

/// An error, in the report.
fn code_of(error: &SqlError) -> String {
    match error {
        SqlError::Refused { code, message, .. } => format!("{code} {message}"),
        other => other.to_string(),
    }
}

/// After an error: true if the connection can be used again.
async fn open_again(session: &mut DrillSession, outcome: &EntryOutcome) -> bool {
    matches!(outcome, EntryOutcome::Failed(_)) && session.query("ROLLBACK").await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_before_anything_was_sent_leaves_no_doubt() {
        let refused = |severity: &str, code: &str| SqlError::Refused {
            severity: severity.to_owned(),
            code: code.to_owned(),
            message: "x".to_owned(),
            hint: None,
        };
        assert!(matches!(outcome_of(&refused("ERROR", "25006"), &NOTHING_SENT), EntryOutcome::Failed(_)));
        assert!(matches!(outcome_of(&refused("FATAL", "08001"), &NOTHING_SENT), EntryOutcome::Failed(_)));
        assert!(matches!(outcome_of(&refused("FATAL", "57P01"), &NOTHING_SENT), EntryOutcome::Unknown(_)));
        // A COMMIT behind statements that were executed.
        assert!(matches!(outcome_of(&refused("FATAL", "08001"), &[]), EntryOutcome::Unknown(_)));
        let closed = SqlError::Connection(std::io::ErrorKind::UnexpectedEof.into());
        assert!(matches!(outcome_of(&closed, &NOTHING_SENT), EntryOutcome::Unknown(_)));
    }
}
