//! `-d`: the pooler in the background. Owns the second process and the wait for it: the command returns when the pooler
//! accepts clients, with its exit code if it does not.
//!
//! The second process is a new start of this program rather than a fork of this process, which needs no unsafe code.

use super::Failure;
use anyhow::Context as _;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

/// The hidden flag of the second process.
pub(super) const IN_BACKGROUND: &str = "in-background";
/// What the second process writes when it accepts clients.
const READY: &[u8] = b"ready\n";

/// Starts the second process with the arguments of this one, and waits until it is ready.
pub(super) fn start() -> Result<ExitCode, Failure> {
    let arguments = without_daemon_flag(std::env::args_os().skip(1));
    let started = || -> anyhow::Result<ExitCode> {
        let program = std::env::current_exe().context("cannot find the own program")?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg(format!("--{IN_BACKGROUND}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the background process")?;
        let mut answer = Vec::new();
        if let Some(mut output) = child.stdout.take() {
            output.read_to_end(&mut answer).context("cannot read from the background process")?;
        }
        if answer == READY {
            return Ok(ExitCode::SUCCESS);
        }
        let status = child.wait().context("cannot wait for the background process")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
        Ok(ExitCode::from(code.unwrap_or(super::EXIT_FAILURE)))
    };
    started().map_err(Failure::Start)
}

/// The arguments without `-d`, also where it is one of several letters (`-dv`).
fn without_daemon_flag(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    for argument in arguments {
        let text = argument.to_str().unwrap_or_default();
        let letters = text.strip_prefix('-').filter(|letters| !letters.starts_with('-'));
        match letters {
            _ if text == "--daemon" => {}
            // Only before a letter with a value: -uNAME may contain a d.
            Some(letters)
                if letters.bytes().take_while(|letter| b"dvqR".contains(letter)).any(|l| l == b'd') =>
            {
                let at = letters.find('d').unwrap_or(0);
                let rest = format!("{}{}", &letters[..at], &letters[at + 1..]);
                if !rest.is_empty() {
                    kept.push(OsString::from(format!("-{rest}")));
                }
            }
            _ => kept.push(argument),
        }
    }
    kept
}

/// Leaves the session of the terminal. Called in the second process, before anything else.
pub(super) fn detach() {
    // Fails only for the leader of a group, which this process is not.
    let _ = rustix::process::setsid();
}

/// Reports to the first process that clients are accepted, and gives up the terminal.
pub(super) fn report_ready() {
    let mut output = std::io::stdout();
    let _ = output.write_all(READY).and_then(|()| output.flush());
    let Ok(null) = OpenOptions::new().read(true).write(true).open(OsStr::new("/dev/null")) else { return };
    let _ = rustix::stdio::dup2_stdout(&null);
    let _ = rustix::stdio::dup2_stderr(&null);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_process_has_all_arguments_but_one() {
        let kept = |words: &[&str]| {
            let kept = without_daemon_flag(words.iter().map(OsString::from));
            kept.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&["-d", "-v", "a.ini", "-u", "django"]), ["-v", "a.ini", "-u", "django"]);
        assert_eq!(kept(&["--daemon", "d.ini"]), ["d.ini"]);
        assert_eq!(kept(&["-dv", "-vdq", "x"]), ["-v", "-vq", "x"]);
        assert_eq!(kept(&["-udjango", "-qudb"]), ["-udjango", "-qudb"]);
    }
}
