//! Where log lines go and which. Owns the subscriber; a line costs nothing when its level is off.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

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
/// libraries below stay quiet: what they would say of requests could hold secrets.
pub(super) fn start(file: Option<LogFile>, verbosity: u32, quiet: bool) {
    let level = match (quiet, verbosity) {
        (true, _) => "warn",
        (_, 0) => "info",
        (_, 1) => "debug",
        _ => "trace",
    };
    let own = format!("warn,iambouncer={level},rds_iam={level}");
    let filter = EnvFilter::try_from_env("IAMBOUNCER_LOG").unwrap_or_else(|_| EnvFilter::new(own));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // A second start in one process (tests) keeps the first subscriber.
    let _ = match file {
        Some(file) => builder.with_ansi(false).with_writer(file).try_init(),
        None => {
            let ansi = io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none();
            builder.with_ansi(ansi).with_writer(io::stderr).try_init()
        }
    };
}
