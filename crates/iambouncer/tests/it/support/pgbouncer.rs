//! A real PgBouncer, for tests that need one. Owns finding the program, its process and its directory; it runs without the
//! rights of root.

use super::bouncer::end_with_the_test;
use super::eventually;
use super::program::to_end;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Where Debian installs it.
const DEBIANS: &str = "/usr/sbin/pgbouncer";
/// The first version with peers.
const FIRST_WITH_PEERS: (u32, u32) = (1, 19);
/// An account without rights, which runs it if the tests run as root.
const ACCOUNT: u32 = 65534;
/// How often another port is tried if one is taken by another process meanwhile.
const ATTEMPTS: usize = 10;

/// A running PgBouncer.
pub struct PgBouncer {
    child: Child,
    /// The port that it listens on.
    pub port: u16,
    dir: tempfile::TempDir,
}

/// The program, which `PGBOUNCER` names. Panics if it is missing or has no peers: tests that need it must not pass
/// without it.
fn program() -> PathBuf {
    let path = PathBuf::from(std::env::var_os("PGBOUNCER").unwrap_or_else(|| DEBIANS.into()));
    assert!(path.is_file(), "no PgBouncer: set PGBOUNCER to the program; {} is missing", path.display());
    let printed = to_end(Command::new(&path).arg("--version")).stdout;
    let version = version_of(&printed);
    assert!(
        version.is_some_and(|version| version >= FIRST_WITH_PEERS),
        "{} is not a PgBouncer of 1.19 or newer: {printed}",
        path.display()
    );
    path
}

/// `None` for a program that is only compatible, which says so behind the number.
fn version_of(printed: &str) -> Option<(u32, u32)> {
    let version = printed.lines().next()?.strip_prefix("PgBouncer ")?;
    let mut numbers = version.split('.').take_while(|_| !version.contains(' '));
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Where a PgBouncer listens.
pub struct PgBouncerPlace<'a> {
    pub port: u16,
    /// The directory of its UNIX socket.
    pub socket_dir: &'a Path,
}

impl PgBouncer {
    /// Starts one on a free port with these lines of `[databases]`; `settings` makes those of `[pgbouncer]`, and further
    /// sections. Waits until it accepts connections.
    pub fn start(databases: &str, settings: impl Fn(PgBouncerPlace<'_>) -> String) -> Self {
        let program = program();
        let mut failure = String::new();
        for _ in 0..ATTEMPTS {
            match Self::try_start(&program, databases, &settings) {
                Ok(running) => return running,
                Err(log) => failure = log,
            }
        }
        panic!("PgBouncer does not start:\n{failure}");
    }

    fn try_start(
        program: &Path,
        databases: &str,
        settings: &impl Fn(PgBouncerPlace<'_>) -> String,
    ) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("users.txt"), "\"app\" \"secret\"\n\"postgres\" \"\"\n").unwrap();
        let ini = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir = {}\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             admin_users = postgres\n{}\n",
            dir.path().display(),
            path("users.txt"),
            settings(PgBouncerPlace { port, socket_dir: dir.path() })
        );
        std::fs::write(path("pgbouncer.ini"), ini).unwrap();
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(ACCOUNT), Some(ACCOUNT)).unwrap();
            command.uid(ACCOUNT).gid(ACCOUNT);
        }
        end_with_the_test(&mut command);
        let log = std::fs::File::create(path("log")).unwrap();
        command.arg(path("pgbouncer.ini")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut running = Self { child: command.spawn().unwrap(), port, dir };
        let mut has_ended = false;
        eventually("PgBouncer accepts connections", || {
            has_ended = running.child.try_wait().unwrap().is_some();
            has_ended || TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        if has_ended { Err(running.log()) } else { Ok(running) }
    }

    /// The directory of its UNIX socket.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of PgBouncer:\n{}", self.log());
        }
    }
}

#[test]
fn versions_are_compared_as_numbers() {
    assert_eq!(version_of("PgBouncer 1.25.2\nlibevent 2.1.12-stable\n"), Some((1, 25)));
    assert!(version_of("PgBouncer 1.9.0\n") < Some(FIRST_WITH_PEERS));
    assert_eq!(version_of("PgBouncer 1.25.2 (compatible; iambouncer 0.1.0)\n"), None);
}
