//! Logins with SCRAM-SHA-256, one after the other: what `pgbench -C` cannot measure, since it derives the keys from the
//! password at each login and so uses more CPU time than the pooler. Owns the measurement; never keeps a session open.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::timeout;

use crate::load::Length;
use crate::poolers::Pooler;
use crate::scram::ScramKeys;
use crate::scram_session::ScramSession;

/// Time limit of a single login with its query, in case a pooler hangs.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// The cost of logins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScramLogins {
    /// CPU time of the pooler per login, query and logout, if there is a pooler.
    pub(crate) us_each: Option<f64>,
    /// Logins per second.
    pub(crate) per_second: f64,
}

/// Logs in, runs one query and logs out, for `length`, in two lanes.
pub(crate) fn measure(pooler: &Pooler, keys: &ScramKeys, length: Length) -> Result<ScramLogins> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = pooler.cpu_time()?;
    let start = Instant::now();
    let (first, second) = runtime.block_on(async {
        let lane = || lane(pooler.port, keys, start, length);
        tokio::try_join!(lane(), lane())
    })?;
    let elapsed = start.elapsed();
    let cpu_ns = pooler.cpu_time()?.zip(before).map(|(after, before)| after.since(&before));
    let logins = f64::from(first + second);
    Ok(ScramLogins {
        us_each: cpu_ns.map(|ns| ns as f64 / 1000.0 / logins),
        per_second: logins / elapsed.as_secs_f64(),
    })
}

/// One of the two lanes. Returns the number of its logins, which is at least one.
async fn lane(port: u16, keys: &ScramKeys, start: Instant, length: Length) -> Result<u32> {
    let mut logins = 0;
    loop {
        timeout(LOGIN_LIMIT, visit(port, keys)).await.context("a login takes too long")??;
        logins += 1;
        let is_over = match length {
            Length::Seconds(seconds) => start.elapsed() >= Duration::from_secs(seconds.into()),
            Length::Transactions(all) => logins >= all.div_ceil(2),
        };
        if is_over {
            return Ok(logins);
        }
    }
}

async fn visit(port: u16, keys: &ScramKeys) -> Result<()> {
    let (mut session, _) = ScramSession::login(port, None, keys).await?;
    session.query("SELECT 1").await?;
    session.logout().await
}
