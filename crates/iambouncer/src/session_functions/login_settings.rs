//! The settings with which a session begins: `ALTER ROLE … SET`, `ALTER DATABASE … SET`. Owns when those of a database were last
//! seen to have changed; replaces no server.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Those of one database, at all workers.
#[derive(Debug, Default)]
pub struct LoginSettings(Mutex<LastRead>);

#[derive(Debug, Default)]
struct LastRead {
    /// What identifies them, and where it was read.
    last: Option<(String, String)>,
    changed_at: Option<Instant>,
}

impl LoginSettings {
    fn last_read(&self) -> MutexGuard<'_, LastRead> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a text that changes with the settings, as read of this target. Another target says nothing about servers of the
    /// last one.
    pub fn record(&self, text: String, target: &str, now: Instant) {
        let mut read = self.last_read();
        let is_changed = read.last.as_ref().is_some_and(|(last, read_of)| *last != text && read_of == target);
        if is_changed {
            read.changed_at = Some(now);
        }
        read.last = Some((text, target.to_owned()));
    }

    /// When they were last seen to have changed: sessions that are older may have begun with others.
    pub fn changed_at(&self) -> Option<Instant> {
        self.last_read().changed_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_one_of_the_same_target() {
        let settings = LoginSettings::default();
        let (first, later) = (Instant::now(), Instant::now() + std::time::Duration::from_secs(1));
        settings.record("1/700".to_owned(), "a/app", first);
        settings.record("1/700".to_owned(), "a/app", later);
        settings.record("2/1500".to_owned(), "b/app", later);
        assert_eq!(settings.changed_at(), None);
        settings.record("0/".to_owned(), "b/app", later);
        assert_eq!(settings.changed_at(), Some(later));
    }
}
