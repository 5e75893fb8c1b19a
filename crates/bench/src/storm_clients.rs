//! The clients of a login storm: all connect at once, log in with SCRAM-SHA-256, and stay. Owns these sessions and what
//! they cost; never measures other clients.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout_at};

use crate::poolers::Pooler;
use crate::scram::ScramKeys;
use crate::scram_session::{LoginTimes, ScramSession};

/// Clients that are not logged in after this time have failed.
const STORM_LIMIT: Duration = Duration::from_secs(60);
/// Number of local addresses of the clients. The kernel finds a free port fast only while most ports of an address are free,
/// and ports of the last storms are still in TIME_WAIT.
const SOURCES: u32 = 200;
/// The clients stay at least this long, so that a short storm is followed by enough transactions of the other clients.
const MIN_STAY: Duration = Duration::from_millis(500);
/// Maximum number of errors printed.
const MAX_PRINTED: u32 = 3;

/// A storm that is over.
pub(crate) struct StormLogins {
    /// When it began.
    pub(crate) began: SystemTime,
    /// When the last client was logged in or had failed.
    pub(crate) elapsed: Duration,
    /// How long the clients stayed, from the beginning.
    pub(crate) stayed: Duration,
    /// Number of clients that are not logged in.
    pub(crate) failed: u32,
    /// CPU time of the pooler until the last client was logged in, if there is a pooler.
    pub(crate) cpu_ns: Option<u64>,
    /// The times of the others.
    pub(crate) times: Vec<LoginTimes>,
}

/// Logs in `clients` at once.
///
/// # Errors
/// A system call of this process failed; a client that fails is counted.
pub(crate) fn run(pooler: &Pooler, keys: &Arc<ScramKeys>, clients: u32) -> Result<StormLogins> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let before = pooler.cpu_time()?;
        let (began, start) = (SystemTime::now(), Instant::now());
        let mut logins = JoinSet::new();
        for index in 0..clients {
            let (port, keys) = (pooler.port, Arc::clone(keys));
            logins.spawn(async move { ScramSession::login(port, Some(source(index)), &keys).await });
        }
        let (sessions, times) = join_all(logins, start + STORM_LIMIT).await?;
        let elapsed = start.elapsed();
        let cpu_ns = pooler.cpu_time()?.zip(before).map(|(after, before)| after.since(&before));
        sleep_until((start + MIN_STAY).into()).await;
        let stayed = start.elapsed();
        drop(sessions);
        // A count of clients fits.
        let failed = clients - times.len() as u32;
        Ok(StormLogins { began, elapsed, stayed, failed, cpu_ns, times })
    })
}

/// Waits until `deadline` for all `logins`. Returns those that succeeded.
async fn join_all(
    mut logins: JoinSet<Result<(ScramSession, LoginTimes)>>,
    deadline: Instant,
) -> Result<(Vec<ScramSession>, Vec<LoginTimes>)> {
    let mut sessions = Vec::with_capacity(logins.len());
    let mut times = Vec::with_capacity(logins.len());
    let mut errors = 0;
    while let Ok(Some(login)) = timeout_at(deadline.into(), logins.join_next()).await {
        match login? {
            Ok((session, time)) => {
                sessions.push(session);
                times.push(time);
            }
            Err(error) => {
                errors += 1;
                if errors <= MAX_PRINTED {
                    eprintln!("  a login failed: {error:#}");
                }
            }
        }
    }
    Ok((sessions, times))
}

/// The local address of a client; all of 127.0.0.0/8 is local.
fn source(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + index % SOURCES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_over_local_addresses() {
        assert_eq!(source(0), Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(source(SOURCES - 1), Ipv4Addr::new(127, 0, 0, 201));
        assert_eq!(source(SOURCES), source(0));
    }
}
