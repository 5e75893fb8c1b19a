//! PgDog's two files. `workers = 0` means one thread.

use std::fmt::Write as _;

use super::{Ini, Site};
use crate::test_bed::{DATABASE, USER};

/// `pgdog.toml`.
pub(super) fn text(ini: &Ini, site: &Site<'_>) -> String {
    let dir = site.dir.display();
    let Site { postgres_port, listen_port, .. } = site;
    let Ini { pool_mode, pool_size, .. } = ini;
    let mut toml = format!(
        "[general]\nhost = \"127.0.0.1\"\nport = {listen_port}\nworkers = 0\nauth_type = \"trust\"\n\
         pooler_mode = \"{pool_mode}\"\ndefault_pool_size = {pool_size}\n"
    );
    if ini.server_tls {
        let _ = writeln!(toml, "tls_verify = \"verify_full\"\ntls_server_ca_certificate = \"{dir}/ca.pem\"");
    } else {
        toml.push_str("tls_verify = \"none\"\n");
    }
    if ini.client_tls {
        let _ = writeln!(
            toml,
            "tls_client_required = true\ntls_certificate = \"{dir}/pooler.crt\"\n\
             tls_private_key = \"{dir}/pooler.key\""
        );
    }
    let _ = write!(
        toml,
        "\n[[databases]]\nname = \"{DATABASE}\"\nhost = \"127.0.0.1\"\nport = {postgres_port}\n"
    );
    toml
}

/// `users.toml`. The password is not used.
pub(super) fn users() -> String {
    format!("[[users]]\nname = \"{USER}\"\ndatabase = \"{DATABASE}\"\npassword = \"unused\"\n")
}
