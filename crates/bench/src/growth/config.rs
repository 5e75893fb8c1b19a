//! The INI file and the user list of a pooler with many databases or users. Owns their text and the names in them; never
//! writes to disk.

use std::fmt::Write as _;

use crate::formats::Site;
use crate::test_bed::{DATABASE, USER};

/// What differs between the poolers of the page; everything else has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GrowthIni {
    /// Number of databases, all of which are the same one in PostgreSQL.
    pub(super) databases: u32,
    /// Number of users in `auth_file`.
    pub(super) users: u32,
    /// True if all users share the logins of one; otherwise each has its own pool.
    pub(super) shares_login: bool,
    /// `max_client_conn`.
    pub(super) max_clients: u32,
    /// `workers`, if not the default.
    pub(super) workers: Option<&'static str>,
    /// `io_engine`, if not the default.
    pub(super) io_engine: Option<&'static str>,
}

impl GrowthIni {
    /// One database and one user.
    pub(super) const SMALLEST: Self = Self {
        databases: 1,
        users: 1,
        shares_login: true,
        max_clients: 1500,
        workers: None,
        io_engine: None,
    };

    /// The INI file; `http_port` is a setting of iambouncer only.
    pub(super) fn text(&self, site: &Site<'_>, users_file: &str, http_port: Option<u16>) -> String {
        let Site { dir, postgres_port, listen_port } = site;
        let user = if self.shares_login { format!(" user={USER}") } else { String::new() };
        let mut ini = String::from("[databases]\n");
        for number in 0..self.databases {
            let name = database(number);
            let _ = writeln!(ini, "{name} = host=127.0.0.1 port={postgres_port} dbname={DATABASE}{user}");
        }
        let _ = write!(
            ini,
            "\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen_port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\nadmin_users = {USER}\npool_mode = transaction\n\
             max_client_conn = {}\nserver_tls_sslmode = disable\nlog_connections = 0\nlog_disconnections = 0\n\
             log_stats = 0\n",
            dir.join(users_file).display(),
            self.max_clients
        );
        if let Some(http_port) = http_port {
            // Measurements read /proc, which only root may do for a process that is not dumpable.
            let _ = writeln!(ini, "http_port = {http_port}\ncore_dumps = 1");
        }
        for (name, value) in [("workers", self.workers), ("io_engine", self.io_engine)] {
            if let Some(value) = value {
                let _ = writeln!(ini, "{name} = {value}");
            }
        }
        ini
    }

    /// The file of users.
    pub(super) fn users_text(&self) -> String {
        let mut text = String::new();
        for number in 0..self.users {
            let _ = writeln!(text, "\"{}\" \"password-{number}\"", user(number));
        }
        text
    }
}

/// The name of a database; the first is that of all other measurements.
pub(super) fn database(number: u32) -> String {
    if number == 0 { DATABASE.to_owned() } else { format!("d{number}") }
}

/// The name of a user, likewise.
pub(super) fn user(number: u32) -> String {
    if number == 0 { USER.to_owned() } else { format!("u{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn text(ini: GrowthIni, http_port: Option<u16>) -> String {
        let site = Site { dir: Path::new("/d"), postgres_port: 5001, listen_port: 6001 };
        ini.text(&site, "users.txt", http_port)
    }

    #[test]
    fn every_database_has_a_line() {
        let ini = text(GrowthIni { databases: 3, ..GrowthIni::SMALLEST }, None);
        let lines = ini.lines().filter(|line| line.contains("port=5001 dbname=bench user=bench"));
        let names: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["bench", "d1", "d2"]);
    }

    #[test]
    fn users_with_their_own_pools_are_not_replaced_by_one() {
        let ini = GrowthIni { users: 2, shares_login: false, ..GrowthIni::SMALLEST };
        assert!(text(ini, None).contains("dbname=bench\n"));
        assert_eq!(ini.users_text(), "\"bench\" \"password-0\"\n\"u1\" \"password-1\"\n");
    }

    #[test]
    fn only_iambouncer_has_settings_of_its_own() {
        let ini = GrowthIni { io_engine: Some("epoll"), ..GrowthIni::SMALLEST };
        assert!(text(ini, Some(9)).contains("http_port = 9\ncore_dumps = 1\nio_engine = epoll\n"));
        assert!(text(GrowthIni::SMALLEST, None).ends_with("log_stats = 0\n"));
    }
}
