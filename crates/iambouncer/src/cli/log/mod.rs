//! The log: destinations, level and format. Owns the subscriber; disabled lines cost nothing. All three can change while
//! the process runs.

mod field_table;
mod fields;
mod line;
mod notable;
mod syslog;

pub use field_table::{log_fields, logging_markdown};

use crate::config::{LogFormat, Settings};
use fields::EventFields;
use line::LineFormat;
use notable::NotableLayer;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use syslog::{SYSLOG_SOCKET, SyslogSocket};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, registry, reload};

/// Replaces `verbose` and the flags by a filter of its own.
const FILTER_VARIABLE: &str = "IAMBOUNCER_LOG";

/// What the command line says about the log.
#[derive(Clone, Copy, Default)]
pub(super) struct LogFlags {
    /// Added to `verbose`.
    pub(super) verbose: u32,
    /// Nothing is written to standard error (`-q`, `-d`).
    pub(super) quiet: bool,
    /// Only warnings and errors (`exec`).
    pub(super) warnings_only: bool,
    /// The format of `log_format = auto`: PgBouncer's, since the process was started with PgBouncer's configuration.
    pub(super) as_pgbouncer: bool,
}

/// Where lines go, and in which format.
struct Destinations {
    format: LineFormat,
    /// `None` with `-q`; true if it is a terminal with colours.
    stderr: Option<bool>,
    file: Option<(PathBuf, File)>,
    syslog: Option<SyslogSocket>,
}

impl Destinations {
    fn write(&mut self, level: Level, event: &EventFields) {
        // Failures have nowhere to be reported: standard error may be a closed pipe.
        if self.stderr == Some(true) {
            let _ = io::stderr().write_all((self.format.line(level, event, true) + "\n").as_bytes());
        }
        if self.stderr == Some(false) || self.file.is_some() {
            let line = self.format.line(level, event, false) + "\n";
            if self.stderr == Some(false) {
                let _ = io::stderr().write_all(line.as_bytes());
            }
            if let Some((_, file)) = &mut self.file {
                let _ = file.write_all(line.as_bytes());
            }
        }
        if let Some(syslog) = &mut self.syslog {
            syslog.write(level, &self.format.syslog_text(level, event));
        }
    }
}

#[derive(Clone)]
struct LogLayer(Arc<Mutex<Destinations>>);

impl LogLayer {
    fn destinations(&self) -> MutexGuard<'_, Destinations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let fields = EventFields::of(event);
        self.destinations().write(*event.metadata().level(), &fields);
    }
}

/// The log of the process.
#[derive(Clone)]
pub(super) struct Log {
    layer: LogLayer,
    filter: reload::Handle<EnvFilter, Registry>,
    flags: LogFlags,
}

impl Log {
    /// Starts logging to standard error only. Libraries log warnings only, unless the variable's filter names them.
    pub(super) fn start(settings: &Settings, flags: LogFlags) -> Self {
        let is_terminal = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let layer = LogLayer(Arc::new(Mutex::new(Destinations {
            format: line_format(settings.log_format, flags),
            stderr: (!flags.quiet).then_some(is_terminal),
            file: None,
            syslog: None,
        })));
        let (filter, filter_handle) = reload::Layer::new(filter(settings.verbose, flags));
        let harmless = filter_fn(|line| is_safe_to_log(line.target(), *line.level()));
        let filter = filter.and(harmless.with_max_level_hint(LevelFilter::TRACE));
        // A second start in one process (tests) keeps the first subscriber.
        let notable =
            NotableLayer.with_filter(filter_fn(notable::is_notable).with_max_level_hint(LevelFilter::INFO));
        let _ = registry().with(layer.clone().with_filter(filter)).with(notable).try_init();
        Self { layer, filter: filter_handle, flags }
    }

    /// Applies destinations, format and level of the settings. A file is reopened, since it may have been renamed; if
    /// that fails, the open one stays in use.
    ///
    /// # Errors
    /// A different `logfile` cannot be opened, or the facility of syslog is unknown.
    pub(super) fn configure(&self, settings: &Settings) -> Result<(), String> {
        let file = self.open_file(settings)?;
        let syslog = settings
            .syslog
            .then(|| {
                SyslogSocket::open(
                    Path::new(SYSLOG_SOCKET),
                    &settings.syslog_facility,
                    &settings.syslog_ident,
                )
            })
            .transpose()?;
        let mut destinations = self.layer.destinations();
        destinations.format = line_format(settings.log_format, self.flags);
        destinations.syslog = syslog;
        destinations.file = file;
        drop(destinations);
        // Fails only without a subscriber.
        let _ = self.filter.reload(filter(settings.verbose, self.flags));
        Ok(())
    }

    fn open_file(&self, settings: &Settings) -> Result<Option<(PathBuf, File)>, String> {
        let path = PathBuf::from(&settings.logfile);
        if settings.logfile.is_empty() {
            return Ok(None);
        }
        let error = match OpenOptions::new().create(true).append(true).open(&path) {
            Ok(file) => return Ok(Some((path, file))),
            Err(error) => error,
        };
        let open = match &self.layer.destinations().file {
            Some((open, file)) if *open == path => file.try_clone().ok(),
            _ => None,
        };
        let Some(file) = open else {
            return Err(format!("cannot open logfile {}: {error}", path.display()));
        };
        tracing::warn!(%error, "cannot reopen the logfile, continuing with the open one");
        Ok(Some((path, file)))
    }

    /// Writes nothing more to standard error: the terminal is gone.
    pub(super) fn leave_terminal(&self) {
        self.layer.destinations().stderr = None;
    }
}

fn line_format(format: LogFormat, flags: LogFlags) -> LineFormat {
    match format {
        LogFormat::Auto if flags.as_pgbouncer => LineFormat::PgBouncer,
        LogFormat::Auto | LogFormat::Text => LineFormat::Text,
        LogFormat::PgBouncer => LineFormat::PgBouncer,
        LogFormat::Json => LineFormat::Json,
    }
}

fn filter(verbose: u32, flags: LogFlags) -> EnvFilter {
    let level = match (flags.warnings_only, verbose + flags.verbose) {
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
