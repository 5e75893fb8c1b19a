//! HAProxy's configuration: one thread that relays bytes. HAProxy does not speak PostgreSQL's protocol, so
//! TLS is end to end.

use super::Site;
use crate::test_bed::MAX_UNPOOLED_CLIENTS;

/// Room for the clients of one run while those of the previous one disconnect. HAProxy does not start if its
/// limit of open files is below what this may require.
const MAX_CONNECTIONS: u32 = 2 * MAX_UNPOOLED_CLIENTS;

/// `haproxy.cfg`.
pub(super) fn text(site: &Site<'_>) -> String {
    let Site { postgres_port, listen_port, .. } = site;
    format!(
        "global\n    nbthread 1\n    maxconn {MAX_CONNECTIONS}\n\n\
         defaults\n    mode tcp\n    timeout connect 10s\n    timeout client 1h\n    timeout server 1h\n\n\
         listen bench\n    bind 127.0.0.1:{listen_port}\n    server postgres 127.0.0.1:{postgres_port}\n"
    )
}
