//! The validated configuration that the rest of the program reads.
//!
//! Owns the shapes and the rules of inheritance (user over database over setting); never parses text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::enums::{LoadBalanceHosts, PoolMode, ServerAuth};
use super::secret::Secret;
use super::settings_table::Settings;
use rds_iam::Identity;
use rds_iam::secrets::{SecretArn, SecretKey};

/// Everything that was configured, checked as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The global settings.
    pub settings: Settings,
    /// Databases by the name clients use.
    pub databases: BTreeMap<String, Database>,
    /// The `*` line: answers for every other name.
    pub fallback: Option<Database>,
    /// What is different for single users.
    pub users: BTreeMap<String, UserOverrides>,
    /// Other processes of the group, by number.
    pub peers: BTreeMap<u16, Peer>,
    /// Where each value that is not a plain default came from.
    pub origins: Vec<Origin>,
}

/// A value and where it came from, fit to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What it is: a setting, or `host`, `user` and so on without a file.
    pub key: String,
    /// The value; `***` for a secret.
    pub value: String,
    /// For example "from RDS_HOST" or "pgbouncer.ini:12".
    pub source: String,
}

/// One place to look for a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or address.
    Tcp(String),
    /// The directory of a unix socket, or `@…` for an abstract one.
    Unix(PathBuf),
}

impl Host {
    /// Reads one part of a host list; a path or `@…` is a unix socket, brackets around IPv6 are dropped.
    pub fn parse(text: &str) -> Self {
        if text.starts_with(['/', '@']) {
            return Self::Unix(PathBuf::from(text));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        Self::Tcp(bare.unwrap_or(text).to_owned())
    }

    /// The name or address, when it is one.
    pub fn tcp(&self) -> Option<&str> {
        match self {
            Self::Tcp(name) => Some(name),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => formatter.write_str(name),
            Self::Unix(directory) => write!(formatter, "{}", directory.display()),
        }
    }
}

/// One line of `[databases]`. `None` means: as the global setting, or as the server has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// The name clients use; `*` for the fallback.
    pub name: String,
    /// The name on the server.
    pub dbname: Option<String>,
    /// Where the server is; never empty once validated.
    pub host: Vec<Host>,
    /// Port of the server, also part of a unix socket's name.
    pub port: u16,
    /// Every client becomes this user on the server.
    pub user: Option<String>,
    /// Password of that user.
    pub password: Option<Secret>,
    /// User that looks up passwords.
    pub auth_user: Option<String>,
    /// Query that looks up passwords.
    pub auth_query: Option<String>,
    /// Database in which that query runs.
    pub auth_dbname: Option<String>,
    /// Servers per user.
    pub pool_size: Option<u32>,
    /// Servers kept open.
    pub min_pool_size: Option<u32>,
    /// Further servers under stress.
    pub reserve_pool_size: Option<u32>,
    /// Pooling of this database.
    pub pool_mode: Option<PoolMode>,
    /// Servers over all users.
    pub max_db_connections: Option<u32>,
    /// Clients over all users.
    pub max_db_client_connections: Option<u32>,
    /// Age at which an unused server is closed.
    pub server_lifetime: Option<Duration>,
    /// How long a client waits for a server.
    pub query_wait_timeout: Option<Duration>,
    /// Query run on each new server connection.
    pub connect_query: Option<String>,
    /// Parameter for the server connection.
    pub application_name: Option<String>,
    /// Parameter for the server connection.
    pub client_encoding: Option<String>,
    /// Parameter for the server connection.
    pub datestyle: Option<String>,
    /// Parameter for the server connection.
    pub timezone: Option<String>,
    /// Order in which a list of hosts is tried.
    pub load_balance_hosts: LoadBalanceHosts,
    /// How we log in.
    pub server_auth: ServerAuth,
    /// Host the token is signed for, when it is not the one connected to.
    pub iam_host: Option<String>,
    /// Port the token is signed for, when it is not the one connected to.
    pub iam_port: Option<u16>,
    /// Region the token is signed for, whatever the host says.
    pub iam_region: Option<String>,
    /// Region to use only when the host does not tell (from `AWS_REGION`, which names the region
    /// that the pod runs in and not necessarily the one of the database).
    pub iam_region_fallback: Option<String>,
    /// Secret of Secrets Manager that holds user and password; `user` then only names the pool.
    pub secret_arn: Option<SecretArn>,
    /// Profile whose credentials sign the token.
    pub aws_profile: Option<String>,
    /// Role to assume before signing.
    pub aws_role_arn: Option<String>,
    /// External id that the role's trust policy asks for.
    pub aws_external_id: Option<String>,
    /// Session name that CloudTrail shows for the role.
    pub aws_role_session_name: Option<String>,
}

impl Database {
    /// The AWS identity that signs tokens for this line.
    pub fn aws_identity(&self) -> Identity {
        Identity {
            profile: self.aws_profile.clone(),
            role_arn: self.aws_role_arn.clone(),
            external_id: self.aws_external_id.clone(),
            session_name: self.aws_role_session_name.clone(),
            sts_region: None,
        }
    }

    /// The secret that this line names, and the identity that reads it.
    pub fn secret_key(&self) -> Option<SecretKey> {
        let arn = self.secret_arn.clone()?;
        // A role is assumed at the STS of the secret's region, unless the AWS configuration names another.
        let identity = Identity { sts_region: Some(arn.region().clone()), ..self.aws_identity() };
        Some(SecretKey { arn, identity })
    }

    /// A database that leaves everything to the globals.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            dbname: None,
            host: Vec::new(),
            port: 5432,
            user: None,
            password: None,
            auth_user: None,
            auth_query: None,
            auth_dbname: None,
            pool_size: None,
            min_pool_size: None,
            reserve_pool_size: None,
            pool_mode: None,
            max_db_connections: None,
            max_db_client_connections: None,
            server_lifetime: None,
            query_wait_timeout: None,
            connect_query: None,
            application_name: None,
            client_encoding: None,
            datestyle: None,
            timezone: None,
            load_balance_hosts: LoadBalanceHosts::RoundRobin,
            server_auth: ServerAuth::Password,
            iam_host: None,
            iam_port: None,
            iam_region: None,
            iam_region_fallback: None,
            secret_arn: None,
            aws_profile: None,
            aws_role_arn: None,
            aws_external_id: None,
            aws_role_session_name: None,
        }
    }

    /// The name on the server for a client that asked for `requested`.
    pub fn server_dbname<'a>(&'a self, requested: &'a str) -> &'a str {
        self.dbname.as_deref().unwrap_or(requested)
    }
}

/// One line of `[users]`; `None` leaves it to the database or the setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserOverrides {
    /// Servers per database for this user.
    pub pool_size: Option<u32>,
    /// Further servers under stress.
    pub reserve_pool_size: Option<u32>,
    /// Pooling for this user.
    pub pool_mode: Option<PoolMode>,
    /// Servers over all databases.
    pub max_user_connections: Option<u32>,
    /// Clients over all databases.
    pub max_user_client_connections: Option<u32>,
    /// Longest query.
    pub query_timeout: Option<Duration>,
    /// Longest wait for a server.
    pub query_wait_timeout: Option<Duration>,
    /// Longest rest inside a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Longest transaction.
    pub transaction_timeout: Option<Duration>,
    /// Longest rest outside of one.
    pub client_idle_timeout: Option<Duration>,
}

/// One line of `[peers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it listens; `None` only while a line is being read.
    pub host: Option<Host>,
    /// Port it listens on.
    pub port: u16,
    /// Cancel connections to it at a time.
    pub pool_size: Option<u32>,
}

/// What holds for one pool after inheritance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRules {
    /// When a server goes back.
    pub pool_mode: PoolMode,
    /// Servers at most.
    pub pool_size: u32,
    /// Servers at least.
    pub min_pool_size: u32,
    /// Further servers under stress.
    pub reserve_pool_size: u32,
    /// Longest wait for a server; zero means for ever.
    pub query_wait_timeout: Duration,
    /// Age at which an unused server is closed.
    pub server_lifetime: Duration,
}

impl Config {
    /// The line that answers for a database name: its own, or the fallback.
    pub fn database_for(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or(self.fallback.as_ref())
    }

    /// All database lines, the fallback last.
    pub fn all_databases(&self) -> impl Iterator<Item = &Database> {
        self.databases.values().chain(self.fallback.as_ref())
    }

    /// The rules of the pool of one database and user.
    pub fn pool_rules(&self, database: &Database, user: &str) -> PoolRules {
        let plain = UserOverrides::default();
        let user = self.users.get(user).unwrap_or(&plain);
        let settings = &self.settings;
        PoolRules {
            pool_mode: user.pool_mode.or(database.pool_mode).unwrap_or(settings.pool_mode),
            pool_size: user.pool_size.or(database.pool_size).unwrap_or(settings.default_pool_size),
            min_pool_size: database.min_pool_size.unwrap_or(settings.min_pool_size),
            reserve_pool_size: user
                .reserve_pool_size
                .or(database.reserve_pool_size)
                .unwrap_or(settings.reserve_pool_size),
            query_wait_timeout: user
                .query_wait_timeout
                .or(database.query_wait_timeout)
                .unwrap_or(settings.query_wait_timeout),
            server_lifetime: database.server_lifetime.unwrap_or(settings.server_lifetime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_know_paths_names_and_brackets() {
        assert_eq!(Host::parse("/run/pg"), Host::Unix("/run/pg".into()));
        assert_eq!(Host::parse("@pg"), Host::Unix("@pg".into()));
        assert_eq!(Host::parse("[::1]").tcp(), Some("::1"));
        assert_eq!(Host::parse("fe80::1").tcp(), Some("fe80::1"));
    }

    #[test]
    fn user_wins_over_database_over_setting() {
        let mut config = Config::default();
        let mut database = Database::new("app");
        assert_eq!(config.pool_rules(&database, "ann").pool_size, 20);
        database.pool_size = Some(7);
        database.pool_mode = Some(PoolMode::Statement);
        let user = UserOverrides { pool_size: Some(3), ..UserOverrides::default() };
        config.users.insert("ann".to_owned(), user);
        let rules = config.pool_rules(&database, "ann");
        assert_eq!((rules.pool_size, rules.pool_mode), (3, PoolMode::Statement));
        assert_eq!(config.pool_rules(&database, "bob").pool_size, 7);
    }
}
