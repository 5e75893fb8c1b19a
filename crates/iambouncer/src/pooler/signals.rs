//! Signals, with the meanings they have in PgBouncer since 1.23. Owns their way from the control thread, where they
//! are caught, to the worker, where they are obeyed.

use crate::admin::Console;
use crate::lifecycle::Phase;
use std::rc::Rc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals not obeyed yet; more of them change nothing.
const MAX_QUEUED: usize = 16;

/// What a signal asks for.
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

/// Begins to catch signals. Must be called on the control runtime.
///
/// # Errors
/// The kernel refuses a handler.
pub fn catch() -> std::io::Result<mpsc::Receiver<Signal>> {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED);
    let meanings = [
        (SignalKind::hangup(), Signal::Reload),
        (SignalKind::terminate(), Signal::WaitForClients),
        (SignalKind::interrupt(), Signal::WaitForServers),
        (SignalKind::quit(), Signal::Now),
        (SignalKind::user_defined1(), Signal::Pause),
        (SignalKind::user_defined2(), Signal::Resume),
    ];
    for (kind, meaning) in meanings {
        let mut caught = signal(kind)?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while caught.recv().await.is_some() {
                if sender
                    .try_send(meaning)
                    .is_err_and(|full| matches!(full, mpsc::error::TrySendError::Closed(_)))
                {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

/// Does what signals ask for.
pub(super) async fn obey(console: Rc<Console>, mut signals: mpsc::Receiver<Signal>) {
    while let Some(signal) = signals.recv().await {
        tracing::info!(?signal, "signal");
        match signal {
            Signal::Reload => {
                if let Err(text) = console.reload().await {
                    tracing::error!("configuration not reloaded, the old one stays in force");
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
