//! The validated configuration.
//!
//! Owns its types and the rules of precedence (user over database over setting); never parses text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::enums::{LoadBalanceHosts, PinRule, PoolMode, ServerAuth, TargetSessionAttrs};
use super::environment::{origin_key, record_setting};
use super::secret::Secret;
use super::settings_table::Settings;
use rds_iam::Identity;
use rds_iam::secrets::{SecretArn, SecretKey};

/// The complete configuration, checked as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The global settings.
    pub settings: Settings,
    /// Databases by the name that clients request.
    pub databases: BTreeMap<String, Database>,
    /// The `*` line, for all other names.
    pub fallback: Option<Database>,
    /// Overrides for single users.
    pub users: BTreeMap<String, UserOverrides>,
    /// Other processes of the group, by peer ID.
    pub peers: BTreeMap<u16, Peer>,
    /// The source of each value that is not a default.
    pub origins: Vec<Origin>,
}

/// A value and its source, suitable for logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Its key: a setting, or `host`, `user` and so on without a file.
    pub key: String,
    /// The value; `***` for a secret.
    pub value: String,
    /// For example "from RDS_HOST" or "pgbouncer.ini:12".
    pub source: String,
}

/// A host of a database line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or address.
    Tcp(String),
    /// The directory of a UNIX socket, or `@…` for an abstract one.
    Unix(PathBuf),
}

impl Host {
    /// Parses one host of a list; a path or `@…` is a UNIX socket, brackets around IPv6 addresses are removed.
    pub fn parse(text: &str) -> Self {
        if text.starts_with(['/', '@']) {
            return Self::Unix(PathBuf::from(text));
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        Self::Tcp(bare.unwrap_or(text).to_owned())
    }

    /// The name or address, if it is one.
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

/// One line of `[databases]`. `None` stands for the global setting, or for the server's default.
#[derive(Clone, Debug, PartialEq)]
pub struct Database {
    /// The name that clients request; `*` for the fallback.
    pub name: String,
    /// The database name on the server.
    pub dbname: Option<String>,
    /// Hosts of the server; never empty in a validated configuration.
    pub host: Vec<Host>,
    /// Port of the server, also part of the name of a UNIX socket.
    pub port: u16,
    /// User on the server for all clients.
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
    /// Minimum number of servers.
    pub min_pool_size: Option<u32>,
    /// Additional servers if clients wait too long.
    pub reserve_pool_size: Option<u32>,
    /// Pool mode of this database.
    pub pool_mode: Option<PoolMode>,
    /// What happens to a statement for which a client would keep its server.
    pub pin: Option<PinRule>,
    /// Clients that LISTEN share one connection.
    pub shared_listener: Option<bool>,
    /// Maximum number of servers of all users.
    pub max_db_connections: Option<u32>,
    /// Maximum number of clients of all users.
    pub max_db_client_connections: Option<u32>,
    /// Age at which an idle server is closed.
    pub server_lifetime: Option<Duration>,
    /// Longest time a client waits for a server.
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
    /// Order in which hosts are tried.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Which of the hosts are used.
    pub target_session_attrs: TargetSessionAttrs,
    /// How the pooler logs in.
    pub server_auth: ServerAuth,
    /// Host to sign tokens for, if it differs from the host to connect to.
    pub iam_host: Option<String>,
    /// Port to sign tokens for, if it differs from the port to connect to.
    pub iam_port: Option<u16>,
    /// Region to sign tokens for, regardless of the host name.
    pub iam_region: Option<String>,
    /// Region to use only if the host name contains none (from `AWS_REGION`, the region of the pod, which need not be
    /// that of the database).
    pub iam_region_fallback: Option<String>,
    /// Secret of Secrets Manager with user and password; `user` then only names the pool.
    pub secret_arn: Option<SecretArn>,
    /// Profile whose credentials sign tokens.
    pub aws_profile: Option<String>,
    /// Role to assume before signing.
    pub aws_role_arn: Option<String>,
    /// External ID that the role's trust policy requires.
    pub aws_external_id: Option<String>,
    /// Session name that CloudTrail shows for the role.
    pub aws_role_session_name: Option<String>,
}

impl Database {
    /// The AWS identity that signs tokens of this line.
    pub fn aws_identity(&self) -> Identity {
        Identity {
            profile: self.aws_profile.clone(),
            role_arn: self.aws_role_arn.clone(),
            external_id: self.aws_external_id.clone(),
            session_name: self.aws_role_session_name.clone(),
            sts_region: None,
        }
    }

    /// The secret of this line, and the identity that reads it.
    pub fn secret_key(&self) -> Option<SecretKey> {
        let arn = self.secret_arn.clone()?;
        // A role is assumed with the STS of the secret's region, unless the AWS configuration sets another region.
        let identity = Identity { sts_region: Some(arn.region().clone()), ..self.aws_identity() };
        Some(SecretKey { arn, identity })
    }

    /// The first host and the port; with IAM, those that tokens are signed for, unless the host is an alias.
    pub fn endpoint_text(&self) -> String {
        let host = self.host.first().map(ToString::to_string).unwrap_or_default();
        let host = self.iam_host.clone().unwrap_or(host);
        format!("{host}:{}", self.iam_port.unwrap_or(self.port))
    }

    /// A database without overrides.
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
            pin: None,
            shared_listener: None,
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
            target_session_attrs: TargetSessionAttrs::Any,
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

    /// The order in which its hosts are used, if there are several.
    pub fn load_balanced(&self) -> Option<LoadBalanceHosts> {
        (self.host.len() > 1).then_some(self.load_balance_hosts)
    }

    /// The name on the server for a client that requested `requested`.
    pub fn server_dbname<'a>(&'a self, requested: &'a str) -> &'a str {
        self.dbname.as_deref().unwrap_or(requested)
    }
}

/// One line of `[users]`; `None` stands for the database's value or the setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserOverrides {
    /// Servers per database for this user.
    pub pool_size: Option<u32>,
    /// Additional servers if clients wait too long.
    pub reserve_pool_size: Option<u32>,
    /// Pool mode of this user.
    pub pool_mode: Option<PoolMode>,
    /// Maximum number of servers in all databases.
    pub max_user_connections: Option<u32>,
    /// Maximum number of clients in all databases.
    pub max_user_client_connections: Option<u32>,
    /// Longest time of a query.
    pub query_timeout: Option<Duration>,
    /// Longest wait for a server.
    pub query_wait_timeout: Option<Duration>,
    /// Longest idle time in a transaction.
    pub idle_transaction_timeout: Option<Duration>,
    /// Longest time of a transaction.
    pub transaction_timeout: Option<Duration>,
    /// Longest idle time outside of transactions.
    pub client_idle_timeout: Option<Duration>,
}

/// One line of `[peers]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its host; `None` only while the line is being parsed.
    pub host: Option<Host>,
    /// Its port.
    pub port: u16,
    /// Maximum number of concurrent cancel connections to it.
    pub pool_size: Option<u32>,
}

/// The effective rules of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRules {
    /// When a server is released.
    pub pool_mode: PoolMode,
    /// Maximum number of servers.
    pub pool_size: u32,
    /// Minimum number of servers.
    pub min_pool_size: u32,
    /// Additional servers if clients wait too long.
    pub reserve_pool_size: u32,
    /// Longest wait for a server; zero for no limit.
    pub query_wait_timeout: Duration,
    /// What happens to a statement for which a client would keep its server.
    pub pin: PinRule,
    /// Clients that LISTEN share one connection.
    pub shared_listener: bool,
    /// Age at which an idle server is closed.
    pub server_lifetime: Duration,
}

impl Config {
    /// True if the value of a setting has an origin: it was given, or is a default of a start without a file.
    pub fn is_given(&self, key: &str) -> bool {
        self.origins.iter().any(|origin| origin.key == key)
    }

    /// The source of a setting's value; `None` for a default.
    pub fn origin_of_setting(&self, name: &str) -> Option<&str> {
        let origin = self.origins.iter().find(|origin| origin.key == origin_key(name));
        origin.map(|origin| origin.source.as_str())
    }

    /// Records that SET has changed a setting.
    pub fn record_set(&mut self, name: &str, value: &str) {
        record_setting(&mut self.origins, name, value, "SET".to_owned());
    }

    /// The line for a database name: its own, or the fallback.
    pub fn database_for(&self, name: &str) -> Option<&Database> {
        self.databases.get(name).or(self.fallback.as_ref())
    }

    /// All database lines, the fallback last.
    pub fn all_databases(&self) -> impl Iterator<Item = &Database> {
        self.databases.values().chain(self.fallback.as_ref())
    }

    /// The rules for the pool of a database and user.
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
            pin: database.pin.unwrap_or(settings.pin),
            shared_listener: database.shared_listener.unwrap_or(settings.shared_listener),
            server_lifetime: database.server_lifetime.unwrap_or(settings.server_lifetime),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_may_be_paths_names_or_addresses_in_brackets() {
        assert_eq!(Host::parse("/run/pg"), Host::Unix("/run/pg".into()));
        assert_eq!(Host::parse("@pg"), Host::Unix("@pg".into()));
        assert_eq!(Host::parse("[::1]").tcp(), Some("::1"));
        assert_eq!(Host::parse("fe80::1").tcp(), Some("fe80::1"));
    }

    #[test]
    fn users_override_databases_which_override_settings() {
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
