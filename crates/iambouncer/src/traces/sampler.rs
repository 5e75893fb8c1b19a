//! Which transactions of a worker are exported. Owns the count to the next one; never touched by another thread.

use std::cell::Cell;

/// Selects one of each N transactions, at a random position among them, so that a workload that repeats itself every N
/// transactions is seen in all its parts.
#[derive(Default)]
pub struct Sampler {
    /// Transactions up to the selected one. Zero and below have no meaning while nothing is exported.
    left: Cell<u32>,
    /// N; 0 while nothing is exported.
    one_in: Cell<u32>,
    /// Transactions between the selected one and the last of its N.
    rest: Cell<u32>,
}

impl Sampler {
    /// One in this many transactions from now on; 0 means none.
    pub fn set(&self, one_in: u32) {
        if self.one_in.replace(one_in) != one_in {
            self.rest.set(0);
            self.select();
        }
    }

    /// True if logins and waits without a server are exported.
    pub fn is_on(&self) -> bool {
        self.one_in.get() > 0
    }

    /// Counts a transaction. True if it is the selected one, or if the count has run out while nothing is exported.
    #[inline]
    pub fn is_due(&self) -> bool {
        let left = self.left.get().wrapping_sub(1);
        self.left.set(left);
        left == 0
    }

    /// Selects the next transaction. True if the one that was due is exported.
    #[cold]
    pub fn select(&self) -> bool {
        let one_in = self.one_in.get();
        let position = if one_in > 1 { 1 + random() % one_in } else { one_in };
        self.left.set(self.rest.get() + position);
        self.rest.set(one_in - position);
        one_in > 0
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without random numbers, which does not happen, the position is the same each time.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(sampler: &Sampler, transactions: u32) -> u32 {
        (0..transactions).map(|_| u32::from(sampler.is_due() && sampler.select())).sum()
    }

    #[test]
    fn one_of_each_n_transactions_is_selected() {
        let sampler = Sampler::default();
        assert_eq!(selected(&sampler, 1000), 0);
        for one_in in [1, 2, 7, 100] {
            sampler.set(one_in);
            for _ in 0..50 {
                assert_eq!(selected(&sampler, one_in), 1, "1 in {one_in}");
            }
        }
        sampler.set(0);
        assert_eq!(selected(&sampler, 1000), 0);
        assert!(!sampler.is_on());
    }

    #[test]
    fn an_unchanged_setting_does_not_restart_the_count() {
        let sampler = Sampler::default();
        sampler.set(10);
        let first = selected(&sampler, 5);
        sampler.set(10);
        assert_eq!(first + selected(&sampler, 5), 1);
    }
}
