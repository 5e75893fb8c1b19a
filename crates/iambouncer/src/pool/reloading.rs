//! How a changed configuration is applied to the databases and pools of a worker. Owns the order and the steps: there may
//! be thousands, and clients of the worker are served in between.

use super::directory::{DatabaseState, Directory};
use crate::config::{Config, Database};
use crate::worker::executor::for_each_in_steps_while;
use std::rc::Rc;
use std::sync::Arc;

/// Lines, databases or pools that are changed before other tasks of the worker get their turn.
const PER_STEP: usize = 50;

impl Directory {
    /// Applies the configuration of the context to databases and pools, in steps. Servers of a changed line are closed as
    /// they become free. A database whose line was removed is dropped and marked; the caller closes its clients. Its name
    /// is then covered by the fallback, if any.
    ///
    /// Returns early if another configuration is put in force meanwhile: that one is applied by its own call.
    pub async fn reload(&self) {
        let config = self.context.config();
        let is_in_force = || Arc::ptr_eq(&config, &self.context.config());
        let apply_line = |(name, line): (&String, &Database)| self.apply_line(name, line);
        let mut with_minimum = Vec::new();
        let apply_to_known = |state: Rc<DatabaseState>| {
            self.apply_removal(&config, &state);
            if !state.gone.get() && state.has_minimum(&config) {
                with_minimum.push(state);
            }
        };
        if for_each_in_steps_while(is_in_force, &config.databases, PER_STEP, apply_line).await
            && self.visit_databases_while(is_in_force, PER_STEP, apply_to_known).await
        {
            *self.with_minimum.borrow_mut() = with_minimum;
            self.visit_pools_while(is_in_force, PER_STEP, |pool| pool.reload()).await;
        }
    }

    fn apply_line(&self, name: &str, line: &Database) {
        match self.known(name) {
            Some(state) => {
                state.is_auto.set(false);
                replace_line(&state, line);
            }
            None => {
                self.add_database(name, Rc::new(line.clone()), false);
            }
        }
    }

    fn apply_removal(&self, config: &Config, state: &Rc<DatabaseState>) {
        if config.databases.contains_key(&*state.name) {
            return;
        }
        match config.fallback.as_ref().filter(|_| state.is_auto.get()) {
            Some(line) => replace_line(state, line),
            None => self.remove(state),
        }
    }

    fn remove(&self, state: &Rc<DatabaseState>) {
        tracing::info!(event = "database_removed", database = %state.name, "database removed");
        state.gone.set(true);
        self.databases.borrow_mut().remove(&state.name);
        for pool in state.pools() {
            self.pools.borrow_mut().remove(&(state.name.clone(), pool.user.clone()));
            pool.shut_down();
        }
    }
}

fn replace_line(state: &DatabaseState, line: &Database) {
    if **state.line.borrow() != *line {
        *state.line.borrow_mut() = Rc::new(line.clone());
        for pool in state.pools() {
            pool.apply_line_change();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::ConfigFiles;
    use crate::pool::sample_directory;
    use crate::worker::executor;
    use std::cell::Cell;

    const DATABASES: usize = 10 * PER_STEP;

    /// Lines `app0`, `app1`, … of a server at this port. Only the last opens servers without a client.
    fn ini(count: usize, port: u16) -> String {
        let line = |number: usize| format!("app{number} = host=/nowhere port={port} user=app\n");
        let lines: String = (0..count).map(line).collect();
        format!("[databases]\n{lines}last = host=/nowhere port={port} user=app min_pool_size=1\n")
    }

    fn replace(directory: &Directory, ini: &str) {
        let config = sample_directory::config(ini);
        directory.context.replace(ConfigFiles { config, ..(*directory.context.loaded()).clone() });
    }

    fn port(directory: &Directory, name: &str) -> Option<u16> {
        Some(directory.known(name)?.line.borrow().port)
    }

    fn names_with_minimum(directory: &Directory) -> Vec<String> {
        directory.with_minimum.borrow().iter().map(|state| state.name.to_string()).collect()
    }

    #[test]
    fn a_worker_serves_its_clients_while_thousands_of_lines_are_applied() {
        sample_directory::run(&ini(DATABASES, 5432), async |directory| {
            let pool = directory.pool(&directory.known("app1").unwrap(), "app");
            assert_eq!(names_with_minimum(&directory), ["last"]);
            replace(&directory, &ini(DATABASES - 1, 5433));
            let turns = sample_directory::count_turns();
            directory.reload().await;
            // Lines, then databases.
            assert!(turns.get() >= 2 * (DATABASES / PER_STEP - 1), "{} turns", turns.get());
            assert_eq!(port(&directory, "app1"), Some(5433));
            assert_eq!(pool.database.line.borrow().port, 5433);
            assert_eq!(port(&directory, &format!("app{}", DATABASES - 1)), None, "its line was removed");
            assert_eq!(names_with_minimum(&directory), ["last"]);
        });
    }

    #[test]
    fn of_two_configurations_that_are_applied_at_once_the_later_one_wins() {
        sample_directory::run(&ini(DATABASES, 5432), async |directory| {
            replace(&directory, &ini(DATABASES, 5433));
            let (first, is_done) = (directory.clone(), Rc::new(Cell::new(false)));
            let done = is_done.clone();
            executor::spawn(async move {
                first.reload().await;
                done.set(true);
            });
            executor::yield_now().await;
            assert_eq!((port(&directory, "app0"), port(&directory, "last")), (Some(5433), Some(5432)));
            replace(&directory, &ini(1, 5434));
            directory.reload().await;
            executor::yield_now().await;
            assert!(is_done.get(), "the first goes on");
            assert_eq!((port(&directory, "app0"), port(&directory, "last")), (Some(5434), Some(5434)));
            assert_eq!(directory.databases().len(), 2, "the lines of the first are gone");
        });
    }

    #[test]
    fn a_removed_database_takes_only_its_own_pools_with_it() {
        sample_directory::run(&ini(2, 5432), async |directory| {
            let removed = directory.known("app1").unwrap();
            let pool = directory.pool(&removed, "app");
            let other = directory.pool(&directory.known("app0").unwrap(), "app");
            replace(&directory, &ini(1, 5432));
            directory.reload().await;
            assert!(pool.database.gone.get() && !other.database.gone.get());
            assert!(directory.known_pool("app1", "app").is_none());
            assert!(directory.known_pool("app0", "app").is_some());
        });
    }
}
