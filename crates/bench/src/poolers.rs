//! The two poolers under test. Owns their binaries, the INI file both read, start and end of one instance; it
//! never gives one side a line that the other does not get – only the listening port differs.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::bed::{self, Bed, DATABASE, USER};
use crate::client::{self, Client, Target};
use crate::process::{self, Process};

/// How long a pooler may take until a login through it succeeds.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const READY_POLL: Duration = Duration::from_millis(20);
/// How often another port is tried when somebody else took ours.
const START_ATTEMPTS: u32 = 3;
/// The first PgBouncer that can share prepared statements in transaction pooling.
const FIRST_WITH_PREPARED: (u32, u32) = (1, 21);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Ours.
    Iambouncer,
    /// The one to compare with.
    PgBouncer,
}

impl Side {
    /// Both, in the order in which they are measured.
    pub(crate) const BOTH: [Self; 2] = [Self::Iambouncer, Self::PgBouncer];

    /// Name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Iambouncer => "iambouncer",
            Self::PgBouncer => "PgBouncer",
        }
    }
}

/// A pooler's program, copied to where its account can read it.
pub(crate) struct Binary {
    path: PathBuf,
    /// First line of `--version`.
    pub(crate) version: String,
}

impl Binary {
    /// Copies the program of `side` into the bed and asks its version.
    pub(crate) fn install(bed: &Bed, side: Side, original: &Path) -> Result<Self> {
        let path = bed.dir().join(side.name());
        fs::copy(original, &path)
            .with_context(|| format!("{} not found at {}", side.name(), original.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        let version = process::ask(&path, &["--version"])?.lines().next().unwrap_or_default().to_owned();
        Ok(Self { path, version })
    }

    /// Whether the program can share prepared statements in transaction pooling.
    pub(crate) fn shares_prepared(&self) -> bool {
        pgbouncer_version(&self.version).is_none_or(|version| version >= FIRST_WITH_PREPARED)
    }
}

/// `(1, 18)` from `PgBouncer 1.18.0`; `None` for a program that is not PgBouncer.
fn pgbouncer_version(line: &str) -> Option<(u32, u32)> {
    let mut parts = line.strip_prefix("PgBouncer ")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What varies between the measurements' INI files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ini {
    /// `pool_mode`: transaction or session.
    pub(crate) pool_mode: &'static str,
    /// `default_pool_size`.
    pub(crate) pool_size: u32,
    /// TLS, verified in full, to the server.
    pub(crate) server_tls: bool,
    /// TLS required from clients.
    pub(crate) client_tls: bool,
    /// `max_prepared_statements`, where both sides know the setting.
    pub(crate) max_prepared: Option<u32>,
}

impl Ini {
    /// The whole file.
    pub(crate) fn text(&self, dir: &Path, postgres_port: u16, listen_port: u16) -> String {
        let dir = dir.display();
        let Self { pool_mode, pool_size, .. } = self;
        let mut ini = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={postgres_port} dbname={DATABASE} user={USER}\n\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen_port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {dir}/users.txt\npool_mode = {pool_mode}\n\
             default_pool_size = {pool_size}\nmax_client_conn = 2000\nlog_connections = 0\n\
             log_disconnections = 0\nlog_stats = 0\n"
        );
        if self.server_tls {
            let _ = writeln!(ini, "server_tls_sslmode = verify-full\nserver_tls_ca_file = {dir}/ca.pem");
        } else {
            ini.push_str("server_tls_sslmode = disable\n");
        }
        if self.client_tls {
            let _ = writeln!(
                ini,
                "client_tls_sslmode = require\nclient_tls_cert_file = {dir}/pooler.crt\n\
                 client_tls_key_file = {dir}/pooler.key"
            );
        }
        if let Some(count) = self.max_prepared {
            let _ = writeln!(ini, "max_prepared_statements = {count}");
        }
        ini
    }
}

/// One running instance.
pub(crate) struct Pooler {
    process: Process,
    /// Port on 127.0.0.1.
    pub(crate) port: u16,
}

impl Pooler {
    /// Starts `binary` and waits until a query through it succeeds.
    pub(crate) fn start(bed: &Bed, side: Side, binary: &Binary, ini: Ini) -> Result<Self> {
        Self::start_under(bed, side, binary, ini, &[])
    }

    /// The same, with the program `tool` and its arguments in front of the pooler's own command.
    pub(crate) fn start_under(
        bed: &Bed,
        side: Side,
        binary: &Binary,
        ini: Ini,
        tool: &[String],
    ) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(bed, side, binary, ini, tool) {
                Err(_) if attempt < START_ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Lets it end in order, which it must not take longer than `limit`.
    pub(crate) fn end(self, limit: Duration) -> Result<()> {
        self.process.end(Signal::QUIT, limit)?;
        Ok(())
    }

    fn try_start(bed: &Bed, side: Side, binary: &Binary, ini: Ini, tool: &[String]) -> Result<Self> {
        let port = bed::free_port()?;
        let file = bed.dir().join(format!("{}.ini", side.name()));
        fs::write(&file, ini.text(bed.dir(), bed.postgres_port(), port))?;
        let mut command = match tool {
            [] => process::command(&binary.path),
            [program, args @ ..] => {
                let mut command = process::command(Path::new(program));
                command.args(args).arg(&binary.path);
                command
            }
        };
        command.arg(&file);
        let log = bed.dir().join(format!("{}.log", side.name()));
        let process = Process::start(command, side.name(), log, bed.account())?;
        let mut pooler = Self { process, port };
        pooler.wait(bed, ini)?;
        Ok(pooler)
    }

    fn wait(&mut self, bed: &Bed, ini: Ini) -> Result<()> {
        let tls = ini.client_tls.then(|| client::tls_connector(&bed.certs.ca_pem)).transpose()?;
        let target = Target { port: self.port, user: USER, database: DATABASE, tls: tls.as_ref() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let attempt = runtime.block_on(async {
                tokio::time::timeout(READY_LIMIT, async {
                    Client::login(&target).await?.query("SELECT 1").await
                })
                .await?
            });
            match attempt {
                Ok(_) => return Ok(()),
                Err(_) if self.process.is_running() && Instant::now() < deadline => {
                    std::thread::sleep(READY_POLL);
                }
                Err(error) => return Err(error).with_context(|| self.process.last_words()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(pgbouncer_version("PgBouncer 1.18.0"), Some((1, 18)));
        assert_eq!(pgbouncer_version("iambouncer 0.1.0"), None);
    }

    #[test]
    fn only_the_port_differs_between_the_sides() {
        let ini = Ini {
            pool_mode: "transaction",
            pool_size: 20,
            server_tls: true,
            client_tls: true,
            max_prepared: None,
        };
        let one = ini.text(Path::new("/d"), 1, 2);
        let other = ini.text(Path::new("/d"), 1, 3);
        assert_eq!(one.replace("listen_port = 2", "listen_port = 3"), other);
    }
}
