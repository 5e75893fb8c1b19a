//! Log destination and level. Owns the subscriber; disabled lines cost nothing. Destination and level can change
//! while the process runs.

use super::fields::Fields;
use crate::config::Settings;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing::Level;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt, registry, reload};

/// Replaces `verbose` and the flags by a filter of its own.
const FILTER_VARIABLE: &str = "IAMBOUNCER_LOG";

enum LogDestination {
    Stderr,
    File { path: PathBuf, file: File },
}

/// Writes to the current destination.
#[derive(Clone)]
struct LogWriter(Arc<Mutex<LogDestination>>);

impl LogWriter {
    fn destination(&self) -> MutexGuard<'_, LogDestination> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &mut *self.destination() {
            LogDestination::Stderr => io::stderr().write(line),
            LogDestination::File { file, .. } => file.write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut *self.destination() {
            LogDestination::Stderr => io::stderr().flush(),
            LogDestination::File { file, .. } => file.flush(),
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

type LineLayer = fmt::Layer<Registry, Fields, fmt::format::Format, LogWriter>;

/// The log of the process.
#[derive(Clone)]
pub(super) struct Log {
    writer: LogWriter,
    filter: reload::Handle<EnvFilter, Registry>,
    lines: reload::Handle<LineLayer, Registry>,
    /// Added to `verbose` by flags.
    verbose_flags: u32,
    quiet: bool,
}

impl Log {
    /// Starts logging. Libraries log warnings only, unless the variable's filter names them.
    ///
    /// # Errors
    /// `logfile` cannot be opened.
    pub(super) fn start(settings: &Settings, verbose_flags: u32, quiet: bool) -> Result<Self, String> {
        let writer = LogWriter(Arc::new(Mutex::new(LogDestination::Stderr)));
        let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        // An error report about a log that cannot be written would go to the same closed pipe, and panic.
        let lines = fmt::layer()
            .fmt_fields(Fields)
            .with_target(false)
            .log_internal_errors(false)
            .with_ansi(ansi)
            .with_writer(writer.clone());
        let (lines, lines_handle) = reload::Layer::new(lines);
        let (filter, filter_handle) = reload::Layer::new(filter(settings.verbose + verbose_flags, quiet));
        let log = Self { writer, filter: filter_handle, lines: lines_handle, verbose_flags, quiet };
        log.configure(settings)?;
        let harmless = filter_fn(|line| is_safe_to_log(line.target(), *line.level()));
        let filter = filter.and(harmless.with_max_level_hint(LevelFilter::TRACE));
        // A second start in one process (tests) keeps the first subscriber.
        let _ = registry().with(lines.with_filter(filter)).try_init();
        Ok(log)
    }

    /// Applies destination and level of the settings. A file is reopened, since it may have been renamed; if that
    /// fails, the open one stays in use.
    ///
    /// # Errors
    /// A different `logfile` cannot be opened.
    pub(super) fn configure(&self, settings: &Settings) -> Result<(), String> {
        let logfile = Path::new(&settings.logfile);
        let is_open =
            matches!(&*self.writer.destination(), LogDestination::File { path, .. } if path == logfile);
        let destination = match settings.logfile.as_str() {
            "" => LogDestination::Stderr,
            path => match OpenOptions::new().create(true).append(true).open(path) {
                Ok(file) => LogDestination::File { path: logfile.to_owned(), file },
                Err(error) if is_open => {
                    tracing::warn!(%error, "cannot reopen the logfile, continuing with the open one");
                    self.set_level(settings);
                    return Ok(());
                }
                Err(error) => return Err(format!("cannot open logfile {path}: {error}")),
            },
        };
        if let LogDestination::File { .. } = destination {
            // Fails only without a subscriber.
            let _ = self.lines.modify(|lines| lines.set_ansi(false));
        }
        *self.writer.destination() = destination;
        self.set_level(settings);
        Ok(())
    }

    fn set_level(&self, settings: &Settings) {
        // Fails only without a subscriber.
        let _ = self.filter.reload(filter(settings.verbose + self.verbose_flags, self.quiet));
    }
}

fn filter(verbosity: u32, quiet: bool) -> EnvFilter {
    let level = match (quiet, verbosity) {
        (true, _) => "warn",
        (_, 0) => "info",
        (_, 1) => "debug",
        _ => "trace",
    };
    let own = format!("warn,iambouncer={level},rds_iam={level}");
    EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(own))
}

/// At `trace` the AWS libraries log what they sign, including session tokens, so no filter can enable that.
fn is_safe_to_log(target: &str, level: Level) -> bool {
    let krate = target.split("::").next().unwrap_or(target);
    level != Level::TRACE || ["iambouncer", "rds_iam"].contains(&krate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_never_traced() {
        assert!(is_safe_to_log("iambouncer::pool", Level::TRACE) && is_safe_to_log("rds_iam", Level::TRACE));
        assert!(is_safe_to_log("aws_config", Level::DEBUG));
        assert!(!is_safe_to_log("aws_sigv4::http_request::sign", Level::TRACE));
        assert!(!is_safe_to_log("iambouncer_like", Level::TRACE));
    }
}
