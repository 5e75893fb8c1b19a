//! `iambouncer drain`, `reload`, `pause`, `resume` and `shutdown`: commands for a running pooler, over the UNIX socket of
//! its console. Owns the texts of the commands, and the wait for the end of the process.

use super::arguments::{ConsoleArguments, Drain, PauseArguments, Shutdown};
use super::console_client::{ConsoleClient, ConsoleEnd};
use super::{Failure, console_socket};
use crate::config::DrainPeriod;
use crate::quoted_text;
use anyhow::bail;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Added to `drain_max_seconds` for the wait: the last statements are canceled after it.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// Connects to the pooler that the options name.
pub(super) fn connect(arguments: &ConsoleArguments) -> anyhow::Result<ConsoleClient> {
    ConsoleClient::connect(&console_socket::candidates(arguments)?, Duration::from_secs(arguments.timeout))
}

/// Runs a command.
fn run(arguments: &ConsoleArguments, command: &str) -> Result<(), Failure> {
    connect(arguments).and_then(|mut client| client.run(command)).map(drop).map_err(Failure::Start)
}

pub(super) fn reload(arguments: &ConsoleArguments) -> Result<(), Failure> {
    run(arguments, "RELOAD")
}

pub(super) fn pause(options: &PauseArguments) -> Result<(), Failure> {
    run(&options.console, &with_database("PAUSE", options.database.as_deref()))
}

pub(super) fn resume(options: &PauseArguments) -> Result<(), Failure> {
    run(&options.console, &with_database("RESUME", options.database.as_deref()))
}

fn with_database(command: &str, database: Option<&str>) -> String {
    match database {
        None => command.to_owned(),
        Some(name) => format!("{command} {}", quoted_text::quoted(name, '"')),
    }
}

pub(super) fn shutdown(options: &Shutdown) -> Result<(), Failure> {
    let command = match (options.wait_for_servers, options.wait_for_clients) {
        (true, _) => "SHUTDOWN WAIT_FOR_SERVERS",
        (_, true) => "SHUTDOWN WAIT_FOR_CLIENTS",
        _ => "SHUTDOWN",
    };
    connect(&options.console).and_then(|mut client| client.run_last(command)).map_err(Failure::Start)
}

pub(super) fn drain(options: &Drain) -> Result<(), Failure> {
    run_drain(options).map_err(Failure::Start)
}

fn run_drain(options: &Drain) -> anyhow::Result<()> {
    let mut client = connect(&options.console)?;
    if !options.wait {
        return client.run_last("DRAIN");
    }
    let limit = match options.max {
        Some(seconds) => Duration::from_secs(seconds),
        None => {
            let settings = client.run("SHOW CONFIG")?;
            let seconds = settings.of_key("drain_max_seconds").parse().ok();
            let max = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            max.unwrap_or_else(|| DrainPeriod::default().max) + AFTER_DRAIN
        }
    };
    let deadline = Instant::now() + limit;
    let process = process_of(&mut client)?;
    client.run_last("DRAIN")?;
    client.limit(limit);
    let is_over = match process {
        Some(process) => is_over_in_time(&process, deadline)?,
        None => matches!(client.wait_for_close(), ConsoleEnd::Closed),
    };
    if !is_over {
        bail!("the pooler has not stopped within {} s", limit.as_secs_f64());
    }
    Ok(())
}

/// The process of the pooler. `None` if its number is one of another PID namespace; the service manager may have opened
/// the socket for it.
fn process_of(client: &mut ConsoleClient) -> anyhow::Result<Option<OwnedFd>> {
    let peer = client.peer_pid();
    let pid = client.run("SHOW STATUS")?.of_key("pid").parse().ok();
    let pid = pid.filter(|pid| peer == Some(*pid)).and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    Ok(pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()))
}

fn is_over_in_time(process: &OwnedFd, deadline: Instant) -> anyhow::Result<bool> {
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_databases_are_quoted() {
        assert_eq!(with_database("PAUSE", None), "PAUSE");
        assert_eq!(with_database("PAUSE", Some("my \"db\"; SHUTDOWN")), "PAUSE \"my \"\"db\"\"; SHUTDOWN\"");
    }
}
