//! PgCat's configuration, with one worker thread like all others. PgCat cannot use a private CA for servers,
//! so it is excluded from rows that verify one.

use std::fmt::Write as _;

use super::{Ini, Site};
use crate::test_bed::{DATABASE, USER};

/// Prepared statements per server.
const PREPARED: u32 = 200;

/// `pgcat.toml`.
pub(super) fn text(ini: &Ini, site: &Site<'_>) -> String {
    let dir = site.dir.display();
    let Site { postgres_port, listen_port, .. } = site;
    let Ini { pool_mode, pool_size, .. } = ini;
    let mut toml = format!(
        "[general]\nhost = \"127.0.0.1\"\nport = {listen_port}\nadmin_username = \"admin\"\n\
         admin_password = \"admin\"\nenable_prometheus_exporter = false\nworker_threads = 1\n\
         log_client_connections = false\nlog_client_disconnections = false\n"
    );
    if ini.client_tls {
        let _ =
            writeln!(toml, "tls_certificate = \"{dir}/pooler.crt\"\ntls_private_key = \"{dir}/pooler.key\"");
    }
    let _ = write!(
        toml,
        "\n[pools.{DATABASE}]\npool_mode = \"{pool_mode}\"\nquery_parser_enabled = false\n\
         prepared_statements_cache_size = {PREPARED}\n\n\
         [pools.{DATABASE}.users.0]\nusername = \"{USER}\"\npassword = \"\"\nauth_type = \"trust\"\n\
         pool_size = {pool_size}\n\n\
         [pools.{DATABASE}.shards.0]\nservers = [[\"127.0.0.1\", {postgres_port}, \"primary\"]]\n\
         database = \"{DATABASE}\"\n"
    );
    toml
}
