//! `iambouncer drill`. Owns the connection that its arguments describe, Ctrl-C, and the exit code; the drill itself is in
//! [`crate::drill`].

use super::Failure;
use super::arguments::DrillArguments;
use super::run;
use crate::config::{Config, Database, Secret, parse_endpoint};
use crate::drill::{self, DrillRequest};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The port of a pooler, if the target has none.
const DEFAULT_PORT: u16 = 6432;
/// Exit status after SIGINT.
const INTERRUPTED: i32 = 130;
/// The password of the user, as for psql.
const PASSWORD_VARIABLE: &str = "PGPASSWORD";

pub(super) fn run(options: &DrillArguments) -> Result<ExitCode, Failure> {
    let (line, config) = connection(options).map_err(Failure::Configuration)?;
    let loaded = run::files_of(config)?;
    let runtime = run::control_runtime().map_err(Failure::Start)?;
    let is_interrupted = Arc::new(AtomicBool::new(false));
    let flag = is_interrupted.clone();
    runtime.spawn(async move {
        // The second time, nothing is waited for.
        while tokio::signal::ctrl_c().await.is_ok() {
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED);
            }
        }
    });
    let request = DrillRequest {
        loaded,
        control: runtime.handle().clone(),
        line,
        user: options.user.clone(),
        password: std::env::var(PASSWORD_VARIABLE).ok().map(Secret::new),
        clients: options.clients,
        rate: options.rate,
        duration: Duration::from_secs(options.seconds),
        table: options.table.clone(),
        is_interrupted,
    };
    let report = drill::run(request).map_err(|error| Failure::Start(error.into()));
    runtime.shutdown_background();
    let report = report?;
    let text = if options.json { format!("{:#}\n", drill::json(&report)) } else { drill::text(&report) };
    super::print(text.as_bytes())?;
    Ok(if report.is_bad() { ExitCode::from(super::EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

fn connection(options: &DrillArguments) -> Result<(Database, Config), String> {
    let target = &options.target;
    let (host, port) =
        parse_endpoint(target).map_err(|reason| format!("error: the pooler \"{target}\" {reason}"))?;
    let mut config = Config::default();
    let tls = options.sslmode.parse().map_err(|reason| format!("error: --sslmode {reason}"))?;
    config.settings.server_tls_sslmode = tls;
    let line = Database {
        host: vec![host],
        port: port.unwrap_or(DEFAULT_PORT),
        ..Database::new(options.database.clone())
    };
    Ok((line, config))
}
