//! Tables of the keys in `[databases]`, `[users]` and `[peers]` lines.
//!
//! One row per key: name, status, description and how to store it. Never checks combinations of keys.

use super::model::{Database, Host, Peer, UserOverrides};
use super::secret::Secret;
use super::settings::SettingStatus;
use super::value::SettingValue;

type Store<T> = fn(&mut T, &str) -> Result<(), String>;

/// One key.
pub struct KeyInfo<T> {
    /// The key.
    pub name: &'static str,
    /// Its level of support.
    pub status: SettingStatus,
    /// Description in one line.
    pub text: &'static str,
    pub(super) store: Store<T>,
}

/// A row for one optional field.
const fn row<T>(
    name: &'static str,
    status: SettingStatus,
    text: &'static str,
    store: Store<T>,
) -> KeyInfo<T> {
    KeyInfo { name, status, text, store }
}

fn put<V: SettingValue>(field: &mut Option<V>, text: &str) -> Result<(), String> {
    *field = Some(V::parse(text)?);
    Ok(())
}

fn port(text: &str) -> Result<u16, String> {
    match u16::parse(text)? {
        0 => Err("is not a port".to_owned()),
        port => Ok(port),
    }
}

fn hosts(text: &str) -> Result<Vec<Host>, String> {
    let parts = text.split(',').map(str::trim);
    parts
        .map(|part| if part.is_empty() { Err("has an empty host".to_owned()) } else { Ok(Host::parse(part)) })
        .collect()
}

use SettingStatus::Working;

/// Keys of a `[databases]` line.
pub static DATABASE_KEYS: &[KeyInfo<Database>] = &[
    row("dbname", Working, "Database name on the server; default: the name that clients request", |d, v| {
        put(&mut d.dbname, v)
    }),
    row(
        "host",
        Working,
        "Server name, address or socket directory, or a list separated by commas; default: unix_socket_dir",
        |d, v| {
            d.host = hosts(v)?;
            Ok(())
        },
    ),
    row("port", Working, "Port of the server; default: 5432", |d, v| {
        d.port = port(v)?;
        Ok(())
    }),
    row("user", Working, "User on the server for all clients", |d, v| put(&mut d.user, v)),
    row("password", Working, "Password of that user; default: from auth_file", |d, v| {
        d.password = Some(Secret::new(v));
        Ok(())
    }),
    row("server_auth", Working, "How the pooler logs in: password or iam; default: password", |d, v| {
        d.server_auth = v.parse()?;
        Ok(())
    }),
    row("iam_host", Working, "Host to sign tokens for, if it cannot be found by DNS", |d, v| {
        put(&mut d.iam_host, v)
    }),
    row("iam_port", Working, "Port to sign tokens for; default: port", |d, v| {
        d.iam_port = Some(port(v)?);
        Ok(())
    }),
    row("iam_region", Working, "AWS region; default: from the endpoint", |d, v| put(&mut d.iam_region, v)),
    row("secret_arn", Working, "Secret of AWS Secrets Manager with user name and password", |d, v| {
        d.secret_arn = Some(v.parse().map_err(|error: rds_iam::secrets::SecretArnError| error.to_string())?);
        Ok(())
    }),
    row("aws_profile", Working, "Profile in the AWS configuration files", |d, v| put(&mut d.aws_profile, v)),
    row("aws_role_arn", Working, "Role to assume before signing tokens or reading the secret", |d, v| {
        put(&mut d.aws_role_arn, v)
    }),
    row("aws_external_id", Working, "External ID that the role's trust policy requires", |d, v| {
        put(&mut d.aws_external_id, v)
    }),
    row("aws_role_session_name", Working, "Session name that CloudTrail shows for the role", |d, v| {
        put(&mut d.aws_role_session_name, v)
    }),
    row("pool_size", Working, "Overrides default_pool_size", |d, v| put(&mut d.pool_size, v)),
    row("min_pool_size", Working, "Overrides the setting", |d, v| put(&mut d.min_pool_size, v)),
    row("reserve_pool_size", Working, "Overrides the setting", |d, v| put(&mut d.reserve_pool_size, v)),
    row("reserve_pool", Working, "Old name of reserve_pool_size", |d, v| put(&mut d.reserve_pool_size, v)),
    row("pool_mode", Working, "Overrides the setting", |d, v| put(&mut d.pool_mode, v)),
    row("pin", Working, "Overrides the setting", |d, v| put(&mut d.pin, v)),
    row("shared_listener", Working, "Overrides the setting", |d, v| put(&mut d.shared_listener, v)),
    row("max_db_connections", Working, "Overrides the setting", |d, v| put(&mut d.max_db_connections, v)),
    row("max_db_client_connections", Working, "Overrides the setting", |d, v| {
        put(&mut d.max_db_client_connections, v)
    }),
    row("server_lifetime", Working, "Overrides the setting", |d, v| put(&mut d.server_lifetime, v)),
    row("query_wait_timeout", Working, "Overrides the setting", |d, v| put(&mut d.query_wait_timeout, v)),
    row(
        "load_balance_hosts",
        Working,
        "round-robin or disable: order in which several hosts are tried",
        |d, v| {
            d.load_balance_hosts = v.parse()?;
            Ok(())
        },
    ),
    row(
        "target_session_attrs",
        Working,
        "Which of the hosts is used: any, read-write, read-only, primary, standby or prefer-standby; default: any",
        |d, v| {
            d.target_session_attrs = v.parse()?;
            Ok(())
        },
    ),
    row("connect_query", Working, "Query run on each new server connection", |d, v| {
        put(&mut d.connect_query, v)
    }),
    row("application_name", Working, "Initial value of this parameter on the server", |d, v| {
        put(&mut d.application_name, v)
    }),
    row("client_encoding", Working, "Initial value of this parameter on the server", |d, v| {
        put(&mut d.client_encoding, v)
    }),
    row("datestyle", Working, "Initial value of this parameter on the server", |d, v| {
        put(&mut d.datestyle, v)
    }),
    row("timezone", Working, "Initial value of this parameter on the server", |d, v| put(&mut d.timezone, v)),
    row("auth_user", Working, "Overrides the setting", |d, v| put(&mut d.auth_user, v)),
    row("auth_query", Working, "Overrides the setting", |d, v| put(&mut d.auth_query, v)),
    row("auth_dbname", Working, "Overrides the setting", |d, v| put(&mut d.auth_dbname, v)),
];

/// Keys of a `[users]` line.
pub static USER_KEYS: &[KeyInfo<UserOverrides>] = &[
    row("pool_size", Working, "Overrides default_pool_size and the database", |u, v| {
        put(&mut u.pool_size, v)
    }),
    row("reserve_pool_size", Working, "Overrides the setting and the database", |u, v| {
        put(&mut u.reserve_pool_size, v)
    }),
    row("pool_mode", Working, "Overrides the setting and the database", |u, v| put(&mut u.pool_mode, v)),
    row("max_user_connections", Working, "Overrides the setting", |u, v| put(&mut u.max_user_connections, v)),
    row("max_user_client_connections", Working, "Overrides the setting", |u, v| {
        put(&mut u.max_user_client_connections, v)
    }),
    row("query_timeout", Working, "Overrides the setting", |u, v| put(&mut u.query_timeout, v)),
    row("query_wait_timeout", Working, "Overrides the setting and the database", |u, v| {
        put(&mut u.query_wait_timeout, v)
    }),
    row("idle_transaction_timeout", Working, "Overrides the setting", |u, v| {
        put(&mut u.idle_transaction_timeout, v)
    }),
    row("transaction_timeout", Working, "Overrides the setting", |u, v| put(&mut u.transaction_timeout, v)),
    row("client_idle_timeout", Working, "Overrides the setting", |u, v| put(&mut u.client_idle_timeout, v)),
];

/// Keys of a `[peers]` line.
pub static PEER_KEYS: &[KeyInfo<Peer>] = &[
    row("host", Working, "Address or socket directory of the peer", |p, v| {
        p.host = Some(Host::parse(v));
        Ok(())
    }),
    row("port", Working, "Port of the peer; default: 6432", |p, v| {
        p.port = port(v)?;
        Ok(())
    }),
    row(
        "pool_size",
        Working,
        "Concurrent cancel requests to the peer; default: default_pool_size",
        |p, v| put(&mut p.pool_size, v),
    ),
];

/// True if the value of this key may appear in error messages. Never for unknown keys, such as `passwrod`.
pub(super) fn is_displayable(key: &str) -> bool {
    let known =
        DATABASE_KEYS.iter().any(|row| row.name == key) || USER_KEYS.iter().any(|row| row.name == key);
    known && !matches!(key, "password" | "connect_query")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = DATABASE_KEYS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn passwords_and_unknown_keys_are_not_displayable() {
        assert!(is_displayable("host") && !is_displayable("password") && !is_displayable("passwrod"));
    }

    #[test]
    fn host_lists_split() {
        let found = hosts("a, /run/pg,[::1]").expect("three hosts");
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "/run/pg", "::1"]);
        assert!(hosts("a,,b").is_err());
    }
}
