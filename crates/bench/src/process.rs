//! Child processes that end with us. Owns their start, their output file and their end; it never leaves one
//! behind: dropping the guard kills the child, and the kernel kills it when this process dies any other way.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Pause between two looks at whether a child has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How much of a child's output an error quotes, in bytes.
const MAX_QUOTE_BYTES: usize = 2000;

/// Whom a child runs as. PgBouncer refuses root, so all poolers run as the owner of the database's files.
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

/// A command that dies with this process. `setpriv` sets the signal and then becomes the program, so the
/// process id is the program's own. It is set for the thread that starts the child: that must be the main one.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).current_dir("/").env("LC_ALL", "C");
    // BenchSettings of the person who runs the benchmark must not change what it measures.
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

    /// ChildProcess id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has printed.
    pub(crate) fn output(&self) -> String {
        fs::read(&self.output).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of what it has printed, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let output = self.output();
        let mut from = output.len().saturating_sub(MAX_QUOTE_BYTES);
        while !output.is_char_boundary(from) {
            from += 1;
        }
        output[from..].trim().to_owned()
    }

    /// Asks it to end with `signal` and waits until it has.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub(crate) fn end(self, signal: Signal, limit: Duration) -> Result<String> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id of none")?;
        kill_process(pid, signal).with_context(|| format!("ending {}", self.name))?;
        self.finish(limit)
    }

    /// Waits until it ends by itself and hands back its output.
    ///
    /// # Errors
    /// It failed, or it was still there after `limit`; it is dead in either case.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait().with_context(|| format!("waiting for {}", self.name))? {
                Some(status) => return self.judge(status),
                None if Instant::now() > deadline => {
                    bail!("{} did not end within {} s: {}", self.name, limit.as_secs(), self.last_words())
                }
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }

    fn judge(&self, status: ExitStatus) -> Result<String> {
        if status.success() {
            return Ok(self.output());
        }
        bail!("{} ended with {status}: {}", self.name, self.last_words())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Runs a program that only prints something, such as `--version`, and hands back its output.
pub(crate) fn ask(program: &Path, args: &[&str]) -> Result<String> {
    let output =
        command(program).args(args).output().with_context(|| format!("running {}", program.display()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(text.trim().to_owned());
    }
    bail!("{} ended with {}: {}", program.display(), output.status, text.trim())
}
