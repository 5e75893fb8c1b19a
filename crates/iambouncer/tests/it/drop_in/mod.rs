//! What a PgBouncer set-up expects of the program around its queries: command line, account, service manager, log lines
//! and draining.

mod command_line;
mod draining;
mod log_lines;
mod service_manager;
mod whole_files;

use crate::support::postgres;
use std::path::Path;

/// A minimal configuration with these additional settings; files are in `dir`.
fn ini(dir: &Path, settings: &str) -> String {
    std::fs::write(dir.join("users.txt"), "\"app\" \"\"\n").unwrap();
    format!(
        "[databases]\napp = host=127.0.0.1 port={} dbname=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 0\n\
         http_port = 0\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\nlogfile = {}\n{settings}",
        postgres().port(),
        dir.join("users.txt").display(),
        dir.join("pooler.log").display(),
    )
}

/// Writes the configuration and returns its path.
fn write_ini(dir: &Path, settings: &str) -> String {
    let path = dir.join("pgbouncer.ini");
    std::fs::write(&path, ini(dir, settings)).unwrap();
    path.display().to_string()
}
