//! The shared setup of all measurements of a run. Owns a private PostgreSQL with test data and TLS,
//! certificates and a directory, and their removal. All files are below PostgreSQL's own temporary directory,
//! which its supervisor removes even if this process is killed.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rds_sim::postgres::{Postgres, PostgresOptions, PostgresTls};

use crate::certs::{Certs, KeyKind};
use crate::process::{self, Account, ChildProcess};
use crate::scram::ScramKeys;

/// User of all clients and of the poolers' logins.
pub(crate) const USER: &str = "bench";
/// Its password, for poolers that ask for one.
pub(crate) const PASSWORD: &str = "secret";
/// Database of all measurements.
pub(crate) const DATABASE: &str = "bench";
/// pgbench's scale factor: a million rows, which fit in the server's memory.
const SCALE: &str = "10";
/// Maximum number of clients without a pooler, each of which uses its own server connection.
pub(crate) const MAX_UNPOOLED_CLIENTS: u32 = 256;
/// Room for those, in addition to a session pool per pooler.
const MAX_CONNECTIONS: u32 = MAX_UNPOOLED_CLIENTS + 450;
/// Time limit for creating the test data.
const INIT_LIMIT: Duration = Duration::from_secs(300);

/// The test bed of one run.
pub(crate) struct TestBed {
    postgres: Postgres,
    /// Certificates of PostgreSQL and of the poolers.
    pub(crate) certs: Certs,
    /// The keys of [`PASSWORD`].
    pub(crate) scram: Arc<ScramKeys>,
    dir: PathBuf,
    account: Option<Account>,
}

impl TestBed {
    /// Starts PostgreSQL, fills it, and writes the files that all poolers read.
    pub(crate) fn make() -> Result<Self> {
        eprintln!("starting a private PostgreSQL and filling it …");
        let test_bed = Self::make_empty()?;
        test_bed.fill()?;
        Ok(test_bed)
    }

    /// Like [`make`](Self::make), without test data.
    pub(crate) fn make_empty() -> Result<Self> {
        let certs = Certs::make()?;
        let postgres = Postgres::start(&PostgresOptions {
            max_connections: MAX_CONNECTIONS,
            // Large enough for all test data, and no background work during measurements.
            config_lines: vec!["shared_buffers = 512MB".into(), "autovacuum = off".into()],
            tls: Some(PostgresTls {
                certificate_pem: certs.rsa.certificate_pem.clone(),
                key_pem: certs.rsa.key_pem.clone(),
            }),
            ..PostgresOptions::default()
        })?;
        let dir = postgres.socket_dir().join("bench");
        let owner = fs::metadata(postgres.socket_dir())?;
        let scram = Arc::new(ScramKeys::derive(PASSWORD)?);
        let is_root = rustix::process::geteuid().is_root();
        let account = is_root.then(|| Account { uid: owner.uid(), gid: owner.gid() });
        let test_bed = Self { postgres, certs, scram, dir, account };
        test_bed.make_dir(&test_bed.dir)?;
        test_bed.write_files()?;
        test_bed.postgres.sql(&format!("CREATE ROLE {USER} LOGIN"))?;
        test_bed.postgres.sql(&format!("CREATE DATABASE {DATABASE} OWNER {USER}"))?;
        Ok(test_bed)
    }

    /// The directory for all files written by a run.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Creates a directory in the test bed.
    pub(crate) fn make_dir(&self, dir: &Path) -> Result<()> {
        fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))?;
        if let Some(Account { uid, gid }) = self.account {
            // PostgreSQL's supervisor removes files as PostgreSQL's user, who must therefore own the
            // directory.
            chown(dir, Some(uid), Some(gid)).context("changing the owner of the directory")?;
        }
        Ok(())
    }

    /// The account that poolers run as; `None` means that of this process.
    pub(crate) fn account(&self) -> Option<Account> {
        self.account
    }

    /// PostgreSQL's TCP port.
    pub(crate) fn postgres_port(&self) -> u16 {
        self.postgres.port()
    }

    /// The path of one of PostgreSQL's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.postgres.bin_dir().join(name)
    }

    fn write_files(&self) -> Result<()> {
        let write = |name: &str, text: &str| {
            fs::write(self.dir.join(name), text).with_context(|| format!("writing {name}"))
        };
        write("ca.pem", &self.certs.ca_pem)?;
        for (kind, pair) in [(KeyKind::Rsa, &self.certs.rsa), (KeyKind::Ecdsa, &self.certs.ecdsa)] {
            write(&format!("{}.crt", kind.file()), &pair.certificate_pem)?;
            write(&format!("{}.key", kind.file()), &pair.key_pem)?;
        }
        // The secret instead of the password: older PgBouncers derive keys from a password at each login.
        write("users.txt", &format!("\"{USER}\" \"{}\"\n", self.scram.secret()))?;
        Ok(())
    }

    fn fill(&self) -> Result<()> {
        let mut pgbench = process::command(&self.program("pgbench"));
        pgbench.args(["-i", "-q", "-s", SCALE, "-h", "127.0.0.1", "-p", &self.postgres_port().to_string()]);
        pgbench.args(["-U", USER, DATABASE]);
        ChildProcess::start(pgbench, "pgbench -i", self.dir.join("init.log"), None)?.finish(INIT_LIMIT)?;
        // Sets all hint bits, so that no measurement includes writing them.
        self.postgres.sql_in(DATABASE, "VACUUM FREEZE ANALYZE")?;
        self.postgres.sql("CHECKPOINT")?;
        Ok(())
    }
}

/// A port that was free just now.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
    Ok(listener.local_addr()?.port())
}
