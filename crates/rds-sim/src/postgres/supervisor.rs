//! The supervising process that stops the server, whatever happens to the owner.
//!
//! Owns: a small shell, the pipe it waits on, and the check whether the server answers.
//! Never: depends on the server's configuration.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::PostgresError;
use super::install::{SystemAccount, io, run_as};

/// Time limit for the server to stop before its supervisor is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval between checks.
const STOP_POLL: Duration = Duration::from_millis(20);
/// Time limit of one connection attempt.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the server, prints its process ID, and waits for a line. "keep" leaves the files to the owner; a
/// closed pipe means that the owner is gone and cannot remove them.
const SUPERVISOR: &str = r#"
"$1/postgres" -D "$2/data" >>"$2/log" 2>&1 </dev/null &
pid=$!
echo $pid
word=
read -r word
kill -QUIT $pid 2>/dev/null
wait $pid
[ "$word" = keep ] || rm -rf "$2"
"#;

#[derive(Debug)]
pub(super) struct Supervisor {
    child: Child,
    pub(super) server_pid: u32,
}

impl Supervisor {
    pub(super) fn start(
        bin: &Path,
        dir: &Path,
        account: Option<SystemAccount>,
    ) -> Result<Self, PostgresError> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SUPERVISOR, "rds-sim-postgres"]).arg(bin).arg(dir);
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A separate process group: Ctrl-C reaches only the owner, whose exit then stops the server.
        shell.process_group(0).current_dir("/").env("LC_ALL", "C.UTF-8");
        run_as(&mut shell, account);
        let mut child = shell.spawn().map_err(io("starting the server"))?;
        let mut first_line = Vec::new();
        if let Some(stdout) = child.stdout.as_mut() {
            let mut byte = [0_u8];
            while first_line.len() < 20
                && stdout.read(&mut byte).is_ok_and(|read| read == 1)
                && byte[0] != b'\n'
            {
                first_line.push(byte[0]);
            }
        }
        let server_pid = String::from_utf8_lossy(&first_line).trim().parse().unwrap_or(0);
        Ok(Self { child, server_pid })
    }

    pub(super) fn end(mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // If this fails, the shell has already exited.
            let _written = stdin.write_all(b"keep\n");
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(STOP_POLL);
        }
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// True if the server answers a login with anything but the error 57P03, which it sends while starting.
pub(super) fn answers(socket: &Path, user: &str) -> bool {
    let attempt = || -> std::io::Result<u8> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
        stream.write_all(&crate::protocol::startup_message(&[("user", user), ("database", "postgres")]))?;
        let mut kind = [0_u8];
        stream.read_exact(&mut kind)?;
        // A custom pg_hba.conf may refuse this login; that is still an answer of a running server.
        let mut rest = [0_u8; 256];
        let read = stream.read(&mut rest)?;
        let is_starting = rest[..read].windows(5).any(|code| code == b"57P03");
        Ok(if is_starting { b'-' } else { kind[0] })
    };
    attempt().is_ok_and(|kind| matches!(kind, b'R' | b'E'))
}
