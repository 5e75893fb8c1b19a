//! The command line. Owns arguments, exit codes and output before logging starts.

mod account;
mod arguments;
mod authorities;
mod background;
mod check;
mod console_client;
mod console_socket;
mod control;
mod core_dumps;
mod doctor;
mod drill;
mod exec;
mod hash;
mod log;
mod pidfile;
mod policy;
mod probe;
mod rlimit;
mod run;
mod sockets;
mod status;
mod token;
mod top;

use crate::printable;
use arguments::{Arguments, CliCommand};
use clap::{CommandFactory as _, Parser as _};
pub use log::{log_fields, logging_markdown};
use std::io::Write as _;
use std::process::ExitCode;

/// Exit code of a failure at run time.
const EXIT_FAILURE: u8 = 1;
/// Exit code of a configuration error (EX_CONFIG of sysexits.h).
const EXIT_CONFIGURATION: u8 = 78;

/// Why the process exits early. The text is for the user.
enum Failure {
    Configuration(String),
    Start(anyhow::Error),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    core_dumps::forbid();
    let arguments = Arguments::parse();
    let done = |outcome: Result<(), Failure>| outcome.map(|()| ExitCode::SUCCESS);
    let outcome = match arguments.command {
        None if arguments.version => done(print(format!("{}\n", crate::version::LINES).as_bytes())),
        Some(CliCommand::Check { file }) => done(check::check(&file)),
        Some(CliCommand::Run(run)) => run::run(run),
        Some(CliCommand::Doctor(options)) => doctor::run(&options),
        Some(CliCommand::Drill(options)) => drill::run(&options),
        Some(CliCommand::Token(options)) => done(token::print(&options)),
        Some(CliCommand::Policy(options)) => done(policy::print(&options)),
        Some(CliCommand::Exec(options)) => exec::exec(options),
        Some(CliCommand::Connect(options)) => exec::connect(options),
        Some(CliCommand::Healthcheck(options)) => done(probe::healthcheck(&options)),
        Some(CliCommand::Wait(options)) => done(probe::wait(&options)),
        Some(CliCommand::Drain(options)) => done(control::drain(&options)),
        Some(CliCommand::Reload { console }) => done(control::reload(&console)),
        Some(CliCommand::Pause(options)) => done(control::pause(&options)),
        Some(CliCommand::Resume(options)) => done(control::resume(&options)),
        Some(CliCommand::Shutdown(options)) => done(control::shutdown(&options)),
        Some(CliCommand::Status(options)) => done(status::print(&options)),
        Some(CliCommand::Top(options)) => done(top::run(&options)),
        Some(CliCommand::Hash(options)) => done(hash::print(&options)),
        Some(CliCommand::Authorities) => done(authorities::print()),
        Some(CliCommand::Completions { shell }) => done(completions(shell)),
        Some(CliCommand::Man) => done(man()),
        None => run::run(arguments.run),
    };
    match outcome {
        Ok(code) => code,
        Err(Failure::Configuration(text)) => {
            complain(text.trim_end());
            ExitCode::from(EXIT_CONFIGURATION)
        }
        Err(Failure::Start(error)) => {
            complain(&format!("error: {error:#}"));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "iambouncer", &mut text);
    print(&text)
}

fn man() -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_mangen::Man::new(Arguments::command())
        .render(&mut text)
        .map_err(|error| Failure::Start(error.into()))?;
    print(&text)
}

/// Writes to standard output. A closed pipe is not a failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().lock().write_all(text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Start(error.into())),
        _ => Ok(()),
    }
}

/// Writes to standard error, escaping each line, since it may quote a server. Write errors are ignored.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable::lines(text));
}

/// Writes a prompt.
fn prompt(text: &str) {
    let _ = write!(std::io::stderr().lock(), "{text}");
}
