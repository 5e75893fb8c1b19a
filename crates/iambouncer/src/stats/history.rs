//! The last minutes of each pool, and the last minute of each database in durations. Owns two bounded lists of samples that
//! are taken every few seconds from what the workers report. They report only pools in use, so that unused ones cost nothing.

use super::Totals;
use super::snapshot::{Durations, MAX_NAMED_POOLS, OTHER, PoolName};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Add, Sub};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two samples, and between two reports of a worker.
pub const STEP: Duration = Duration::from_secs(5);
/// Number of samples of pools: five minutes.
const MAX_POINTS: usize = 60;
/// Number of samples of databases: one minute.
const MAX_MARKS: usize = 12;

/// A pool at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PoolPoint {
    /// Servers in use.
    pub active: usize,
    /// Idle servers.
    pub idle: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// Longest wait.
    pub longest_wait: Duration,
    /// Queries per second since the sample before.
    pub queries_per_second: f64,
}

impl Add for PoolPoint {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            active: self.active + other.active,
            idle: self.idle + other.idle,
            waiting: self.waiting + other.waiting,
            longest_wait: self.longest_wait.max(other.longest_wait),
            queries_per_second: self.queries_per_second + other.queries_per_second,
        }
    }
}

/// What a pool or a database has done within a time, or since its first use.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolWork {
    /// Counters.
    pub totals: Totals,
    /// Durations of what has ended.
    pub durations: Durations,
}

impl PoolWork {
    /// True if nothing was counted.
    pub fn is_none(&self) -> bool {
        self.totals == Totals::default()
    }
}

impl Add for PoolWork {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { totals: self.totals + other.totals, durations: self.durations + other.durations }
    }
}

impl Sub for PoolWork {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { totals: self.totals - other.totals, durations: self.durations - other.durations }
    }
}

/// What a worker reports of a pool.
#[derive(Debug, Clone)]
pub struct PoolReport {
    /// The pool.
    pub name: PoolName,
    /// Its state.
    pub point: PoolPoint,
    /// What it has done since the worker's report before.
    pub work: PoolWork,
}

/// All pools in use at one time.
struct Point {
    at: Instant,
    pools: BTreeMap<PoolName, PoolPoint>,
}

/// What the databases in use have done within a step.
struct Mark {
    step: Duration,
    databases: BTreeMap<String, PoolWork>,
}

/// What a database has done within a time.
#[derive(Debug, Clone, Copy)]
pub struct RecentWork {
    /// The time.
    pub period: Duration,
    /// What it has done.
    pub work: PoolWork,
}

struct Lists {
    points: VecDeque<Point>,
    marks: VecDeque<Mark>,
    sampled_at: Instant,
    /// The pools in use at each worker, as it has reported last.
    reported: BTreeMap<usize, BTreeMap<PoolName, PoolPoint>>,
    /// What the pools have done since the last sample.
    work: BTreeMap<PoolName, PoolWork>,
}

/// The history of the process.
pub struct History(Mutex<Lists>);

fn push<T>(list: &mut VecDeque<T>, most: usize, item: T) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(item);
}

impl Lists {
    /// Pools with a sample that is kept.
    fn names(&self) -> BTreeSet<&PoolName> {
        self.points.iter().flat_map(|point| point.pools.keys()).collect()
    }

    /// A name for each of these pools: its own, unless there are too many, for any user who may log in can create pools of
    /// a `*` line.
    fn names_of(&self, pools: BTreeSet<PoolName>) -> BTreeMap<PoolName, PoolName> {
        let mut known = self.names();
        known.retain(|(database, _)| database != OTHER);
        let mut free = MAX_NAMED_POOLS.saturating_sub(known.len());
        let mut name = |pool: &PoolName| {
            if known.contains(pool) {
                return pool.clone();
            }
            // A database with the name of the sum must not replace it.
            if pool.0 == OTHER || free == 0 {
                return (OTHER.to_owned(), OTHER.to_owned());
            }
            free -= 1;
            pool.clone()
        };
        pools.iter().map(|pool| (pool.clone(), name(pool))).collect()
    }
}

impl History {
    /// The history of a process that starts now.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new(Lists {
            points: VecDeque::new(),
            marks: VecDeque::new(),
            sampled_at: now,
            reported: BTreeMap::new(),
            work: BTreeMap::new(),
        }))
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives the report of a worker on its pools in use. The others have no servers and no clients that wait.
    pub fn report(&self, worker: usize, pools: Vec<PoolReport>) {
        let mut lists = self.lists();
        for pool in pools.iter().filter(|pool| !pool.work.is_none()) {
            let sum = lists.work.entry(pool.name.clone()).or_default();
            *sum = *sum + pool.work;
        }
        lists.reported.insert(worker, pools.into_iter().map(|pool| (pool.name, pool.point)).collect());
    }

    /// Adds a sample of what was reported.
    pub fn take_sample(&self, at: Instant) {
        let mut lists = self.lists();
        let work = std::mem::take(&mut lists.work);
        let reported = || lists.reported.values().flatten();
        let names = lists.names_of(reported().map(|(pool, _)| pool).chain(work.keys()).cloned().collect());
        let (mut pools, mut databases) = (BTreeMap::new(), BTreeMap::new());
        for (pool, point) in reported() {
            let sum: &mut PoolPoint = pools.entry(names[pool].clone()).or_default();
            *sum = *sum + *point;
        }
        for (pool, work) in work {
            let sum: &mut PoolWork = databases.entry(names[&pool].0.clone()).or_default();
            *sum = *sum + work;
        }
        push(&mut lists.points, MAX_POINTS, Point { at, pools });
        let step = at.saturating_duration_since(std::mem::replace(&mut lists.sampled_at, at));
        push(&mut lists.marks, MAX_MARKS, Mark { step, databases });
    }

    /// The sample in this place, from the oldest one: how long ago it was taken, and each pool that was in use at the time
    /// of any sample. `None` if there are not as many.
    pub fn sample(&self, place: usize, now: Instant) -> Option<Vec<(Duration, PoolName, PoolPoint)>> {
        let lists = self.lists();
        let point = lists.points.get(place)?;
        let age = now.saturating_duration_since(point.at);
        let of_pool = |name: &PoolName| point.pools.get(name).copied().unwrap_or_default();
        Some(lists.names().into_iter().map(|name| (age, name.clone(), of_pool(name))).collect())
    }

    /// What each database that was in use has done in the last minute.
    pub fn last_minute(&self) -> BTreeMap<String, RecentWork> {
        let lists = self.lists();
        let period = lists.marks.iter().map(|mark| mark.step).sum();
        let mut all: BTreeMap<String, RecentWork> = BTreeMap::new();
        for (name, work) in lists.marks.iter().flat_map(|mark| &mark.databases) {
            let recent =
                all.entry(name.clone()).or_insert_with(|| RecentWork { period, work: PoolWork::default() });
            recent.work = recent.work + *work;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::histogram::Histogram;

    fn rows(history: &History, now: Instant) -> Vec<(u64, String, PoolPoint)> {
        let samples = (0..).map_while(|place| history.sample(place, now)).flatten();
        samples.map(|(age, (database, _), point)| (age.as_secs(), database, point)).collect()
    }

    fn pool(database: &str, queries: u64, took_us: &[u64]) -> PoolReport {
        let histogram = Histogram::default();
        took_us.iter().for_each(|us| histogram.observe(*us));
        PoolReport {
            name: (database.to_owned(), "ann".to_owned()),
            point: PoolPoint { active: 3, queries_per_second: queries as f64, ..PoolPoint::default() },
            work: PoolWork {
                totals: Totals { queries, ..Totals::default() },
                durations: Durations { queries: histogram.buckets(), ..Durations::default() },
            },
        }
    }

    #[test]
    fn a_pool_is_the_sum_of_the_last_reports_of_all_workers() {
        let began = Instant::now();
        let history = History::new(began);
        history.report(0, vec![pool("app", 9, &[])]);
        history.report(0, vec![pool("app", 10, &[])]);
        history.report(1, vec![pool("app", 5, &[])]);
        history.take_sample(began + STEP);
        let rows = rows(&history, began + STEP);
        assert_eq!((rows.len(), rows[0].2.active, rows[0].2.queries_per_second), (1, 6, 15.0));
        // Both reports of the first worker count as work.
        assert_eq!(history.last_minute()["app"].work.totals.queries, 24);
    }

    #[test]
    fn a_pool_in_use_for_a_part_of_the_time_has_a_row_for_each_sample() {
        let began = Instant::now();
        let history = History::new(began);
        for (step, pools) in [vec![], vec![pool("app", 1, &[])], vec![]].into_iter().enumerate() {
            history.report(0, pools);
            history.take_sample(began + STEP * step as u32);
        }
        let shown: Vec<_> =
            rows(&history, began + STEP * 2).into_iter().map(|(age, _, point)| (age, point.active)).collect();
        assert_eq!(shown, [(10, 0), (5, 3), (0, 0)]);
        for step in 3..100 {
            history.take_sample(began + STEP * step);
        }
        assert!(rows(&history, began + STEP * 100).is_empty(), "five minutes later");
    }

    #[test]
    fn both_lists_are_bounded() {
        let began = Instant::now();
        let history = History::new(began);
        for step in 1..200u64 {
            history.report(0, vec![pool("app", 2, &[100])]);
            history.take_sample(began + STEP * step as u32);
        }
        assert_eq!(rows(&history, began + STEP * 200).len(), MAX_POINTS);
        let RecentWork { period, work } = history.last_minute()["app"];
        assert_eq!((period, work.totals.queries), (Duration::from_secs(60), 24));
        assert_eq!(work.durations.queries.count(), 12);
    }

    #[test]
    fn pools_without_a_name_of_their_own_are_summed_and_names_become_free() {
        let began = Instant::now();
        let history = History::new(began);
        let names = || (0..MAX_NAMED_POOLS + 2).map(|n| format!("db{n:04}"));
        let mut reports: Vec<_> = names().map(|name| pool(&name, 1, &[])).collect();
        reports.push(pool(OTHER, 1, &[]));
        history.report(0, reports);
        history.take_sample(began);
        let shown = rows(&history, began);
        assert_eq!(shown.len(), MAX_NAMED_POOLS + 1);
        let sum = shown.iter().find(|(_, database, _)| database == OTHER).unwrap();
        assert_eq!(sum.2.active, 9);
        assert_eq!(history.last_minute()[OTHER].work.totals.queries, 3);
        for step in 1..=MAX_POINTS as u32 + 1 {
            history.report(0, vec![pool("db9999", 1, &[])]);
            history.take_sample(began + STEP * step);
        }
        let last = rows(&history, began).pop().unwrap();
        assert_eq!(last.1, "db9999");
    }
}
