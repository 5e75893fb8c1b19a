//! The limit of open files: raises the soft limit to the hard one and warns if that is not enough. Owns the estimate.

use crate::config::Config;
use crate::files::RESERVED_FILES;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files other than connections: log, epoll, listeners, AWS.
const OTHER_FILES: u64 = 64;

/// Raises the limit and warns if it may not suffice for all clients and servers.
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
