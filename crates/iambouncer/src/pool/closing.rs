//! Closing servers. Owns the reasons, in PgBouncer's words, and their log lines.

use super::acquire::Pool;
use crate::server::{Server, ServerInfo};
use crate::worker;
use std::fmt;

/// Why a server is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerCloseReason {
    /// RECONNECT, RELOAD, or an address that its host name no longer resolves to.
    Changed,
    /// PAUSE or KILL.
    Paused,
    /// `server_lifetime`.
    Lifetime,
    /// `server_idle_timeout`.
    Idle,
    /// `pool_size` was lowered, or the reserve is no longer needed.
    Surplus,
    /// Another pool needs its place in a shared limit.
    Evicted,
    /// The connection has failed, or the server has sent something unexpected while idle.
    Died,
    /// A replication connection needs its place in the pool.
    EvictedForSize,
    /// The check query has failed.
    CheckFailed,
    /// It was the shared listener, and no client listens any more.
    ListenerUnused,
    /// Its client left it in the middle of an operation.
    Unclean,
}

impl fmt::Display for ServerCloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "database configuration changed",
            Self::Paused => "pause mode",
            Self::Lifetime => "server lifetime over",
            Self::Idle => "server idle timeout",
            Self::Surplus => "pool size exceeded",
            Self::Evicted => "evicted",
            Self::Died => "server conn crashed?",
            Self::EvictedForSize => "evicted for pool_size",
            Self::CheckFailed => "test query failed",
            Self::ListenerUnused => "no client listens",
            Self::Unclean => "unclean server",
        })
    }
}

impl Pool {
    /// Closes a free server and lets others have its place.
    pub(super) fn close(&self, server: Box<Server>, reason: ServerCloseReason) {
        self.log_closing(&server.info, reason);
        server.close();
        self.context.process.limits.note_closed(worker::now());
        self.changed.notify_all();
        self.shared_limits.retry_claims();
    }

    /// Logs why a server is closed, if configured.
    #[inline(never)]
    pub(super) fn log_closing(&self, info: &ServerInfo, reason: ServerCloseReason) {
        if !self.context.config().settings.log_disconnections {
            return;
        }
        tracing::info!(
            id = info.facts.id,
            database = %self.database.name,
            user = %self.user,
            server = %info.facts.route.endpoint,
            "closing because: {reason} (age={}s)",
            (worker::now() - info.facts.logged_in_at).as_secs()
        );
    }
}
