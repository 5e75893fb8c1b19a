//! Memory after many clients have left or many pools were dropped. Owns the decision to return it to the system: the
//! allocator keeps freed memory between live allocations, however long it is unused.

use std::cell::Cell;

/// A smaller decrease is not worth scanning the whole heap.
const MIN_GONE: u32 = 1000;

/// Tracks the number of clients, or of pools.
#[derive(Default)]
pub(super) struct HighWaterMark {
    /// The highest count since memory was last returned.
    highest: Cell<u32>,
}

impl HighWaterMark {
    /// True if the count has dropped below half of the highest. This resets the highest count.
    pub(super) fn is_low(&self, count: u32) -> bool {
        let highest = self.highest.get().max(count);
        let is_low = highest - count >= MIN_GONE && count < highest / 2;
        self.highest.set(if is_low { count } else { highest });
        is_low
    }
}

/// Returns free memory to the system. Takes some milliseconds with a large heap, so it must not run on a worker.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a function of the C library")]
    // SAFETY: it may be called at any time and from any thread; it only affects free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_returned_once_after_most_have_left() {
        let high_water_mark = HighWaterMark::default();
        assert!(!high_water_mark.is_low(10_000));
        assert!(!high_water_mark.is_low(5_000));
        assert!(high_water_mark.is_low(4_999));
        assert!(!high_water_mark.is_low(4_000));
        assert!(!high_water_mark.is_low(4_000));
        assert!(high_water_mark.is_low(0));
        // A few clients coming and going do not matter.
        assert!(!high_water_mark.is_low(900));
        assert!(!high_water_mark.is_low(0));
    }
}
