//! The state that commands operate on. Owns references only, and the reloader.

use super::table::Action;
use crate::client_error::{self, ClientError};
use crate::clients::{self, ClientInfo, ClientTable};
use crate::config::FileStamp;
use crate::config::Settings;
use crate::context::{ConfigFiles, Context, LoadedUsers};
use crate::lifecycle::{Lifecycle, Phase};
use crate::pool::{Directory, Pool};
use crate::stats::snapshot::{DatabaseCounts, Snapshot};
use crate::stats::{Periods, Statistics};
use crate::worker::workers::Workers;
use crate::worker::{self, timers};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The worker that handles signals and runs commands.
const FIRST: usize = 0;

/// How long a command waits for clients that are moving to another worker, which takes them a fraction of a millisecond.
const MOVE_TIMEOUT: Duration = Duration::from_secs(1);
const MOVE_CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Sets the log destination and level from the settings.
type DirectLog = dyn Fn(&Settings) -> Result<(), String> + Send + Sync;

/// Reads the configuration again; receives the one in force.
type ReadAgain = dyn Fn(&ConfigFiles) -> Result<ConfigFiles, String> + Send + Sync;

/// Applies a configuration change outside the workers.
#[derive(Clone)]
pub struct Reloader {
    /// Reads the configuration again. The error is for the operator.
    pub read: Arc<ReadAgain>,
    /// Sets the log destination and level from the settings. The error is for the operator.
    pub log: Arc<DirectLog>,
}

/// The state of the process as seen by commands at one worker.
pub struct Console {
    /// Configuration and shared services.
    pub context: Rc<Context>,
    /// Databases and pools.
    pub directory: Rc<Directory>,
    /// Connected clients.
    pub clients: Rc<ClientTable>,
    /// Running, draining or stopping.
    pub lifecycle: Rc<Lifecycle>,
    /// Counters of the console's own clients at this worker.
    pub statistics: Statistics,
    /// The periods of averages at this worker.
    pub periods: Periods,
    /// RECONNECT_CLIENTS commands under way.
    pub(super) reconnects: Cell<u32>,
    reloader: Reloader,
    /// The consoles of all workers.
    workers: Workers<Self>,
}

impl Console {
    /// Creates the console of a worker.
    pub fn new(
        context: Rc<Context>,
        directory: Rc<Directory>,
        clients: Rc<ClientTable>,
        lifecycle: Rc<Lifecycle>,
        reloader: Reloader,
        workers: Workers<Self>,
    ) -> Self {
        let (statistics, periods) = (Statistics::default(), Periods::new(worker::now()));
        let reconnects = Cell::new(0);
        Self { context, directory, clients, lifecycle, statistics, periods, reconnects, reloader, workers }
    }

    /// RELOAD: applies the configuration completely or not at all. The error text is for the user.
    ///
    /// # Errors
    /// A file is invalid; the active configuration is unchanged.
    pub async fn reload(&self) -> Result<(), String> {
        let read = self.reloader.read.clone();
        let running = (*self.context.loaded()).clone();
        let read = self
            .context
            .blocking(move || read(&running))
            .await
            .unwrap_or_else(|| Err("reading the configuration was aborted".to_owned()));
        self.context.process.health.reloaded(read.is_ok(), SystemTime::now());
        let mut loaded = read?;
        let settings = &mut Arc::make_mut(&mut loaded.config).settings;
        for name in settings.keep_restart_only(&self.context.config().settings) {
            tracing::warn!("{name} has changed in the configuration; it takes effect after a restart");
        }
        self.put_in_force(loaded).await?;
        tracing::info!(event = "reloaded", "configuration reloaded");
        Ok(())
    }

    /// Reads `auth_file` again if it has changed. A missing or faulty file leaves the previous users in force.
    pub async fn reread_users(&self) {
        let loaded = self.context.loaded();
        let path = loaded.config.settings.auth_file.clone();
        let known = loaded.users_stamp;
        let read = move || match FileStamp::of(&path) {
            Some(now) if Some(now) != known => Some((now, LoadedUsers::read(&path))),
            _ => None,
        };
        let Some((stamp, users)) = self.context.blocking(read).await.flatten() else { return };
        // Only the users: RELOAD may have put another configuration in force meanwhile.
        let mut changed = (*self.context.loaded()).clone();
        changed.users_stamp = Some(stamp);
        match users {
            Ok(users) => {
                tracing::info!(event = "auth_file_reloaded", "auth_file has changed and was read again");
                changed.users = users.users;
            }
            Err(text) => {
                tracing::error!(
                    event = "auth_file_not_reloaded",
                    "auth_file has changed and could not be read; the previous users remain"
                );
                text.lines().for_each(|line| tracing::error!("{line}"));
            }
        }
        // A login that was refused may succeed with another password, so the pools forget that.
        self.apply(changed, |_| ready(())).await;
    }

    /// Activates a configuration with its settings, including that of the log, and closes what it does not permit any more.
    ///
    /// # Errors
    /// The log file cannot be opened; nothing has been changed.
    pub(super) async fn put_in_force(&self, loaded: ConfigFiles) -> Result<(), String> {
        (self.reloader.log)(&loaded.config.settings)?;
        let replaces_servers =
            self.context.config().settings.encrypts_servers_differently(&loaded.config.settings);
        self.apply(loaded, move |console| async move {
            if replaces_servers {
                console.directory.pools().iter().for_each(Pool::retire_all);
            }
            // Listeners set their options now rather than with the next connection.
            console.lifecycle.changed.notify_all();
            console.kill_clients_of_removed_databases().await;
        })
        .await;
        Ok(())
    }

    /// Puts a configuration in force at all workers, and runs `then` at each; at this worker first, so that the next change
    /// builds on it.
    async fn apply<F, A>(&self, files: ConfigFiles, then: F)
    where
        F: Fn(Rc<Self>) -> A + Clone + Send + 'static,
        A: Future<Output = ()> + 'static,
    {
        let before = (*self.context.loaded()).clone();
        self.context.replace(files.clone());
        self.at_all(move |console| {
            console.context.replace(files.clone());
            let then = then.clone();
            async move {
                console.directory.reload().await;
                then(console).await;
            }
        })
        .await;
        // With thousands of databases and users, that takes longer than a worker may be kept from its clients.
        self.context.blocking(move || drop(before)).await;
    }

    /// Closes the clients of databases removed from the configuration.
    async fn kill_clients_of_removed_databases(&self) {
        let kill = |client: &Rc<ClientInfo>| {
            if client.pool.get().is_some_and(|pool| pool.database.gone.get()) {
                client.kill(client_error::database_removed());
            }
        };
        self.clients.visit_in_steps(kill).await;
    }

    /// Runs a command that changes something. It always runs at the first worker, so that all workers receive changes
    /// in the same order.
    pub(super) async fn act(self: &Rc<Self>, action: Action, argument: String) -> Result<(), ClientError> {
        if self.context.worker.index() == FIRST {
            return action(self.clone(), argument).await;
        }
        let done = self.workers.ask(FIRST, move |console: &Rc<Self>| action(console.clone(), argument));
        done.await.unwrap_or_else(|| Err(client_error::shutting_down()))
    }

    /// Runs a function at every worker, with that worker's console, and collects the results.
    pub(super) async fn at_all<T, F, A>(&self, what: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(Rc<Self>) -> A + Clone + Send + 'static,
        A: Future<Output = T> + 'static,
    {
        let placement = &self.context.process.placement;
        // A client between two workers is in no table.
        let _hold = placement.hold_moves();
        timers::timeout(MOVE_TIMEOUT, async {
            while placement.is_moving() {
                timers::sleep(MOVE_CHECK_INTERVAL).await;
            }
        })
        .await;
        self.workers.ask_all(move |console: &Rc<Self>| what(console.clone())).await
    }

    /// This worker's part of the statistics.
    pub async fn snapshot(&self) -> Snapshot {
        let console = DatabaseCounts {
            totals: self.statistics.totals(),
            recent: self.statistics.recent(),
            ..DatabaseCounts::default()
        };
        Snapshot { console, ..clients::snapshot(&self.directory, &self.clients).await }
    }

    /// The databases that have a pool at some worker.
    pub(super) async fn names_of_used_databases(&self) -> BTreeSet<String> {
        let names = self.at_all(|console| {
            let pools = console.directory.pools();
            ready(pools.iter().map(|pool| pool.database.name.to_string()).collect::<Vec<_>>())
        });
        names.await.into_iter().flatten().collect()
    }

    /// What `read` takes from the statistics of the process. With many pools that takes longer than a worker may be kept
    /// from its clients, so another thread does it.
    pub(super) async fn sums<T: Default + Send + 'static>(&self, read: fn(Snapshot) -> T) -> T {
        let parts = self.at_all(|console| async move { console.snapshot().await }).await;
        self.context.blocking(move || read(Snapshot::sum(parts.iter()))).await.unwrap_or_default()
    }

    /// Begins a drain. A repeated one changes nothing; one that follows SHUTDOWN WAIT_FOR_CLIENTS ends that wait. False if
    /// `drain_max_seconds` is not set.
    pub fn drain(&self) -> bool {
        if self.context.config().settings.drain_period().is_none() {
            return false;
        }
        match self.lifecycle.phase() {
            Phase::Running => self.advance(Phase::DrainAnnounced(worker::now())),
            Phase::WaitForClients => self.advance(Phase::Draining(worker::now())),
            Phase::DrainAnnounced(_) | Phase::Draining(_) | Phase::WaitForServers | Phase::Now => {}
        }
        true
    }

    /// Advances all workers to a phase of shutdown.
    pub fn advance(&self, phase: Phase) {
        self.lifecycle.advance(phase);
        self.workers.run_on_others(move |console| console.lifecycle.advance(phase));
    }

    /// Pauses or resumes one database, or all, at all workers.
    pub async fn set_paused(&self, database: Option<String>, paused: bool) {
        self.at_all(move |console| {
            match &database {
                None => console.directory.set_paused(None, paused),
                Some(name) => {
                    if let Some(database) = console.directory.database(name) {
                        console.directory.set_paused(Some(&database), paused);
                    }
                }
            }
            console.directory.changed.notify_all();
            ready(())
        })
        .await;
    }
}
