//! Signals, with the same meanings as in PgBouncer since 1.23. Owns their path from the control thread, which catches
//! them, to the worker, which handles them.

use crate::admin::Console;
use crate::lifecycle::Phase;
use crate::service_manager;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that may be pending; more of them would have no effect.
const MAX_QUEUED: usize = 16;

/// The action that a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// HUP.
    Reload,
    /// TERM.
    WaitForClients,
    /// INT.
    WaitForServers,
    /// QUIT.
    Now,
    /// USR1.
    Pause,
    /// USR2.
    Resume,
}

/// Installs the signal handlers. Must be called on the control runtime.
///
/// # Errors
/// The kernel refuses a handler.
pub fn catch() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED);
    let actions = [
        (SignalKind::hangup(), Signal::Reload),
        (SignalKind::terminate(), Signal::WaitForClients),
        (SignalKind::interrupt(), Signal::WaitForServers),
        (SignalKind::quit(), Signal::Now),
        (SignalKind::user_defined1(), Signal::Pause),
        (SignalKind::user_defined2(), Signal::Resume),
    ];
    for (kind, action) in actions {
        let mut caught = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while caught.recv().await.is_some() {
                if sender
                    .try_send(action)
                    .is_err_and(|full| matches!(full, mpsc::error::TrySendError::Closed(_)))
                {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

impl Signal {
    /// Its name in log lines.
    fn name(self) -> &'static str {
        match self {
            Self::Reload => "SIGHUP",
            Self::WaitForClients => "SIGTERM",
            Self::WaitForServers => "SIGINT",
            Self::Now => "SIGQUIT",
            Self::Pause => "SIGUSR1",
            Self::Resume => "SIGUSR2",
        }
    }
}

/// Handles signals. The log lines are those of PgBouncer.
pub(super) async fn handle(console: Rc<Console>, mut signals: mpsc::Receiver<Signal>) {
    let mut is_first = true;
    while let Some(signal) = signals.recv().await {
        let name = signal.name();
        let phase = console.lifecycle.phase();
        let is_running = phase == Phase::Running;
        let is_paused = console.directory.paused.get();
        match signal {
            Signal::Reload => {
                tracing::info!("got {name}, re-reading config");
                service_manager::reloading();
                if let Err(text) = console.reload().await {
                    tracing::error!("configuration not reloaded, the previous one remains in force");
                    text.lines().for_each(|line| tracing::error!("{line}"));
                }
                service_manager::ready();
            }
            // A supervisor sends it after a hook has run DRAIN, and means the same.
            Signal::WaitForClients if is_first && phase.is_drain() => {
                is_first = false;
                tracing::info!("got {name}, already draining");
            }
            Signal::WaitForClients | Signal::WaitForServers if !is_running => {
                tracing::info!("got {name} while shutting down, fast exit");
                console.advance(Phase::Now);
            }
            Signal::WaitForClients if console.drain() => {
                is_first = false;
                tracing::info!("got {name}, draining");
            }
            Signal::WaitForClients => {
                tracing::info!("got {name}, shutting down, waiting for all clients disconnect");
                console.advance(Phase::WaitForClients);
            }
            Signal::WaitForServers => {
                tracing::info!(
                    "got {name}, shutting down, waiting for all servers connections to be released"
                );
                console.advance(Phase::WaitForServers);
            }
            Signal::Now => {
                tracing::info!("got {name}, fast exit");
                console.advance(Phase::Now);
            }
            Signal::Pause | Signal::Resume if !phase.is_serving() => {
                tracing::info!("got {name} while shutting down, ignoring");
            }
            Signal::Pause if is_paused => tracing::info!("got {name}, but already paused/suspended"),
            Signal::Pause => {
                tracing::info!("got {name}, pausing all activity");
                console.set_paused(None, true).await;
            }
            Signal::Resume if !is_paused => tracing::info!("got {name}, but not paused/suspended"),
            Signal::Resume => {
                tracing::info!("got {name}, continuing from PAUSE");
                console.set_paused(None, false).await;
            }
        }
    }
}
