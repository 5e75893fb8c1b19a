//! Open files: raises the soft limit to the hard one, warns if that is not enough, and reserves the table. Owns the
//! estimate; never keeps a file open.

use crate::config::Config;
use crate::files::RESERVED_FILES;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::RawFd;

/// Files other than connections: log, epoll, listeners, AWS.
const OTHER_FILES: u64 = 64;
/// Files for which the table is enlarged at most: 8 MiB, even if the configuration permits any number of clients.
const MAX_RESERVED_FILES: u64 = 1 << 20;

/// Raises the limit, warns if it may not suffice for all clients and servers, and reserves the table.
pub(super) fn raise(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum;
    if limit.current != hard {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = needed(config);
    if needed > allowed {
        tracing::warn!(
            "max_client_conn = {} is too high: about {needed} open files may be needed, but only {allowed} are allowed; \
             raise the limit (ulimit -n, LimitNOFILE=) or lower max_client_conn",
            config.settings.max_client_conn
        );
    }
    reserve_table(config);
}

/// Has the kernel enlarge the process's table of open files for all clients and servers now. With threads, each doubling of
/// the table waits for all CPUs (synchronize_rcu), about 10 ms: eight times in the first burst of 10,000 clients, and the
/// worker that accepts them serves no client meanwhile.
pub(super) fn reserve_table(config: &Config) {
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = needed(config).min(allowed).min(MAX_RESERVED_FILES).saturating_sub(1);
    // Closed at once: the table never shrinks. Without it, everything works as well, but later.
    let _ = RawFd::try_from(last).map(|last| fcntl_dupfd_cloexec(std::io::stdin(), last));
}

/// Clients, one full pool per database line, and the reserve.
fn needed(config: &Config) -> u64 {
    let servers: u64 = config
        .all_databases()
        .map(|line| {
            let rules = config.pool_rules(line, line.user.as_deref().unwrap_or(""));
            u64::from(rules.pool_size) + u64::from(rules.reserve_pool_size)
        })
        .sum();
    u64::from(config.settings.max_client_conn) + servers + OTHER_FILES + RESERVED_FILES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Database;

    #[test]
    fn clients_and_pools_are_counted() {
        let mut config = Config::default();
        config.databases.insert("a".to_owned(), Database::new("a"));
        assert_eq!(needed(&config), 100 + 20 + OTHER_FILES + RESERVED_FILES);
    }
}
