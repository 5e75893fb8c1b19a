//! The last minutes of each pool, and the last minute of each database in durations. Owns two bounded lists of samples that
//! are taken every few seconds; which pools have names of their own is decided by the caller.

use super::Totals;
use super::snapshot::{Durations, PoolCounts, PoolName};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(5);
/// Number of samples of pools: five minutes.
const MAX_POINTS: usize = 60;
/// Number of samples of databases: one minute, from the first to the last.
const MAX_MARKS: usize = 13;

/// A pool at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolPoint {
    /// Servers in use.
    pub active: usize,
    /// Idle servers.
    pub idle: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// Longest wait.
    pub longest_wait: Duration,
    /// Queries per second since the sample before; 0 in the first one.
    pub queries_per_second: f64,
}

/// All pools at one time.
struct Point {
    at: Instant,
    pools: BTreeMap<PoolName, PoolPoint>,
}

/// Counters and durations of all databases at one time.
struct Mark {
    at: Instant,
    databases: BTreeMap<String, DatabaseWork>,
}

/// What a database has counted.
#[derive(Debug, Clone, Copy, Default)]
struct DatabaseWork {
    totals: Totals,
    durations: Durations,
}

/// What a database has done within a time.
#[derive(Debug, Clone, Copy)]
pub struct RecentWork {
    /// The time.
    pub period: Duration,
    /// Increase of its counters.
    pub totals: Totals,
    /// Durations of what has ended within it.
    pub durations: Durations,
}

#[derive(Default)]
struct Lists {
    points: VecDeque<Point>,
    marks: VecDeque<Mark>,
    /// Queries of each pool at the last sample.
    queries: BTreeMap<PoolName, u64>,
}

/// The history of the process.
#[derive(Default)]
pub struct History(Mutex<Lists>);

fn push<T>(list: &mut VecDeque<T>, most: usize, item: T) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}

impl History {
    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample.
    pub fn record(&self, pools: &[(PoolName, PoolCounts)], at: Instant) {
        let mut lists = self.lists();
        let passed = lists.points.back().map(|point| at.saturating_duration_since(point.at).as_secs_f64());
        let queries = std::mem::take(&mut lists.queries);
        let point = |(name, counts): &(PoolName, PoolCounts)| {
            // What a new name has counted before is not the work of one step.
            let increase =
                queries.get(name).map_or(0, |before| counts.totals.queries.saturating_sub(*before));
            let queries_per_second =
                passed.filter(|passed| *passed > 0.0).map_or(0.0, |passed| increase as f64 / passed);
            let point = PoolPoint {
                active: counts.active,
                idle: counts.idle,
                waiting: counts.clients.waiting,
                longest_wait: counts.longest_wait,
                queries_per_second,
            };
            (name.clone(), point)
        };
        let point = Point { at, pools: pools.iter().map(point).collect() };
        lists.queries = pools.iter().map(|(name, counts)| (name.clone(), counts.totals.queries)).collect();
        push(&mut lists.points, MAX_POINTS, point);
        let mut databases: BTreeMap<String, DatabaseWork> = BTreeMap::new();
        for ((database, _), counts) in pools {
            let sum = databases.entry(database.clone()).or_default();
            sum.totals = sum.totals + counts.totals;
            sum.durations = sum.durations + counts.durations;
        }
        push(&mut lists.marks, MAX_MARKS, Mark { at, databases });
    }

    /// The pools of the sample in this place, from the oldest one: how long ago it was taken, and the pool. `None` if
    /// there are not as many.
    pub fn sample(&self, place: usize, now: Instant) -> Option<Vec<(Duration, PoolName, PoolPoint)>> {
        let lists = self.lists();
        let point = lists.points.get(place)?;
        let age = now.saturating_duration_since(point.at);
        Some(point.pools.iter().map(|(name, pool)| (age, name.clone(), *pool)).collect())
    }

    /// What each database has done in the last minute. A database that appeared within it counts from zero.
    pub fn last_minute(&self) -> BTreeMap<String, RecentWork> {
        let lists = self.lists();
        let (Some(first), Some(last)) = (lists.marks.front(), lists.marks.back()) else {
            return BTreeMap::new();
        };
        let recent = |(name, now): (&String, &DatabaseWork)| {
            let before = first.databases.get(name).copied().unwrap_or_default();
            let work = RecentWork {
                period: last.at.saturating_duration_since(first.at),
                totals: now.totals - before.totals,
                durations: now.durations - before.durations,
            };
            (name.clone(), work)
        };
        last.databases.iter().map(recent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::histogram::Histogram;

    fn points(history: &History, now: Instant) -> Vec<(Duration, PoolName, PoolPoint)> {
        (0..).map_while(|place| history.sample(place, now)).flatten().collect()
    }

    fn pool(queries: u64, took_us: &[u64]) -> (PoolName, PoolCounts) {
        let histogram = Histogram::default();
        took_us.iter().for_each(|us| histogram.observe(*us));
        let counts = PoolCounts {
            active: 3,
            totals: Totals { queries, ..Totals::default() },
            durations: Durations { queries: histogram.buckets(), ..Durations::default() },
            ..PoolCounts::default()
        };
        (("app".to_owned(), "ann".to_owned()), counts)
    }

    #[test]
    fn rates_are_per_second_and_start_at_zero() {
        let (history, began) = (History::default(), Instant::now());
        let at = |seconds| began + Duration::from_secs(seconds);
        history.record(&[pool(1000, &[])], at(0));
        history.record(&[pool(1050, &[])], at(5));
        let points = points(&history, at(7));
        let rates: Vec<_> =
            points.iter().map(|(age, _, pool)| (age.as_secs(), pool.queries_per_second)).collect();
        assert_eq!(rates, [(7, 0.0), (2, 10.0)]);
        assert_eq!(points[0].2.active, 3);
    }

    #[test]
    fn both_lists_are_bounded_and_the_last_minute_is_a_difference() {
        let (history, began) = (History::default(), Instant::now());
        for step in 0..200u64 {
            history.record(&[pool(step, &vec![100; step as usize])], began + STEP * step as u32);
        }
        assert_eq!(points(&history, began + STEP * 200).len(), MAX_POINTS);
        let work = history.last_minute()["app"];
        assert_eq!((work.period, work.totals.queries), (Duration::from_secs(60), 12));
        assert_eq!(work.durations.queries.count(), 12);
    }

    #[test]
    fn a_new_database_counts_from_zero_and_a_removed_one_is_left_out() {
        let (history, began) = (History::default(), Instant::now());
        history.record(&[], began);
        history.record(&[pool(7, &[])], began + STEP);
        assert_eq!(history.last_minute()["app"].totals.queries, 7);
        history.record(&[], began + STEP * 2);
        assert!(history.last_minute().is_empty());
    }
}
