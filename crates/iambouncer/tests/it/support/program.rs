//! Runs of the binary and other programs to completion, and a pooler that logs to a file. Owns those
//! processes; each has exited when its value is dropped.

use super::bouncer::command;
use super::{TIMEOUT, eventually};
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// EX_CONFIG of sysexits.h.
pub const EXIT_CONFIGURATION: i32 = 78;

/// Exit code and output of a program.
#[derive(Debug)]
pub struct ProgramOutput {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary until it exits, within the time limit.
pub fn run(arguments: &[&str], environment: &[(String, String)]) -> ProgramOutput {
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    to_end(&mut command(&arguments, environment))
}

/// Copies a program that is then run. A copy by this process could be open for writing in a child that another test starts
/// meanwhile, and the system would not run it (ETXTBSY).
pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}

/// Runs a command until it exits, within the time limit. Its output must fit into a pipe.
pub fn to_end(command: &mut Command) -> ProgramOutput {
    to_end_within(command, TIMEOUT)
}

/// As [`to_end`], with another time limit.
pub fn to_end_within(command: &mut Command, limit: Duration) -> ProgramOutput {
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let deadline = Instant::now() + limit;
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let in_time = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let result = ProgramOutput {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    assert!(in_time, "{command:?} did not exit: {result:?}");
    result
}

/// A running pooler that logs to a file.
pub struct Logged {
    child: Child,
    pub port: u16,
    log_file: PathBuf,
}

impl Logged {
    /// Starts the binary and waits until `log_file` reports that it is ready.
    pub fn start(arguments: &[String], environment: &[(String, String)], log_file: &Path) -> Self {
        Self::spawn(command(arguments, environment), log_file)
    }

    /// Runs a command that starts the binary, and waits until `log_file` reports that it is ready.
    pub fn spawn(mut command: Command, log_file: &Path) -> Self {
        let child = command.spawn().unwrap();
        let mut pooler = Self { child, port: 0, log_file: log_file.to_owned() };
        eventually("the log file reports ready", || {
            assert_eq!(pooler.child.try_wait().unwrap(), None, "{}", pooler.log());
            let log = pooler.log();
            let line = log.lines().find_map(|line| line.split_once("ready: accepting connections on "));
            let ports = line.map(|(_, rest)| rest.split(',').filter_map(|end| end.trim().rsplit_once(':')));
            pooler.port =
                ports.and_then(|mut ports| ports.find_map(|(_, port)| port.parse().ok())).unwrap_or(0);
            pooler.port != 0
        });
        pooler
    }

    /// The contents of the log file.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log_file).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// Waits until the process exits.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("iambouncer ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of iambouncer:\n{}", self.log());
        }
    }
}
