//! PgBouncer's INI file, which iambouncer reads as well. Both get the same lines, except for the settings
//! that only iambouncer has: the number of workers in the rows about it (otherwise the default, `auto`), the engine
//! of the column, and no HTTP port.

use std::fmt::Write as _;

use super::{Ini, MAX_CLIENTS, Site};
use crate::test_bed::{DATABASE, USER};

impl Ini {
    /// The whole file; with `io_engine` for iambouncer.
    pub(crate) fn text(&self, site: &Site<'_>, io_engine: Option<&str>) -> String {
        let dir = site.dir.display();
        let Site { postgres_port, listen_port, .. } = site;
        let Self { pool_mode, pool_size, client_key, .. } = self;
        let auth_type = if self.scram { "scram-sha-256" } else { "trust" };
        let key_file = client_key.file();
        let mut ini = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={postgres_port} dbname={DATABASE} user={USER}\n\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {listen_port}\nunix_socket_dir =\n\
             auth_type = {auth_type}\nauth_file = {dir}/users.txt\npool_mode = {pool_mode}\n\
             default_pool_size = {pool_size}\nmax_client_conn = {MAX_CLIENTS}\nlog_connections = 0\n\
             log_disconnections = 0\nlog_stats = 0\n"
        );
        if self.server_tls {
            let _ = writeln!(ini, "server_tls_sslmode = verify-full\nserver_tls_ca_file = {dir}/ca.pem");
        } else {
            ini.push_str("server_tls_sslmode = disable\n");
        }
        if self.client_tls {
            let _ = writeln!(
                ini,
                "client_tls_sslmode = require\nclient_tls_cert_file = {dir}/{key_file}.crt\n\
                 client_tls_key_file = {dir}/{key_file}.key"
            );
        }
        let count = |value: Option<u32>| value.map(|value| value.to_string());
        let further = [
            ("listen_backlog", count(self.listen_backlog)),
            ("max_prepared_statements", count(self.max_prepared)),
            ("workers", io_engine.and_then(|_| count(self.workers))),
            ("io_engine", io_engine.map(str::to_owned)),
            // PgBouncer does not have this port.
            ("http_port", io_engine.map(|_| "0".to_owned())),
            // Measurements read /proc, which only root may do for a process that is not dumpable.
            ("core_dumps", io_engine.map(|_| "1".to_owned())),
        ];
        for (name, value) in further {
            if let Some(value) = value {
                let _ = writeln!(ini, "{name} = {value}");
            }
        }
        ini
    }
}
