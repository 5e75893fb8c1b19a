//! The allocator of the C library: how it keeps freed memory, and the decision to return it to the system after many
//! clients have left or many pools were dropped, however little was live between what is free.

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

/// Lets the allocator merge each freed part with its neighbours. It would otherwise keep small parts apart until a large
/// request merges all of them at once: after an answer of 20,000 rows that stopped a worker for 13 ms.
pub(super) fn merge_at_once() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a function of the C library")]
    // SAFETY: it may be called at any time; it changes a parameter of the allocator.
    unsafe {
        libc::mallopt(libc::M_MXFAST, 0);
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
