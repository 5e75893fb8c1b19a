//! Where log lines go and which. Owns the subscriber; a line costs nothing when its level is off.

use super::fields::Fields;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing::Level;
use tracing_subscriber::filter::{FilterExt as _, LevelFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// A log file that can be opened anew after it was moved away.
#[derive(Clone)]
pub(super) struct LogFile {
    path: PathBuf,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open_append(path: &Path) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(path)
    }

    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), file: Arc::new(Mutex::new(Self::open_append(path)?)) })
    }

    /// Opens the file anew (RELOAD, for log rotation). On failure the old one stays in use.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let file = Self::open_append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Starts logging. `verbosity` counts up from 0 (info); `IAMBOUNCER_LOG` overrides it with a filter of its own. The
/// libraries below stay quiet unless that filter names them.
pub(super) fn start(file: Option<LogFile>, verbosity: u32, quiet: bool) {
    let level = match (quiet, verbosity) {
        (true, _) => "warn",
        (_, 0) => "info",
        (_, 1) => "debug",
        _ => "trace",
    };
    let own = format!("warn,iambouncer={level},rds_iam={level}");
    let filter = EnvFilter::try_from_env("IAMBOUNCER_LOG").unwrap_or_else(|_| EnvFilter::new(own));
    let harmless = filter_fn(|line| is_harmless(line.target(), *line.level()));
    let filter = filter.and(harmless.with_max_level_hint(LevelFilter::TRACE));
    // A complaint about a log that cannot be written would go to the same closed pipe, and panic.
    let lines = fmt::layer().fmt_fields(Fields).with_target(false).log_internal_errors(false);
    // A second start in one process (tests) keeps the first subscriber.
    let _ = match file {
        Some(file) => {
            registry().with(lines.with_ansi(false).with_writer(file).with_filter(filter)).try_init()
        }
        None => {
            let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            registry().with(lines.with_ansi(ansi).with_writer(io::stderr).with_filter(filter)).try_init()
        }
    };
}

/// At `trace` the AWS libraries write out what they sign, session token included, so no filter opens that.
fn is_harmless(target: &str, level: Level) -> bool {
    let krate = target.split("::").next().unwrap_or(target);
    level != Level::TRACE || ["iambouncer", "rds_iam"].contains(&krate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_never_traced() {
        assert!(is_harmless("iambouncer::pool", Level::TRACE) && is_harmless("rds_iam", Level::TRACE));
        assert!(is_harmless("aws_config", Level::DEBUG));
        assert!(!is_harmless("aws_sigv4::http_request::sign", Level::TRACE));
        assert!(!is_harmless("iambouncer_like", Level::TRACE));
    }
}
