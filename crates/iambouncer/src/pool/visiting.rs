//! Calls a function for each pool or database of a worker, in steps between which the worker's other tasks run: there may
//! be tens of thousands, and even a list of them takes longer than clients should wait. Owns the order of the visits.

use super::acquire::Pool;
use super::directory::{DatabaseState, Directory};
use crate::worker::executor;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

impl Directory {
    /// Calls a function for each pool, `per_step` (at least 1) before other tasks run. Those that are created or dropped
    /// meanwhile may be left out.
    pub async fn visit_pools(&self, per_step: usize, each: impl FnMut(Rc<Pool>)) {
        visit_while(|| true, &self.pools, per_step, each).await;
    }

    /// The same for databases.
    pub async fn visit_databases(&self, per_step: usize, each: impl FnMut(Rc<DatabaseState>)) {
        visit_while(|| true, &self.databases, per_step, each).await;
    }

    /// As [`Directory::visit_pools`], as long as `goes_on` after each step. False if it did not.
    pub(super) async fn visit_pools_while(
        &self,
        goes_on: impl Fn() -> bool,
        per_step: usize,
        each: impl FnMut(Rc<Pool>),
    ) -> bool {
        visit_while(goes_on, &self.pools, per_step, each).await
    }

    /// The same for databases.
    pub(super) async fn visit_databases_while(
        &self,
        goes_on: impl Fn() -> bool,
        per_step: usize,
        each: impl FnMut(Rc<DatabaseState>),
    ) -> bool {
        visit_while(goes_on, &self.databases, per_step, each).await
    }
}

/// Visits in the order of the keys. `each` may change the map.
async fn visit_while<K: Ord + Clone, V: Clone>(
    goes_on: impl Fn() -> bool,
    map: &RefCell<BTreeMap<K, V>>,
    per_step: usize,
    mut each: impl FnMut(V),
) -> bool {
    let mut last: Option<K> = None;
    loop {
        let step: Vec<V> = {
            let map = map.borrow();
            let from = last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut key = None;
            let entries = map.range::<K, _>((from, Bound::Unbounded)).take(per_step);
            let step =
                entries.inspect(|(next, _)| key = Some(*next)).map(|(_, value)| value.clone()).collect();
            last = key.cloned();
            step
        };
        let is_last = step.len() < per_step;
        step.into_iter().for_each(&mut each);
        if is_last {
            return true;
        }
        executor::yield_now().await;
        if !goes_on() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::{self, reactor::EngineKind};

    fn visited(
        count: u32,
        per_step: usize,
        mut change: impl FnMut(&RefCell<BTreeMap<u32, u32>>) + 'static,
    ) -> Vec<u32> {
        let seen: Rc<RefCell<Vec<u32>>> = Rc::default();
        let values = seen.clone();
        worker::run(EngineKind::Epoll, async move {
            let map = RefCell::new((0..count).map(|key| (key, key)).collect());
            let all = visit_while(
                || true,
                &map,
                per_step,
                |value| {
                    values.borrow_mut().push(value);
                    change(&map);
                },
            );
            assert!(all.await);
        })
        .unwrap();
        seen.take()
    }

    #[test]
    fn each_entry_is_visited_once_however_many_fit_a_step() {
        for (count, per_step) in [(0, 3), (2, 3), (3, 3), (4, 3), (7, 1)] {
            assert_eq!(
                visited(count, per_step, |_| {}),
                (0..count).collect::<Vec<_>>(),
                "{count} {per_step}"
            );
        }
    }

    #[test]
    fn an_entry_that_was_dropped_before_its_step_is_left_out() {
        let drop_four = |map: &RefCell<BTreeMap<u32, u32>>| {
            map.borrow_mut().remove(&4);
        };
        assert_eq!(visited(6, 2, drop_four), [0, 1, 2, 3, 5]);
    }

    #[test]
    fn a_visit_ends_when_it_should_not_go_on() {
        worker::run(EngineKind::Epoll, async {
            let map = RefCell::new((0..9).map(|key| (key, key)).collect::<BTreeMap<_, _>>());
            let mut seen = Vec::new();
            assert!(!visit_while(|| false, &map, 4, |value| seen.push(value)).await);
            assert_eq!(seen, [0, 1, 2, 3]);
        })
        .unwrap();
    }
}
