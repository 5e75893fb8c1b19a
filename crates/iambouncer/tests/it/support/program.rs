//! Runs of the binary and of other programs that end by themselves, and one that logs to a file. Owns those processes; every one has ended
//! when its value is gone.

use super::bouncer::command;
use super::{PATIENCE, eventually};
use rustix::process::{Pid, Signal};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// What a run came to.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the binary to its end, which has to come soon.
pub fn run(arguments: &[&str], environment: &[(String, String)]) -> Ended {
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    to_end(&mut command(&arguments, environment))
}

/// Runs a command to its end, which has to come soon. What it prints has to fit a pipe.
pub fn to_end(command: &mut Command) -> Ended {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let in_time = child.try_wait().unwrap().is_some();
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ended =
        Ended { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) };
    assert!(in_time, "{command:?} did not end: {ended:?}");
    ended
}

/// A running pooler whose log is a file.
pub struct Logged {
    child: Child,
    pub port: u16,
    log_file: PathBuf,
}

impl Logged {
    /// Starts the binary and waits until `log_file` says that it is ready.
    pub fn start(arguments: &[String], environment: &[(String, String)], log_file: &Path) -> Self {
        let child = command(arguments, environment).spawn().unwrap();
        let mut pooler = Self { child, port: 0, log_file: log_file.to_owned() };
        eventually("the log file says ready", || {
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

    /// What the file holds now.
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

    /// Waits for its end.
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
