//! Odyssey's configuration, with one worker like all others.

use std::fmt::Write as _;

use super::{Ini, MAX_CLIENTS, Site};
use crate::test_bed::{DATABASE, USER};

/// `odyssey.conf`.
pub(super) fn text(ini: &Ini, site: &Site<'_>) -> String {
    let dir = site.dir.display();
    let Site { postgres_port, listen_port, .. } = site;
    let Ini { pool_mode, pool_size, .. } = ini;
    let mut conf = format!(
        "daemonize no\nunix_socket_dir \"{dir}\"\nlocks_dir \"{dir}\"\nlog_to_stdout yes\n\
         log_format \"%l %m\\n\"\nlog_session no\nlog_stats no\nworkers 1\nresolvers 1\n\
         client_max {MAX_CLIENTS}\n\n\
         listen {{\n    host \"127.0.0.1\"\n    port {listen_port}\n"
    );
    if ini.client_tls {
        let _ = writeln!(
            conf,
            "    tls \"require\"\n    tls_cert_file \"{dir}/pooler.crt\"\n    tls_key_file \"{dir}/pooler.key\""
        );
    }
    let _ = writeln!(
        conf,
        "}}\n\nstorage \"postgres\" {{\n    type \"remote\"\n    host \"127.0.0.1\"\n    port {postgres_port}"
    );
    if ini.server_tls {
        let _ = writeln!(conf, "    tls \"verify_full\"\n    tls_ca_file \"{dir}/ca.pem\"");
    }
    let _ = write!(
        conf,
        "}}\n\ndatabase \"{DATABASE}\" {{\n    user \"{USER}\" {{\n        authentication \"none\"\n        \
         storage \"postgres\"\n        pool \"{pool_mode}\"\n        pool_size {pool_size}\n"
    );
    if *pool_mode == "transaction" {
        conf.push_str("        pool_reserve_prepared_statement yes\n");
    }
    conf.push_str("    }\n}\n");
    conf
}
