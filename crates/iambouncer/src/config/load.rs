//! Reads configuration files: at start, for `check`, and on `RELOAD`.
//!
//! The only part of the configuration that opens files. Never parses certificates.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use super::build::build;
use super::diagnostics::{ConfigReport, Diagnostic};
use super::environment::Environment;
use super::ini::{self, Loader, MAX_TOTAL_BYTES};
use super::model::Config;
use super::userlist::{self, UserList};

/// A usable configuration.
#[derive(Debug)]
pub struct CheckedConfig {
    /// The configuration.
    pub config: Config,
    /// Warnings about it; usually none.
    pub warnings: ConfigReport,
}

/// Reads a file, applies overrides and checks the result. `flags` are settings by name, and override everything. The
/// error contains all diagnostics, including warnings.
pub fn load_file(
    path: &Path,
    environment: &dyn Environment,
    flags: &[(String, String)],
) -> Result<CheckedConfig, ConfigReport> {
    load(&path.to_string_lossy(), &DiskLoader, environment, flags)
}

/// [`load_file`] with another source of file texts.
pub fn load(
    path: &str,
    loader: &dyn Loader,
    environment: &dyn Environment,
    flags: &[(String, String)],
) -> Result<CheckedConfig, ConfigReport> {
    let document = ini::parse(path, loader);
    let (config, diagnostics) = build(&document, environment, flags);
    let failed = diagnostics.iter().any(Diagnostic::is_error);
    let report = ConfigReport::new(diagnostics, document.sources);
    if failed { Err(report) } else { Ok(CheckedConfig { config, warnings: report }) }
}

/// Reads the `auth_file`. The report shows positions, never lines, which contain passwords.
pub fn load_user_list(path: &Path) -> Result<UserList, ConfigReport> {
    let name = path.to_string_lossy();
    let text = zeroize::Zeroizing::new(DiskLoader.load(&name).map_err(|reason| {
        ConfigReport::from(vec![Diagnostic::error(format!("cannot read auth_file {name}: {reason}"))])
    })?);
    userlist::parse(&name, &text).map_err(ConfigReport::from)
}

/// What changes when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    modified: Option<SystemTime>,
    inode: u64,
    bytes: u64,
}

impl FileStamp {
    /// The stamp of a file; `None` if there is none.
    pub fn of(path: &str) -> Option<Self> {
        let file = std::fs::metadata(path).ok()?;
        Some(Self { modified: file.modified().ok(), inode: file.ino(), bytes: file.len() })
    }
}

/// A text file of limited size.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read_text(path: &Path, max_bytes: usize) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > max_bytes as u64 {
        return Err(format!("larger than {max_bytes} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

struct DiskLoader;

impl Loader for DiskLoader {
    fn load(&self, path: &str) -> Result<String, String> {
        let file = File::open(path).map_err(|error| error.to_string())?;
        // Reads one byte more than allowed, to detect larger files without reading all of them.
        let limit = MAX_TOTAL_BYTES as u64 + 1;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() > MAX_TOTAL_BYTES {
            return Err(format!("it is larger than {MAX_TOTAL_BYTES} bytes"));
        }
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("line {line} is not valid UTF-8")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::MapEnvironment;
    use super::*;

    #[test]
    fn the_error_about_a_missing_file_has_its_name() {
        let report = load_file(Path::new("/nonexistent/x.ini"), &MapEnvironment::default(), &[]);
        let text = report.map(|_| ()).expect_err("missing").to_string();
        assert!(text.starts_with("error: cannot read /nonexistent/x.ini: "), "{text}");
        assert!(load_user_list(Path::new("/nonexistent/users.txt")).is_err());
    }

    #[test]
    fn errors_are_rendered_with_source_and_help() {
        let loader = |_: &str| {
            Ok("[pgbouncer]\nauth_type = trust\ndefualt_pool_size = 20\n[databases]\n* =\n".to_owned())
        };
        let report =
            load("pgbouncer.ini", &loader, &MapEnvironment::default(), &[]).map(|_| ()).expect_err("typo");
        let expected = "error: unknown setting \"defualt_pool_size\"\n  --> pgbouncer.ini:3:1\n  |\n\
                        3 | defualt_pool_size = 20\n  | ^^^^^^^^^^^^^^^^^\nhelp: did you mean \"default_pool_size\"?\n";
        assert_eq!(report.to_string(), expected);
    }
}
