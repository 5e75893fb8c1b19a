//! The service manager that started the process (systemd): the state of the service, its watchdog, and the sockets that
//! it opened. Without one, everything here has no effect.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::time::Duration;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Clients are accepted.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The configuration is being read again. The time makes `Type=notify-reload` possible.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
}

/// The process is shutting down, which may take as long as its clients.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Half the period after which the service manager restarts a process that does not answer.
fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|period| period / 2).filter(|half| !half.is_zero())
}

/// Answers the watchdog while all event loops run. Must be called on the control runtime.
pub fn spawn_watchdog(control: &tokio::runtime::Handle, is_alive: impl Fn() -> bool + Send + 'static) {
    let Some(interval) = watchdog_interval() else { return };
    control.spawn(async move {
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            if is_alive() {
                notify(&[NotifyState::Watchdog]);
            }
        }
    });
}

/// A listening socket that the service manager opened (`LISTEN_FDS`).
pub enum InheritedListener {
    /// TCP.
    Tcp(TcpListener),
    /// UNIX.
    Unix(UnixListener),
}

/// The listening sockets that the service manager opened; usually none.
///
/// # Errors
/// A socket is neither a TCP nor a UNIX stream socket that listens.
pub fn listeners() -> std::io::Result<Vec<InheritedListener>> {
    let mut sockets = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..sockets.len() {
        let listener = match sockets.take_tcp_listener(index) {
            Ok(tcp) => tcp.map(InheritedListener::Tcp),
            Err(_) => sockets.take_unix_listener(index)?.map(InheritedListener::Unix),
        };
        listeners.extend(listener);
    }
    Ok(listeners)
}
