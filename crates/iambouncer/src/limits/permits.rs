//! Counters of taken places, and permits. Owns the count; callers pass the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A count of taken places.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU32>);

/// A taken place; released when dropped.
pub struct Permit(Counter);

impl Counter {
    /// Takes a place if fewer than `limit` are taken. `None` means no limit.
    pub fn take(&self, limit: Option<u32>) -> Option<Permit> {
        let limit = limit.unwrap_or(u32::MAX);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < limit).then(|| taken + 1))
            .ok()
            .map(|_| Permit(self.clone()))
    }

    /// Increments a counter that is used only to detect changes.
    pub fn advance(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// True while there are other references to this counter or permits of it.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Places taken now.
    pub fn taken(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.0.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "a place is released only once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_released() {
        let counter = Counter::default();
        let a = counter.take(Some(2)).unwrap();
        let _b = counter.take(Some(2)).unwrap();
        assert!(counter.take(Some(2)).is_none());
        drop(a);
        assert!(counter.take(Some(2)).is_some());
        assert_eq!(counter.taken(), 1);
        assert!(counter.take(None).is_some());
    }
}
