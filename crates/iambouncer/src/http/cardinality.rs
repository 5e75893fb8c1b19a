//! The limit on the number of series. Owns which pools have series of their own and which are summed: any user who
//! may log in can create pools of a `*` line, and a metrics store keeps every name it has seen.

use crate::stats::Totals;
use crate::stats::snapshot::{Durations, OTHER, PoolCounts, PoolName};
use std::collections::{BTreeMap, BTreeSet};

/// Counters of removed pools.
#[derive(Default)]
struct RemovedPools {
    totals: Totals,
    durations: Durations,
}

/// Assigns names to pools. A name is kept as long as the pool exists, so that counters never decrease.
#[derive(Default)]
pub(super) struct Cardinality {
    named: BTreeSet<PoolName>,
    others: BTreeMap<PoolName, PoolCounts>,
    /// Final counters of removed pools among the others, which stay in the sum.
    gone: RemovedPools,
}

impl Cardinality {
    /// All pools: at most `most` of them by name, the rest as one.
    pub(super) fn bound(
        &mut self,
        pools: BTreeMap<PoolName, PoolCounts>,
        most: usize,
    ) -> Vec<(PoolName, PoolCounts)> {
        self.named.retain(|key| pools.contains_key(key));
        let before = std::mem::take(&mut self.others);
        let mut rows = Vec::new();
        for (key, counts) in pools {
            // A database with the name of the sum must not replace it.
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
        sum.durations = sum.durations + self.gone.durations;
        Some(sum)
    }
}

impl RemovedPools {
    fn add(&mut self, counts: &PoolCounts) {
        self.totals = self.totals + counts.totals;
        self.durations = self.durations + counts.durations;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(counts: &[(&str, u64)]) -> BTreeMap<PoolName, PoolCounts> {
        let one = |(name, queries): &(&str, u64)| {
            let totals = Totals { queries: *queries, ..Totals::default() };
            let counts = PoolCounts { totals, size: 5, ..PoolCounts::default() };
            (((*name).to_owned(), "u".to_owned()), counts)
        };
        counts.iter().map(one).collect()
    }

    fn shown(rows: &[(PoolName, PoolCounts)]) -> Vec<(&str, u64)> {
        rows.iter().map(|((database, _), counts)| (database.as_str(), counts.totals.queries)).collect()
    }

    #[test]
    fn named_pools_keep_their_names_and_the_rest_is_summed() {
        let mut cardinality = Cardinality::default();
        let rows = cardinality.bound(pools(&[("b", 1), ("c", 2)]), 2);
        assert_eq!(shown(&rows), [("b", 1), ("c", 2)]);
        // New pools that sort first do not displace named ones.
        let rows = cardinality.bound(pools(&[("a", 10), ("b", 1), ("c", 2), ("d", 20)]), 2);
        assert_eq!(shown(&rows), [("b", 1), ("c", 2), (OTHER, 30)]);
        assert_eq!(rows[2].1.size, 10);
    }

    #[test]
    fn a_pool_with_the_name_of_the_sum_is_included_in_it() {
        let rows = Cardinality::default().bound(pools(&[(OTHER, 4), ("a", 1)]), 5);
        assert_eq!(shown(&rows), [("a", 1), (OTHER, 4)]);
    }

    #[test]
    fn the_sum_of_the_others_never_decreases() {
        let mut cardinality = Cardinality::default();
        cardinality.bound(pools(&[("a", 1)]), 1);
        let all = pools(&[("a", 1), ("b", 10), ("c", 5)]);
        assert_eq!(shown(&cardinality.bound(all, 1)), [("a", 1), (OTHER, 15)]);
        let rows = cardinality.bound(pools(&[("a", 1), ("c", 6)]), 1);
        assert_eq!(shown(&rows), [("a", 1), (OTHER, 16)]);
        // A free name goes to a new pool, not to one that has been counted among the others.
        let rows = cardinality.bound(pools(&[("c", 6), ("d", 3)]), 1);
        assert_eq!(shown(&rows), [("d", 3), (OTHER, 16)]);
    }
}
