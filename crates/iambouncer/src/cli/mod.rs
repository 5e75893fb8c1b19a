//! The command line. Owns arguments, exit codes and what is printed before the log takes over.

mod arguments;
mod check;
mod logging;
mod pidfile;
mod rlimit;
mod run;

use arguments::{Arguments, Command};
use clap::Parser;
use std::process::ExitCode;

/// Something failed while running.
const EXIT_FAILURE: u8 = 1;
/// The configuration is wrong (EX_CONFIG of sysexits.h).
const EXIT_CONFIGURATION: u8 = 78;

/// Why the process ends early. The text is for the user.
enum Failure {
    Configuration(String),
    Start(anyhow::Error),
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Some(Command::Check { file }) => check::check(&file),
        Some(Command::Run(run)) => run::run(run),
        None => run::run(arguments.run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(text)) => {
            eprintln!("{}", text.trim_end());
            ExitCode::from(EXIT_CONFIGURATION)
        }
        Err(Failure::Start(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
