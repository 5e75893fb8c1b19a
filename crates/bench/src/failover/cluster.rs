//! A primary and its standby, on one port of two addresses. Owns their start, the failure of the primary and the promotion.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
use rds_sim::postgres::{Postgres, PostgresOptions};

use crate::process::Account;

/// User of the clients.
pub(super) const USER: &str = "bench";
/// Their database.
pub(super) const DATABASE: &str = "bench";
const FIRST: &str = "127.0.0.1";
const SECOND: &str = "127.0.0.2";
const MAX_CONNECTIONS: u32 = 200;
/// Time limit for the standby to catch up, and for its promotion.
const LIMIT: Duration = Duration::from_secs(30);
/// Interval between two looks at the standby.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A primary that waits for its standby at each commit, so that a promotion loses nothing.
pub(super) struct Cluster {
    primary: Postgres,
    standby: Postgres,
}

impl Cluster {
    pub(super) fn start() -> Result<Self> {
        let options = PostgresOptions { max_connections: MAX_CONNECTIONS, ..PostgresOptions::default() };
        let mut primary = Postgres::start(&options)?;
        primary.sql(&format!("CREATE ROLE {USER} LOGIN"))?;
        primary.sql(&format!("CREATE DATABASE {DATABASE} OWNER {USER}"))?;
        let standby = Postgres::start_standby(&mut primary, SECOND, &options)?;
        primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
        primary.sql("SELECT pg_reload_conf()")?;
        let cluster = Self { primary, standby };
        cluster.wait_until(
            &cluster.primary,
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'",
            "1",
        )?;
        Ok(cluster)
    }

    /// A directory for files of a run; it is removed with the cluster.
    pub(super) fn dir(&self) -> &Path {
        self.standby.socket_dir()
    }

    /// The account that the pooler runs as; `None` means that of this process.
    pub(super) fn account(&self) -> Result<Option<Account>> {
        let owner = fs::metadata(self.dir())?;
        let is_root = rustix::process::geteuid().is_root();
        Ok(is_root.then(|| Account { uid: owner.uid(), gid: owner.gid() }))
    }

    /// The line of the database.
    pub(super) fn line(&self) -> String {
        let port = self.primary.port();
        format!("{DATABASE} = host={FIRST},{SECOND} port={port} user={USER} target_session_attrs=read-write")
    }

    pub(super) fn version(&self) -> Result<String> {
        Ok(self.standby.sql("SHOW server_version")?)
    }

    pub(super) fn crash(&mut self) {
        self.primary.stop();
    }

    /// Ends all sessions of the primary, and stops it when the standby has everything.
    pub(super) fn shut_down(&mut self) -> Result<()> {
        Ok(self.primary.shut_down()?)
    }

    /// Promotes the standby. Returns when it accepted writes.
    pub(super) fn promote(&self) -> Result<SystemTime> {
        self.standby.sql("SELECT pg_promote(wait => false)")?;
        self.wait_until(&self.standby, "SELECT pg_is_in_recovery()", "f")?;
        Ok(SystemTime::now())
    }

    fn wait_until(&self, server: &Postgres, sql: &str, expected: &str) -> Result<()> {
        let began = Instant::now();
        while server.sql(sql)? != expected {
            ensure!(began.elapsed() < LIMIT, "{sql}: never {expected}");
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}
