//! What all measurements of one run stand on: a private PostgreSQL with test data and TLS, certificates, and a
//! directory. Owns all three and their end. Everything lives below PostgreSQL's own temporary directory, which
//! its supervisor removes even when this process is killed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rds_sim::postgres::{Postgres, PostgresOptions, PostgresTls};

use crate::certs::Certs;
use crate::process::{self, Account, ChildProcess};

/// User of all clients and of the poolers' logins.
pub(crate) const USER: &str = "bench";
/// Database of all measurements.
pub(crate) const DATABASE: &str = "bench";
/// pgbench's scale: a million rows, which fit the server's memory.
const SCALE: &str = "10";
/// How many clients may come without a pooler, each with a server connection of its own.
pub(crate) const MAX_UNPOOLED_CLIENTS: u32 = 256;
/// Room for those, while all poolers keep a session pool each.
const MAX_CONNECTIONS: u32 = MAX_UNPOOLED_CLIENTS + 450;
/// How long making the test data may take.
const INIT_LIMIT: Duration = Duration::from_secs(300);

/// The bed of one run.
pub(crate) struct Bed {
    postgres: Postgres,
    /// Certificates of PostgreSQL and of the poolers.
    pub(crate) certs: Certs,
    dir: PathBuf,
    account: Option<Account>,
}

impl Bed {
    /// Starts PostgreSQL, fills it, and writes the files that all poolers read.
    pub(crate) fn make() -> Result<Self> {
        eprintln!("starting a private PostgreSQL and filling it …");
        let bed = Self::make_empty()?;
        bed.fill()?;
        Ok(bed)
    }

    /// The same without test data.
    pub(crate) fn make_empty() -> Result<Self> {
        let certs = Certs::make()?;
        let postgres = Postgres::start(&PostgresOptions {
            max_connections: MAX_CONNECTIONS,
            // Large enough for all test data, and no background work while we measure.
            config_lines: vec!["shared_buffers = 512MB".into(), "autovacuum = off".into()],
            tls: Some(PostgresTls {
                certificate_pem: certs.certificate_pem.clone(),
                key_pem: certs.key_pem.clone(),
            }),
            ..PostgresOptions::default()
        })?;
        let dir = postgres.socket_dir().join("bench");
        let owner = fs::metadata(postgres.socket_dir())?;
        let is_root = rustix::process::geteuid().is_root();
        let account = is_root.then(|| Account { uid: owner.uid(), gid: owner.gid() });
        let bed = Self { postgres, certs, dir, account };
        bed.make_dir(&bed.dir)?;
        bed.write_files()?;
        bed.postgres.sql(&format!("CREATE ROLE {USER} LOGIN"))?;
        bed.postgres.sql(&format!("CREATE DATABASE {DATABASE} OWNER {USER}"))?;
        Ok(bed)
    }

    /// The directory for everything a run writes down.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a directory in the bed's.
    pub(crate) fn make_dir(&self, dir: &Path) -> Result<()> {
        fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))?;
        if let Some(Account { uid, gid }) = self.account {
            // PostgreSQL's supervisor cleans up in PostgreSQL's name, so the directory has to be its own.
            chown(dir, Some(uid), Some(gid)).context("handing over the directory")?;
        }
        Ok(())
    }

    /// Whom the poolers run as; `None` means as ourselves.
    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// PostgreSQL's TCP port.
    pub(crate) fn postgres_port(&self) -> u16 {
        self.postgres.port()
    }

    /// One of PostgreSQL's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.postgres.bin_dir().join(name)
    }

    fn write_files(&self) -> Result<()> {
        let files = [
            ("ca.pem", self.certs.ca_pem.as_str()),
            ("pooler.crt", &self.certs.certificate_pem),
            ("pooler.key", &self.certs.key_pem),
            ("users.txt", &format!("\"{USER}\" \"\"\n")),
        ];
        for (name, text) in files {
            fs::write(self.dir.join(name), text).with_context(|| format!("writing {name}"))?;
        }
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        let mut pgbench = process::command(&self.program("pgbench"));
        pgbench.args(["-i", "-q", "-s", SCALE, "-h", "127.0.0.1", "-p", &self.postgres_port().to_string()]);
        pgbench.args(["-U", USER, DATABASE]);
        ChildProcess::start(pgbench, "pgbench -i", self.dir.join("init.log"), None)?.finish(INIT_LIMIT)?;
        // After this no hint bits are left to be written by the first side that reads a page.
        self.postgres.sql_in(DATABASE, "VACUUM FREEZE ANALYZE")?;
        self.postgres.sql("CHECKPOINT")?;
        Ok(())
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(listener.local_addr()?.port())
}
