//! Signals, with the same meanings as in PgBouncer since 1.23. Owns their path from the control thread, which catches
//! them, to the worker, which handles them.

use crate::admin::Console;
use crate::lifecycle::Phase;
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

/// Handles signals.
pub(super) async fn handle(console: Rc<Console>, mut signals: mpsc::Receiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        tracing::info!(?signal, "signal");
        match signal {
            Signal::Reload => {
                if let Err(text) = console.reload().await {
                    tracing::error!("configuration not reloaded, the previous one remains in force");
                    text.lines().for_each(|line| tracing::error!("{line}"));
                }
            }
            Signal::WaitForClients => console.advance(Phase::WaitForClients),
            Signal::WaitForServers => console.advance(Phase::WaitForServers),
            Signal::Now => console.advance(Phase::Now),
            Signal::Pause => console.set_paused(None, true).await,
            Signal::Resume => console.set_paused(None, false).await,
        }
    }
}
