//! The spike's command line, which is all it has. It knows no TLS and no mode but transaction pooling, and takes part in
//! no row that asks for another.

use super::{Ini, Site};
use crate::bed::{DATABASE, USER};

/// Threads where nothing else is said.
const ONE_CORE: u32 = 1;

/// The command line, without the program.
pub(super) fn args(ini: &Ini, site: &Site<'_>) -> Vec<String> {
    let workers = ini.workers.unwrap_or(ONE_CORE);
    let args = [
        ("listen", site.listen_port.to_string()),
        ("postgres", site.postgres_port.to_string()),
        ("database", DATABASE.to_owned()),
        ("user", USER.to_owned()),
        ("pool-size", ini.pool_size.to_string()),
        ("workers", workers.to_string()),
    ];
    args.into_iter().map(|(name, value)| format!("--{name}={value}")).collect()
}
