//! A temporary PostgreSQL for tests, the demo and benchmarks.
//!
//! Owns: finding Debian's binaries, `initdb` in a temporary directory, one server, and its shutdown.
//! Never: touches an installed cluster, runs as root, or outlives the process that started it, even if that
//! is killed: a small shell supervises the server and ends it when its standard input closes.

mod install;
mod supervisor;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use install::{
    SERVER_ACCOUNT, SystemAccount, checked_output, copy_files, find_binaries, free_port, make_directory,
    run_initdb, server_account, write_owned,
};
use supervisor::{Supervisor, answers};

/// Time limit until a server answers.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between checks.
const READY_POLL: Duration = Duration::from_millis(20);
/// Attempts with another port if the free port was taken in the meantime.
const START_ATTEMPTS: u32 = 3;

/// Options of a [`Postgres`].
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// `max_connections` of the server.
    pub max_connections: u32,
    /// Further lines for `postgresql.conf`; later ones take precedence.
    pub config_lines: Vec<String>,
    /// The complete `pg_hba.conf`; by default, all local users are trusted.
    pub hba: Option<String>,
    /// Certificate and key for the server's TLS; without them it has none.
    pub tls: Option<PostgresTls>,
    /// The name of the superuser.
    pub superuser: String,
}

/// The server's certificate chain and key, in PEM format.
#[derive(Clone)]
pub struct PostgresTls {
    /// Certificate chain.
    pub certificate_pem: String,
    /// Private key.
    pub key_pem: String,
}

/// A running server. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Postgres {
    supervisor: Option<Supervisor>,
    dir: TempDir,
    bin: PathBuf,
    port: u16,
    superuser: String,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The binaries were not found.
    #[error("PostgreSQL's server binaries were not found: install the package \"postgresql\" or set PG_BIN")]
    NotInstalled,
    /// This process is root, PostgreSQL refuses root, and there is no account to switch to.
    #[error(
        "there is no account \"{SERVER_ACCOUNT}\" to run the server as; PostgreSQL refuses to run as root"
    )]
    NoAccount,
    /// The temporary directory's path is too long for a unix socket.
    #[error("the temporary directory {0} is too long a path for a unix socket: set TMPDIR to a shorter one")]
    PathTooLong(PathBuf),
    /// A program of PostgreSQL failed, with this output.
    #[error("{program} failed: {output}")]
    Program {
        /// The program.
        program: &'static str,
        /// Its output.
        output: String,
    },
    /// The server did not answer in time.
    #[error("the server did not become ready; its log:\n{log}")]
    NotReady {
        /// The server's log.
        log: String,
    },
    /// A file or process could not be handled.
    #[error("{doing}: {source}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 100,
            config_lines: Vec::new(),
            hba: None,
            tls: None,
            superuser: "postgres".to_owned(),
        }
    }
}

impl std::fmt::Debug for PostgresTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresTls").finish_non_exhaustive()
    }
}

impl Postgres {
    /// Starts a server on a free port of 127.0.0.1 and on a Unix socket, and waits until it answers. Blocks
    /// for a second or two.
    pub fn start(options: &PostgresOptions) -> Result<Self, PostgresError> {
        let bin = find_binaries().ok_or(PostgresError::NotInstalled)?;
        let account = server_account()?;
        let dir = make_directory(account)?;
        run_initdb(&bin, dir.path(), account, &options.superuser)?;
        let mut server = Self { supervisor: None, dir, bin, port: 0, superuser: options.superuser.clone() };
        for attempt in 1..=START_ATTEMPTS {
            server.port = free_port()?;
            server.configure(options, account)?;
            match server.launch(account) {
                Err(_) if attempt < START_ATTEMPTS && server.log().contains("could not bind") => {
                    server.end();
                }
                outcome => return outcome.map(|()| server),
            }
        }
        Err(PostgresError::NotReady { log: server.log() })
    }

    /// Starts a standby of `primary` on the same port of another address, and waits until it answers. The primary is
    /// restarted for that.
    pub fn start_standby(
        primary: &mut Self,
        address: &str,
        options: &PostgresOptions,
    ) -> Result<Self, PostgresError> {
        let account = server_account()?;
        let dir = make_directory(account)?;
        primary.stop();
        copy_files(&primary.data_dir(), &dir.path().join("data"), account)?;
        primary.start_again()?;
        let mut options = options.clone();
        options.config_lines.push(format!("listen_addresses = '{address}'"));
        options.config_lines.push(format!(
            "primary_conninfo = 'host={} port={} user={}'",
            primary.dir.path().display(),
            primary.port,
            primary.superuser
        ));
        let (bin, superuser) = (primary.bin.clone(), primary.superuser.clone());
        let mut server = Self { supervisor: None, dir, bin, port: primary.port, superuser };
        server.configure(&options, account)?;
        write_owned(&server.data_dir().join("standby.signal"), "", account)?;
        server.launch(account).map(|()| server)
    }

    /// Makes a standby the primary, and waits until it is.
    pub fn promote(&self) -> Result<(), PostgresError> {
        self.sql("SELECT pg_promote(wait => true)").map(drop)
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of PostgreSQL's programs.
    pub fn bin_dir(&self) -> &Path {
        &self.bin
    }

    /// The superuser's name.
    pub fn superuser(&self) -> &str {
        &self.superuser
    }

    /// The process ID of the postmaster.
    pub fn server_pid(&self) -> Option<u32> {
        self.supervisor.as_ref().map(|supervisor| supervisor.server_pid)
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        fs::read(self.dir.path().join("log")).map_or_else(
            |error| format!("(no log: {error})"),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    }

    /// Runs SQL as superuser in database `postgres`, over the Unix socket; returns unaligned rows.
    pub fn sql(&self, sql: &str) -> Result<String, PostgresError> {
        self.sql_in("postgres", sql)
    }

    /// Like [`sql`](Self::sql), in another database.
    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String, PostgresError> {
        // Builds for tests of other versions come without it.
        let own = self.bin.join("psql");
        let mut psql = Command::new(if own.exists() { own } else { "psql".into() });
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
            .arg("-h")
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string(), "-U", &self.superuser])
            .current_dir("/");
        checked_output(psql, "psql").map(|out| out.trim_end().to_owned())
    }

    /// Kills the server at once (as a crash would), keeping its files for [`start_again`](Self::start_again).
    pub fn stop(&mut self) {
        self.end();
    }

    /// Ends all sessions and stops the server when its standbys have everything, keeping its files.
    pub fn shut_down(&mut self) -> Result<(), PostgresError> {
        let pid = self.server_pid().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let deadline = Instant::now() + READY_TIMEOUT;
        if let Some(pid) = pid.filter(|_| self.is_running()) {
            // As `pg_ctl stop -m fast`.
            kill_process(pid, Signal::INT)
                .map_err(|error| PostgresError::Io { doing: "stopping the server", source: error.into() })?;
        }
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(READY_POLL);
        }
        self.end();
        Ok(())
    }

    /// Starts a stopped server again with the same port and files.
    pub fn start_again(&mut self) -> Result<(), PostgresError> {
        self.end();
        self.launch(server_account()?)
    }

    fn configure(
        &self,
        options: &PostgresOptions,
        account: Option<SystemAccount>,
    ) -> Result<(), PostgresError> {
        const TRUST: &str = "local all all trust\nhost all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\n\
                             local replication all trust\nhost replication all 127.0.0.1/32 trust\n";
        let data = self.data_dir();
        let mut config = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nmax_connections = {}\n\
             fsync = off\nfull_page_writes = off\nshared_buffers = 32MB\n\
             log_min_messages = warning\n",
            self.port,
            self.dir.path().display(),
            options.max_connections,
        );
        if let Some(tls) = &options.tls {
            config.push_str("ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n");
            write_owned(&data.join("server.crt"), &tls.certificate_pem, account)?;
            write_owned(&data.join("server.key"), &tls.key_pem, account)?;
        }
        for line in &options.config_lines {
            config.push_str(line);
            config.push('\n');
        }
        write_owned(&data.join("postgresql.auto.conf"), "", account)?;
        write_owned(&data.join("postgresql.conf"), &config, account)?;
        write_owned(&data.join("pg_hba.conf"), options.hba.as_deref().unwrap_or(TRUST), account)
    }

    fn launch(&mut self, account: Option<SystemAccount>) -> Result<(), PostgresError> {
        self.supervisor = Some(Supervisor::start(&self.bin, self.dir.path(), account)?);
        let deadline = Instant::now() + READY_TIMEOUT;
        let socket = self.dir.path().join(format!(".s.PGSQL.{}", self.port));
        while Instant::now() < deadline && self.is_running() {
            if answers(&socket, &self.superuser) {
                return Ok(());
            }
            std::thread::sleep(READY_POLL);
        }
        Err(PostgresError::NotReady { log: self.log() })
    }

    fn is_running(&self) -> bool {
        self.server_pid().is_some_and(|pid| {
            // A server that exited and was not waited for still has an entry, in state Z.
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
        })
    }

    /// Stops the server; its files stay until `dir` is dropped.
    fn end(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.end();
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.end();
    }
}
