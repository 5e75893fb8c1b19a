//! What commands work on. Owns references only, and the one lasting thing a console needs: how to reload.

use super::table::Action;
use crate::client_error::{self, ClientError};
use crate::clients::ClientTable;
use crate::config::Settings;
use crate::context::{ConfigFiles, Context};
use crate::lifecycle::{Lifecycle, Phase};
use crate::pool::Directory;
use crate::worker::home;
use std::future::ready;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

/// The worker that hears signals and runs commands.
const FIRST: usize = 0;

/// Directs the log as settings say.
type DirectLog = dyn Fn(&Settings) -> Result<(), String> + Send + Sync;

/// How a change of the configuration reaches what is outside of the workers.
#[derive(Clone)]
pub struct Reloader {
    /// Reads the configuration again. The error is for the operator.
    pub read: Arc<dyn Fn() -> Result<ConfigFiles, String> + Send + Sync>,
    /// Directs the log as the settings say. The error is for the operator.
    pub log: Arc<DirectLog>,
}

/// The state of the process as commands see it, at one worker.
pub struct Console {
    /// Configuration and tools.
    pub context: Rc<Context>,
    /// Databases and pools.
    pub directory: Rc<Directory>,
    /// Who is connected.
    pub clients: Rc<ClientTable>,
    /// Running, draining, ending.
    pub lifecycle: Rc<Lifecycle>,
    /// Start of the process.
    pub started: SystemTime,
    reloader: Reloader,
}

impl Console {
    /// A console over the parts of a process.
    pub fn new(
        context: Rc<Context>,
        directory: Rc<Directory>,
        clients: Rc<ClientTable>,
        lifecycle: Rc<Lifecycle>,
        reloader: Reloader,
    ) -> Self {
        Self { context, directory, clients, lifecycle, started: SystemTime::now(), reloader }
    }

    /// RELOAD: all or nothing. The text of an error is for the user.
    ///
    /// # Errors
    /// A file is wrong; what was in force stays so.
    pub async fn reload(&self) -> Result<(), String> {
        let read = self.reloader.read.clone();
        let read = self
            .context
            .blocking(move || read())
            .await
            .unwrap_or_else(|| Err("reading the configuration was given up".to_owned()));
        self.context.process.health.reloaded(read.is_ok(), SystemTime::now());
        let mut loaded = read?;
        let running = self.context.config();
        for name in Arc::make_mut(&mut loaded.config).settings.keep_restart_only(&running.settings) {
            tracing::warn!("{name} has changed in the configuration; only a restart changes it");
        }
        self.put_in_force(loaded).await?;
        tracing::info!("configuration reloaded");
        Ok(())
    }

    /// Puts a configuration in force at all workers; here at once, so that the next change builds on it.
    ///
    /// # Errors
    /// The log file cannot be opened; nothing has changed.
    pub(super) async fn put_in_force(&self, loaded: ConfigFiles) -> Result<(), String> {
        (self.reloader.log)(&loaded.config.settings)?;
        self.context.replace(loaded.clone());
        self.at_all(move |console| {
            console.context.replace(loaded.clone());
            console.directory.reload();
            // Listeners set their options anew, rather than with the next connection.
            console.lifecycle.changed.notify_all();
            console.end_clients_of_removed();
            ready(())
        })
        .await;
        Ok(())
    }

    /// Ends the clients of databases whose lines are gone.
    fn end_clients_of_removed(&self) {
        for client in self.clients.list() {
            if client.pool.get().is_some_and(|pool| pool.database.gone.get()) {
                client.kill(client_error::database_removed());
            }
        }
    }

    /// Runs a command that changes something. Always at the first worker: the others hear of all changes from it, in
    /// one order.
    pub(super) async fn act(self: &Rc<Self>, action: Action, argument: String) -> Result<(), ClientError> {
        let workers = &self.context.workers;
        if workers.index() == FIRST {
            return action(self.clone(), argument).await;
        }
        let done = workers.ask(FIRST, move || {
            let console = home::get::<Self>();
            async move {
                match console {
                    Some(console) => action(console, argument).await,
                    None => Err(client_error::shutting_down()),
                }
            }
        });
        done.await.unwrap_or_else(|| Err(client_error::shutting_down()))
    }

    /// Does something at every worker, with its own console, and gathers the answers.
    pub(super) async fn at_all<T, F, A>(&self, what: F) -> Vec<T>
    where
        T: Send + 'static,
        F: Fn(Rc<Self>) -> A + Clone + Send + 'static,
        A: Future<Output = T> + 'static,
    {
        let question = move || {
            let answer = home::get::<Self>().map(&what);
            async {
                match answer {
                    Some(answer) => Some(answer.await),
                    None => None,
                }
            }
        };
        self.context.workers.ask_all(question).await.into_iter().flatten().collect()
    }

    /// All workers go on to a phase of their life.
    pub fn advance(&self, phase: Phase) {
        self.lifecycle.advance(phase);
        self.context.workers.run_on_others(move || {
            if let Some(console) = home::get::<Self>() {
                console.lifecycle.advance(phase);
            }
        });
    }

    /// Pauses or resumes, at all workers, one database or all.
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
