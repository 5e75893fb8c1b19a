//! Why a pool's clients wait for a server, in words for the operator. Owns only the explanation: it reads the state by which
//! servers are opened, and changes nothing.

use super::acquire::Pool;
use super::places::Full;
use crate::worker;
use std::fmt;
use std::time::Duration;

/// What clients of a pool wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// PAUSE or KILL is in force.
    Paused,
    /// The last login failed, and the next one has to wait.
    LoginFailed {
        /// The number of its cause.
        cause: &'static str,
        /// The error.
        error: String,
        /// Time until the next login.
        next_in: Duration,
    },
    /// A server is logging in.
    LoggingIn,
    /// As many servers as the pool may have are in use.
    PoolFull {
        /// Their number.
        size: u32,
        /// Those of this worker that clients keep outside of transactions.
        kept: usize,
    },
    /// `max_user_connections` is reached.
    UserFull(u32),
    /// `max_db_connections` is reached.
    DatabaseFull(u32),
    /// A server of another worker, or one that is being checked or reset, is about to be free.
    ServerOnTheWay,
}

impl WaitReason {
    /// A stable word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::LoginFailed { .. } => "login_failed",
            Self::LoggingIn => "logging_in",
            Self::PoolFull { .. } => "pool_full",
            Self::UserFull(_) => "user_full",
            Self::DatabaseFull(_) => "database_full",
            Self::ServerOnTheWay => "server_on_the_way",
        }
    }
}

/// A sentence with what to do.
impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paused => f.write_str("the database is paused; RESUME ends that"),
            Self::LoginFailed { cause, error, next_in } => {
                let seconds = next_in.as_secs_f64().ceil();
                write!(
                    f,
                    "the last login to the server failed, and is tried again in {seconds} s: {error} [{cause}]"
                )
            }
            Self::LoggingIn => f.write_str("a server is logging in"),
            Self::PoolFull { size, kept: 0 } => write!(
                f,
                "all servers of the pool are in use (pool_size = {size}); raise it, or look for long transactions"
            ),
            Self::PoolFull { size, kept } => write!(
                f,
                "all servers of the pool are in use (pool_size = {size}), of which clients keep {kept}; raise it, or see SHOW PINS"
            ),
            Self::UserFull(limit) => {
                write!(f, "the user has {limit} servers over all databases (max_user_connections)")
            }
            Self::DatabaseFull(limit) => {
                write!(f, "the database has {limit} servers over all users (max_db_connections)")
            }
            Self::ServerOnTheWay => {
                f.write_str("a server is being checked, reset, or moved from another worker")
            }
        }
    }
}

impl Pool {
    /// Why clients of this pool wait, if any do.
    pub fn wait_reason(&self) -> WaitReason {
        if self.database.is_paused() {
            return WaitReason::Paused;
        }
        if let (Some(failure), Some(until)) = (self.shared.failure(), self.backs_off_until()) {
            return WaitReason::LoginFailed {
                cause: failure.login.cause.info().id,
                error: failure.login.error.to_string(),
                next_in: until.saturating_duration_since(worker::now()),
            };
        }
        if self.logins.under_way() > 0 {
            return WaitReason::LoggingIn;
        }
        let size = self.size_now();
        match self.full_limit(size) {
            Some((Full::Pool, size)) => WaitReason::PoolFull { size, kept: self.kept_servers() },
            Some((Full::User, limit)) => WaitReason::UserFull(limit),
            Some((Full::Database | Full::UserAndDatabase, limit)) => WaitReason::DatabaseFull(limit),
            None => WaitReason::ServerOnTheWay,
        }
    }
}
