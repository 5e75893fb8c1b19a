//! Where the console of a running pooler is. Owns the precedence of options, the configuration file and variables.

use super::arguments::ConsoleArguments;
use crate::config::{
    Environment, MODE_SOCKET_DIR, ProcessEnvironment, Settings, load_file, settings_from_variables,
};
use crate::net::unix_socket_path;
use anyhow::{anyhow, ensure};
use std::path::{Path, PathBuf};

/// Settings that say where the socket is.
const SETTINGS: [&str; 2] = ["unix_socket_dir", "listen_port"];
/// In the name of a socket.
const SOCKET_NAME: &str = "/.s.PGSQL.";

/// The paths at which the socket may be, the most likely one first; `@name` is abstract. Never empty.
///
/// # Errors
/// The configuration file or a variable is invalid, or there is no UNIX socket.
pub(super) fn candidates(arguments: &ConsoleArguments) -> anyhow::Result<Vec<PathBuf>> {
    // As for the pooler, an empty variable names no file.
    let config = arguments.config.as_deref().filter(|file| !file.as_os_str().is_empty());
    locate(arguments.socket.as_deref(), config, &ProcessEnvironment)
}

fn locate(
    socket: Option<&str>,
    config: Option<&Path>,
    environment: &dyn Environment,
) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(socket) = socket.filter(|socket| is_socket(socket)) {
        return Ok(vec![PathBuf::from(socket)]);
    }
    let settings = match config {
        Some(file) => {
            load_file(file, environment, &[]).map_err(|report| anyhow!("{report}"))?.config.settings
        }
        None => settings_from_variables(&SETTINGS, environment).map_err(|error| anyhow!(error))?,
    };
    let directory = socket.unwrap_or(&settings.unix_socket_dir);
    let in_directory = |directory: &str| -> Vec<PathBuf> {
        settings.listen_port.iter().map(|port| unix_socket_path(directory, port)).collect()
    };
    // Nothing is named: the pooler was started with a file or without one.
    if config.is_none() && directory == Settings::default().unix_socket_dir {
        return Ok([in_directory(directory), in_directory(MODE_SOCKET_DIR)].concat());
    }
    ensure!(
        !directory.is_empty(),
        "the pooler has no UNIX socket, since unix_socket_dir is empty: set it to a directory that the pooler can write to, or \
         to @NAME for an abstract socket, which needs no directory"
    );
    ensure!(
        directory.starts_with('@') || Path::new(directory).is_dir(),
        "{directory} is neither a socket nor a directory"
    );
    Ok(in_directory(directory))
}

/// True for the path of a socket, false for a directory.
fn is_socket(text: &str) -> bool {
    if text.starts_with('@') {
        return text.contains(SOCKET_NAME);
    }
    text.contains(SOCKET_NAME) || std::fs::metadata(text).is_ok_and(|found| !found.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MapEnvironment;

    #[test]
    fn options_precede_the_file_and_the_file_precedes_variables() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.ini");
        std::fs::write(&file, "[databases]\n* = host=h\n[pgbouncer]\nlisten_port = 7000,7001\n").unwrap();
        let variables = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<MapEnvironment>();
        let none = variables(&[]);
        let set = variables(&[("IAMBOUNCER_LISTEN_PORT", "7777"), ("IAMBOUNCER_UNIX_SOCKET_DIR", "@x")]);
        let found = |socket: Option<&str>, config: Option<&Path>, environment: &MapEnvironment| {
            let paths = locate(socket, config, environment).unwrap();
            paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(found(None, None, &none), "/tmp/.s.PGSQL.6432 @iambouncer/.s.PGSQL.6432");
        let of_image = variables(&[("LISTEN_PORT", "5432,6432"), ("UNIX_SOCKET_DIR", "@image")]);
        let link = variables(&[("LISTEN_PORT", "tcp://10.0.0.1:80"), ("UNIX_SOCKET_DIR", "@image")]);
        assert_eq!(found(None, None, &link), "@image/.s.PGSQL.6432");
        assert_eq!(found(None, None, &of_image), "@image/.s.PGSQL.5432 @image/.s.PGSQL.6432");
        assert_eq!(found(None, None, &set), "@x/.s.PGSQL.7777");
        assert_eq!(found(None, Some(&file), &none), "/tmp/.s.PGSQL.7000 /tmp/.s.PGSQL.7001");
        assert_eq!(found(Some("@y"), Some(&file), &none), "@y/.s.PGSQL.7000 @y/.s.PGSQL.7001");
        assert_eq!(found(Some("@y/.s.PGSQL.1"), Some(&file), &set), "@y/.s.PGSQL.1");
        let path = dir.path().display().to_string();
        assert_eq!(found(Some(&path), None, &set), format!("{path}/.s.PGSQL.7777"));
        let named = file.display().to_string();
        assert_eq!(found(Some(&named), None, &none), named);
    }

    #[test]
    fn a_pooler_without_a_socket_is_reported() {
        let environment: MapEnvironment = [("IAMBOUNCER_UNIX_SOCKET_DIR", "")].into_iter().collect();
        assert!(locate(None, None, &environment).is_err_and(|error| error.to_string().contains("@NAME")));
        let wrong: MapEnvironment = [("IAMBOUNCER_LISTEN_PORT", "x")].into_iter().collect();
        assert!(locate(None, None, &wrong).is_err());
        assert!(locate(Some("/no/such/directory"), None, &environment).is_err());
    }
}
