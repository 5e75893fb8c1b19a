//! Memory after many clients have left or many pools were forgotten. Owns the decision to give it back to the system: the allocator keeps what was
//! freed between things that stay, however long nobody needs it.

use std::cell::Cell;

/// Fewer than this gone are not worth a look at the whole heap.
const MIN_GONE: u32 = 1000;

/// Watches the number of clients, or of pools.
#[derive(Default)]
pub(super) struct HighWaterMark {
    /// Most of them since memory was given back last.
    highest: Cell<u32>,
}

impl HighWaterMark {
    /// True when more than half of those there were have gone. Then it begins anew.
    pub(super) fn is_low(&self, count: u32) -> bool {
        let highest = self.highest.get().max(count);
        let is_low = highest - count >= MIN_GONE && count < highest / 2;
        self.highest.set(if is_low { count } else { highest });
        is_low
    }
}

/// Gives free memory back. Takes some milliseconds with a large heap, so not on a worker.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code, reason = "a function of the C library")]
    // SAFETY: it may be called at any time and from any thread; it touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_after_most_have_left() {
        let high_water_mark = HighWaterMark::default();
        assert!(!high_water_mark.is_low(10_000));
        assert!(!high_water_mark.is_low(5_000));
        assert!(high_water_mark.is_low(4_999));
        assert!(!high_water_mark.is_low(4_000));
        assert!(!high_water_mark.is_low(4_000));
        assert!(high_water_mark.is_low(0));
        // A few clients coming and going are nothing to look at.
        assert!(!high_water_mark.is_low(900));
        assert!(!high_water_mark.is_low(0));
    }
}
