//! The console over a UNIX socket: the account that runs the pooler needs no password as user `pgbouncer`.

use crate::support::Bouncer;
use crate::support::bouncer::Start;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// An account without rights.
const OTHER_ACCOUNT: u32 = 65534;

/// A pooler that asks every client for a password, and the directory of its socket.
fn start() -> (Bouncer, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let bouncer = Start::databases("app = host=127.0.0.1 port=1 dbname=app")
        .set(&format!("unix_socket_dir = {}", dir.path().display()))
        .set("auth_type = scram-sha-256")
        .start();
    (bouncer, dir)
}

/// psql without a password.
fn psql(host: &str, port: u16, user: &str, sql: &str) -> Command {
    let mut command = Command::new("psql");
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .args(["-w", "-At", "-c", sql]);
    command.arg(format!("host={host} port={port} user={user} dbname=pgbouncer"));
    command
}

fn is_asked_for_a_password(output: &Output) -> bool {
    !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("no password supplied")
}

#[test]
fn the_account_of_the_pooler_needs_no_password_for_the_console() {
    let (bouncer, dir) = start();
    let host = dir.path().display().to_string();
    for sql in ["SHOW VERSION", "RELOAD", "SHOW DATABASES"] {
        let output = psql(&host, bouncer.port, "pgbouncer", sql).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let mut expected_refusals = vec![
        // Another user, and the same one from an address.
        psql(&host, bouncer.port, "postgres", "SHOW VERSION"),
        psql("127.0.0.1", bouncer.port, "pgbouncer", "SHOW VERSION"),
    ];
    // Only root can become another account.
    if rustix::process::geteuid().is_root() {
        let mut of_other_account = psql(&host, bouncer.port, "pgbouncer", "SHOW VERSION");
        of_other_account.uid(OTHER_ACCOUNT).current_dir("/");
        expected_refusals.push(of_other_account);
    }
    for mut command in expected_refusals {
        let output = command.output().unwrap();
        assert!(is_asked_for_a_password(&output), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_process_of_a_client_is_shown() {
    let (bouncer, dir) = start();
    let mut command = psql(&dir.path().display().to_string(), bouncer.port, "pgbouncer", "SHOW CLIENTS");
    // With the names of the columns.
    let child = command.args(["-P", "tuples_only=off", "-F", "|"]).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    let shown = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let mut lines = shown.lines().map(|line| line.split('|').collect::<Vec<_>>());
    let (columns, row) = (lines.next().unwrap(), lines.next().unwrap());
    let at = columns.iter().position(|column| *column == "remote_pid").unwrap();
    assert_eq!(row[at], pid, "{shown}");
}
