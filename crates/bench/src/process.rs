//! Child processes that do not outlive this one. Owns their start, their output file and their end: dropping
//! a `ChildProcess` kills the child, and the kernel kills it if this process ends in any other way.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Interval between checks whether a child has exited.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// Maximum length of a child's output quoted in an error, in bytes.
const MAX_QUOTE_BYTES: usize = 2000;

/// The account that a child runs as. PgBouncer refuses root, so all poolers run as the owner of the
/// database's files.
#[derive(Clone, Copy)]
pub(crate) struct Account {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// A running child.
pub(crate) struct ChildProcess {
    child: Child,
    output: PathBuf,
    name: String,
}

/// A command that is killed when this process ends. `setpriv` sets the signal and then executes the program,
/// so the process ID is that of the program. The signal is tied to the thread that starts the child, which
/// must be the main one.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).current_dir("/").env("LC_ALL", "C");
    // Settings of the user must not change what is measured.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PG") || name.starts_with("IAMBOUNCER") {
            command.env_remove(name.as_ref());
        }
    }
    command
}

impl ChildProcess {
    /// Starts `command` with both outputs in the file `output`.
    pub(crate) fn start(
        mut command: Command,
        name: &str,
        output: PathBuf,
        account: Option<Account>,
    ) -> Result<Self> {
        let file = File::create(&output).with_context(|| format!("creating {}", output.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        if let Some(Account { uid, gid }) = account {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { child, output, name: name.to_owned() })
    }

    /// Process ID.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True if it is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its output so far.
    pub(crate) fn output(&self) -> String {
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of its output, for an error message.
    pub(crate) fn output_tail(&self) -> String {
        let output = self.output();
        let mut from = output.len().saturating_sub(MAX_QUOTE_BYTES);
        while !output.is_char_boundary(from) {
            from += 1;
        }
        output[from..].trim().to_owned()
    }

    /// Sends `signal` and waits until it exits.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(crate) fn end(self, signal: Signal, limit: Duration) -> Result<String> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("invalid process ID")?;
        kill_process(pid, signal).with_context(|| format!("sending a signal to {}", self.name))?;
        self.finish(limit)
    }

    /// Waits until it exits and returns its output.
    ///
    /// # Errors
    /// It failed, or was still running after `limit`; in both cases it is dead afterwards.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait().with_context(|| format!("waiting for {}", self.name))? {
                Some(status) => return self.check(status),
                None if Instant::now() > deadline => {
                    bail!("{} did not exit within {} s: {}", self.name, limit.as_secs(), self.output_tail())
                }
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }

    fn check(&self, status: ExitStatus) -> Result<String> {
        if status.success() {
            return Ok(self.output());
        }
        bail!("{} failed with {status}: {}", self.name, self.output_tail())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Both fail only if it has already exited.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Runs a program that only prints something, for example with `--version`, and returns its output.
pub(crate) fn read_output(program: &Path, args: &[&str]) -> Result<String> {
    let output =
        command(program).args(args).output().with_context(|| format!("running {}", program.display()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(text.trim().to_owned());
    }
    bail!("{} failed with {}: {}", program.display(), output.status, text.trim())
}
