//! The installed PostgreSQL, and the account to run it as.
//!
//! Owns: finding the binaries and the account, `initdb`, files owned by that account.
//! Never: starts a server.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use super::PostgresError;

/// Maximum length of the path of a Unix socket, in bytes (`sockaddr_un` less the final NUL).
const MAX_SOCKET_PATH_BYTES: usize = 107;
/// The account that runs the server if this process is root; created by Debian's package.
pub(super) const SERVER_ACCOUNT: &str = "postgres";

#[derive(Clone, Copy)]
pub(super) struct SystemAccount {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// `PG_BIN`, or the newest version in Debian's directory.
pub(super) fn find_binaries() -> Option<PathBuf> {
    if let Some(bin) = std::env::var_os("PG_BIN") {
        return Some(PathBuf::from(bin));
    }
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| version(path).is_some() && path.join("bin/initdb").exists())
        .max_by_key(|path| version(path))
        .map(|path| path.join("bin"))
}

/// The account to run the server as; `None` if this process is not root.
pub(super) fn server_account() -> Result<Option<SystemAccount>, PostgresError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd").map_err(io("reading /etc/passwd"))?;
    let fields = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&SERVER_ACCOUNT))
        .ok_or(PostgresError::NoAccount)?;
    let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
    match (number(2), number(3)) {
        (Some(uid), Some(gid)) => Ok(Some(SystemAccount { uid, gid })),
        _ => Err(PostgresError::NoAccount),
    }
}

pub(super) fn make_directory(account: Option<SystemAccount>) -> Result<TempDir, PostgresError> {
    let dir = tempfile::Builder::new()
        .prefix("rds-sim-pg-")
        .tempdir()
        .map_err(io("creating a temporary directory"))?;
    if dir.path().as_os_str().len() + "/.s.PGSQL.65535.lock".len() > MAX_SOCKET_PATH_BYTES {
        return Err(PostgresError::PathTooLong(dir.path().to_owned()));
    }
    if let Some(SystemAccount { uid, gid }) = account {
        chown(dir.path(), Some(uid), Some(gid))
            .map_err(io("changing the owner of the temporary directory"))?;
    }
    Ok(dir)
}

pub(super) fn run_initdb(
    bin: &Path,
    dir: &Path,
    account: Option<SystemAccount>,
    superuser: &str,
) -> Result<(), PostgresError> {
    let mut initdb = Command::new(bin.join("initdb"));
    initdb
        .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username", superuser])
        .arg("--pgdata")
        .arg(dir.join("data"))
        .current_dir("/")
        .env("LC_ALL", "C.UTF-8");
    run_as(&mut initdb, account);
    checked_output(initdb, "initdb").map(drop)
}

/// Copies the files of a server that does not run.
pub(super) fn copy_files(
    from: &Path,
    to: &Path,
    account: Option<SystemAccount>,
) -> Result<(), PostgresError> {
    let mut program = Command::new("cp");
    program.arg("-Rp").arg(from).arg(to).current_dir("/");
    run_as(&mut program, account);
    checked_output(program, "cp").map(drop)
}

pub(super) fn run_as(command: &mut Command, account: Option<SystemAccount>) {
    if let Some(SystemAccount { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
}

pub(super) fn checked_output(mut command: Command, program: &'static str) -> Result<String, PostgresError> {
    let Output { status, stdout, stderr } = command.output().map_err(io(program))?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    Err(PostgresError::Program { program, output: String::from_utf8_lossy(&stderr).trim_end().to_owned() })
}

pub(super) fn write_owned(
    path: &Path,
    text: &str,
    account: Option<SystemAccount>,
) -> Result<(), PostgresError> {
    fs::write(path, text).map_err(io("writing the server's configuration"))?;
    // The server refuses a key that other users can read.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io("setting the mode of a file"))?;
    match account {
        Some(SystemAccount { uid, gid }) => {
            chown(path, Some(uid), Some(gid)).map_err(io("changing the owner of a file"))
        }
        None => Ok(()),
    }
}

pub(super) fn free_port() -> Result<u16, PostgresError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(io("finding a free port"))?;
    Ok(listener.local_addr().map_err(io("finding a free port"))?.port())
}

pub(super) fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> PostgresError {
    move |source| PostgresError::Io { doing, source }
}
