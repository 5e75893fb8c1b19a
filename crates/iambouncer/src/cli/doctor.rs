//! `iambouncer doctor`. Owns the first check, which is of the configuration itself, and the exit code; all other
//! checks are in [`crate::doctor`].

use super::Failure;
use super::arguments::Doctor;
use super::log::{Log, LogFlags};
use super::run;
use crate::config::{ProcessEnvironment, Settings};
use crate::context::ConfigFiles;
use crate::doctor::checks::{Check, DoctorReport, Finding};
use crate::doctor::{DoctorRequest, examine, report};
use crate::login_failure::LoginFailure;
use anyhow::Context as _;
use rds_iam::{AwsCredentials, TokenEngine};
use std::process::ExitCode;

pub(super) fn run(options: &Doctor) -> Result<ExitCode, Failure> {
    if options.verbose > 0 {
        // No configuration has been read yet; the log of the checks goes to the terminal.
        let verbose = u32::from(options.verbose) - 1;
        Log::start(&Settings::default(), LogFlags { verbose, ..LogFlags::default() });
    }
    let found = match read(options) {
        Ok((loaded, config, is_file)) => {
            let mut found = examine_targets(options, loaded, is_file).map_err(Failure::Start)?;
            found.general.insert(0, config);
            found
        }
        Err(Failure::Configuration(text)) => {
            DoctorReport { general: vec![invalid(&text)], targets: Vec::new() }
        }
        Err(other) => return Err(other),
    };
    let text = if options.json { format!("{:#}\n", report::json(&found)) } else { report::text(&found) };
    super::print(text.as_bytes())?;
    let is_bad = report::is_bad(&found, options.strict);
    Ok(if is_bad { ExitCode::from(super::EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

/// The configuration and its files, the finding about them, and whether it came from a file.
fn read(options: &Doctor) -> Result<(ConfigFiles, Finding, bool), Failure> {
    let flags = options.server.zero_config_flags();
    let first = run::first_read(options.target.as_deref(), options.server.settings(), &flags)?;
    let file = first.file().map(|path| path.display().to_string());
    let is_file = file.is_some();
    let place = file.unwrap_or_else(|| "arguments and environment".to_owned());
    let warnings = first.warnings;
    let loaded = run::files_of(first.config)?;
    let finding = match warnings.lines().find_map(|line| line.strip_prefix("warning: ")) {
        Some(first) => Finding::warning(
            Check::Config,
            format!("{place}: {first}"),
            LoginFailure::Configuration,
            Some(&sentences(&warnings)),
        ),
        None => Finding::pass(Check::Config, format!("{place}: no errors")),
    };
    Ok((loaded, finding, is_file))
}

fn examine_targets(options: &Doctor, loaded: ConfigFiles, is_file: bool) -> anyhow::Result<DoctorReport> {
    let runtime = run::control_runtime()?;
    let resolver = run::resolver(&loaded.config.settings);
    let flags = options.server.zero_config_flags();
    let request = DoctorRequest {
        loaded,
        control: runtime.handle().clone(),
        tokens: TokenEngine::new(AwsCredentials::shared()),
        resolver,
        database: flags.database.filter(|_| is_file),
        user: flags.user,
    };
    let found = examine(request, &ProcessEnvironment).context("cannot run");
    runtime.shutdown_background();
    found
}

fn invalid(text: &str) -> Finding {
    let first = text.lines().next().unwrap_or_default();
    let summary = first.strip_prefix("error: ").unwrap_or(first);
    Finding::failure(Check::Config, summary, LoginFailure::Configuration, Some(&sentences(text)))
}

/// The sentences of a configuration report, without source lines and carets.
fn sentences(text: &str) -> String {
    let kept = text.lines().filter_map(|line| {
        let line = line.trim_start().trim_start_matches("= ");
        ["error: ", "warning: ", "help: "].iter().find_map(|word| line.strip_prefix(word))
    });
    let sentence = |line: &str| match line.ends_with(['.', '?', '!']) {
        true => line.to_owned(),
        false => format!("{line}."),
    };
    kept.map(sentence).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configuration_errors_become_sentences() {
        let text = "error: unknown setting \"pol_mode\"\n  --> a.ini:3:1\n  |\n3 | pol_mode = x\n  | ^^^^\nhelp: did you \
                    mean \"pool_mode\"?\nerror: b\n";
        let finding = invalid(text);
        assert_eq!(finding.summary, "unknown setting \"pol_mode\"");
        let hint = finding.outcome.unwrap().hint;
        assert!(hint.starts_with("unknown setting \"pol_mode\". did you mean \"pool_mode\"? b. "), "{hint}");
    }
}
