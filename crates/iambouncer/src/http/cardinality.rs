//! The bound on series. Owns which pools have series of their own and which are summed: anybody who may log in can make
//! pools behind a `*` line, and what reads the metrics keeps every name it has ever seen.

use crate::admin::gathered::PoolCounts;
use crate::stats::Totals;
use crate::stats::histogram::Buckets;
use std::collections::{BTreeMap, BTreeSet};

/// Pools with series of their own. With all histograms, one has some eighty lines.
pub(super) const MAX_POOLS: usize = 200;
/// Stands for the names of all others.
pub(super) const OTHER: &str = "_other";

/// Database and user.
pub(super) type PoolLabels = (String, String);

/// Counters of pools that are gone.
#[derive(Default)]
struct RemovedPools {
    totals: Totals,
    queries: Buckets,
    transactions: Buckets,
    waits: Buckets,
}

/// Remembers who has a name: it is kept for as long as the pool is there, so that counters never fall.
#[derive(Default)]
pub(super) struct Cardinality {
    named: BTreeSet<PoolLabels>,
    others: BTreeMap<PoolLabels, PoolCounts>,
    /// Of the others: what they had counted when they went stays in the sum.
    gone: RemovedPools,
}

impl Cardinality {
    /// All pools, no more than [`MAX_POOLS`] by name and the rest as one.
    pub(super) fn bound(
        &mut self,
        pools: BTreeMap<PoolLabels, PoolCounts>,
        most: usize,
    ) -> Vec<(PoolLabels, PoolCounts)> {
        self.named.retain(|key| pools.contains_key(key));
        let before = std::mem::take(&mut self.others);
        let mut rows = Vec::new();
        for (key, counts) in pools {
            // Nobody becomes the sum of the others by calling himself so.
            let may_have_name = key.0 != OTHER && !before.contains_key(&key);
            let has_name = self.named.contains(&key)
                || (may_have_name && self.named.len() < most && self.named.insert(key.clone()));
            if has_name {
                rows.push((key, counts));
            } else {
                self.others.insert(key, counts);
            }
        }
        for (_, counts) in before.into_iter().filter(|(key, _)| !self.others.contains_key(key)) {
            self.gone.add(&counts);
        }
        rows.extend(self.sum_of_others().map(|sum| ((OTHER.to_owned(), OTHER.to_owned()), sum)));
        rows
    }

    fn sum_of_others(&self) -> Option<PoolCounts> {
        let mut others = self.others.values();
        let mut sum = others.next()?.clone();
        for counts in others {
            sum.add(counts);
            sum.size += counts.size;
        }
        sum.totals = sum.totals + self.gone.totals;
        sum.queries = sum.queries + self.gone.queries;
        sum.transactions = sum.transactions + self.gone.transactions;
        sum.waits = sum.waits + self.gone.waits;
        Some(sum)
    }
}

impl RemovedPools {
    fn add(&mut self, counts: &PoolCounts) {
        self.totals = self.totals + counts.totals;
        self.queries = self.queries + counts.queries;
        self.transactions = self.transactions + counts.transactions;
        self.waits = self.waits + counts.waits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(counts: &[(&str, u64)]) -> BTreeMap<PoolLabels, PoolCounts> {
        let one = |(name, queries): &(&str, u64)| {
            let totals = Totals { queries: *queries, ..Totals::default() };
            let counts = PoolCounts { totals, size: 5, ..PoolCounts::default() };
            (((*name).to_owned(), "u".to_owned()), counts)
        };
        counts.iter().map(one).collect()
    }

    fn shown(rows: &[(PoolLabels, PoolCounts)]) -> Vec<(&str, u64)> {
        rows.iter().map(|((database, _), counts)| (database.as_str(), counts.totals.queries)).collect()
    }

    #[test]
    fn names_are_kept_and_the_rest_is_summed() {
        let mut cardinality = Cardinality::default();
        let rows = cardinality.bound(pools(&[("b", 1), ("c", 2)]), 2);
        assert_eq!(shown(&rows), [("b", 1), ("c", 2)]);
        // Earlier in the alphabet, later in the process.
        let rows = cardinality.bound(pools(&[("a", 10), ("b", 1), ("c", 2), ("d", 20)]), 2);
        assert_eq!(shown(&rows), [("b", 1), ("c", 2), (OTHER, 30)]);
        assert_eq!(rows[2].1.size, 10);
    }

    #[test]
    fn a_pool_that_is_called_like_the_sum_is_part_of_it() {
        let rows = Cardinality::default().bound(pools(&[(OTHER, 4), ("a", 1)]), 5);
        assert_eq!(shown(&rows), [("a", 1), (OTHER, 4)]);
    }

    #[test]
    fn the_sum_of_the_others_never_falls() {
        let mut cardinality = Cardinality::default();
        cardinality.bound(pools(&[("a", 1)]), 1);
        let all = pools(&[("a", 1), ("b", 10), ("c", 5)]);
        assert_eq!(shown(&cardinality.bound(all, 1)), [("a", 1), (OTHER, 15)]);
        let rows = cardinality.bound(pools(&[("a", 1), ("c", 6)]), 1);
        assert_eq!(shown(&rows), [("a", 1), (OTHER, 16)]);
        // A name that becomes free goes to a newcomer, not to one that has been among the others.
        let rows = cardinality.bound(pools(&[("c", 6), ("d", 3)]), 1);
        assert_eq!(shown(&rows), [("d", 3), (OTHER, 16)]);
    }
}
