//! pg_doorman's configuration, with one worker thread like all others.

use std::fmt::Write as _;

use super::{Ini, MAX_CLIENTS, Site};
use crate::test_bed::{DATABASE, USER};

/// `pg_doorman.toml`.
pub(super) fn text(ini: &Ini, site: &Site<'_>) -> String {
    let dir = site.dir.display();
    let Site { postgres_port, listen_port, .. } = site;
    let Ini { pool_mode, pool_size, .. } = ini;
    let mut toml = format!(
        "[general]\nhost = \"127.0.0.1\"\nport = {listen_port}\nmax_connections = {MAX_CLIENTS}\n\
         worker_threads = 1\nadmin_username = \"admin\"\nadmin_password = \"admin\"\n\
         log_client_connections = false\nlog_client_disconnections = false\n\
         pg_hba = {{ content = \"host all all 127.0.0.1/32 trust\" }}\n"
    );
    if ini.server_tls {
        let _ = writeln!(toml, "server_tls_mode = \"verify-full\"\nserver_tls_ca_cert = \"{dir}/ca.pem\"");
    } else {
        toml.push_str("server_tls_mode = \"disable\"\n");
    }
    if ini.client_tls {
        let _ = writeln!(
            toml,
            "tls_mode = \"require\"\ntls_certificate = \"{dir}/pooler.crt\"\n\
             tls_private_key = \"{dir}/pooler.key\""
        );
    }
    let _ = write!(
        toml,
        "\n[pools.{DATABASE}]\nserver_host = \"127.0.0.1\"\nserver_port = {postgres_port}\n\
         pool_mode = \"{pool_mode}\"\n\n\
         [pools.{DATABASE}.users.0]\nusername = \"{USER}\"\npassword = \"\"\npool_size = {pool_size}\n"
    );
    toml
}
