//! The spike's command line; it has no configuration file. It supports neither TLS nor modes other than
//! transaction pooling, and is excluded from rows that require them.

use super::{Ini, Site};
use crate::test_bed::{DATABASE, USER};

/// Default number of threads.
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
