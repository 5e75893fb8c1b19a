//! Rules of an HBA file (`auth_type = hba`) in PgBouncer's syntax. Owns the rules and which one applies to a client;
//! reading lines belongs to `parser`. Never authenticates, and opens no file.

mod names;
mod parser;
mod tokens;

use crate::config::LdapOptions;
use crate::net::interfaces::IpNetwork;
use names::HbaNames;
pub use parser::HbaFile;
use std::net::IpAddr;
use std::sync::Arc;

/// Longest HBA file, and longest file of names, in bytes.
pub const MAX_FILE_BYTES: usize = 1024 * 1024;

/// How a client that matches a rule authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HbaMethod {
    /// `trust`.
    Trust,
    /// `reject`.
    Reject,
    /// `md5`.
    Md5,
    /// `scram-sha-256`.
    ScramSha256,
    /// `password`: in clear text.
    Password,
    /// `peer`.
    Peer {
        /// `map=`.
        map: Option<String>,
    },
    /// `cert`.
    Cert {
        /// `map=`.
        map: Option<String>,
    },
    /// `ldap`.
    Ldap(Arc<LdapOptions>),
    /// `pam`.
    Pam,
    /// `server`.
    Server,
}

/// The connections that a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordType {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

impl RecordType {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "local" => Self::Local,
            "host" => Self::Host,
            "hostssl" => Self::HostSsl,
            "hostnossl" => Self::HostNoSsl,
            _ => return None,
        })
    }

    fn covers(self, client: &HbaClient<'_>) -> bool {
        match self {
            Self::Local => client.address.is_none(),
            Self::Host => client.address.is_some(),
            Self::HostSsl => client.address.is_some() && client.is_encrypted,
            Self::HostNoSsl => client.address.is_some() && !client.is_encrypted,
        }
    }
}

/// The addresses that a record is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum AddressRange {
    All,
    /// As in PgBouncer, an address with bits outside its mask matches nothing.
    Network(IpNetwork),
    /// `samehost` and `samenet`, as of the time at which the file was read.
    OfThisHost(Arc<[IpNetwork]>),
}

impl AddressRange {
    fn contains(&self, client: IpAddr) -> bool {
        // A socket for both families reports IPv4 clients with mapped addresses.
        let client = client.to_canonical();
        match self {
            Self::All => true,
            Self::Network(network) => network.contains(client),
            Self::OfThisHost(networks) => networks.iter().any(|network| network.contains(client)),
        }
    }
}

/// One line of the file.
#[derive(Debug, Clone)]
pub struct HbaRule {
    /// Its line, from 1.
    pub line: usize,
    record: RecordType,
    databases: HbaNames,
    users: HbaNames,
    addresses: AddressRange,
    /// How its clients authenticate.
    pub method: HbaMethod,
}

/// What a rule is selected by.
#[derive(Debug, Clone, Copy)]
pub struct HbaClient<'a> {
    /// Its address; `None` on a UNIX socket.
    pub address: Option<IpAddr>,
    /// The connection has TLS.
    pub is_encrypted: bool,
    /// It requests physical replication, which has no database.
    pub is_replication: bool,
    /// The requested database.
    pub database: &'a str,
    /// The requested user.
    pub user: &'a str,
}

/// The rules of a file, in order.
#[derive(Debug, Clone, Default)]
pub struct HbaRules {
    rules: Vec<HbaRule>,
    warnings: Vec<String>,
}

impl HbaRules {
    /// The first rule that matches.
    pub fn find(&self, client: &HbaClient<'_>) -> Option<&HbaRule> {
        self.rules.iter().find(|rule| {
            let is_for_database = match client.is_replication {
                true => rule.databases.has_replication(),
                false => rule.databases.contains(client.database, client.user),
            };
            rule.record.covers(client)
                && client.address.is_none_or(|address| rule.addresses.contains(address))
                && is_for_database
                && rule.users.contains(client.user, client.database)
        })
    }

    /// The options of all `ldap` rules.
    pub fn ldap_options(&self) -> impl Iterator<Item = &LdapOptions> {
        self.rules.iter().filter_map(|rule| match &rule.method {
            HbaMethod::Ldap(options) => Some(&**options),
            _ => None,
        })
    }

    /// Adds a warning for each `cert` rule, if clients are not asked for certificates.
    pub fn warn_of_certificates(&mut self) {
        let is_for_certificates = |rule: &HbaRule| matches!(rule.method, HbaMethod::Cert { .. });
        self.warn_of(
            is_for_certificates,
            "cert refuses every client without client_tls_sslmode and client_tls_ca_file",
        );
    }

    /// Adds a warning for each `server` rule whose clients have no TLS; `has_tls` is that of the listeners.
    pub fn warn_of_server_passwords(&mut self, has_tls: bool) {
        let is_for_passwords = |rule: &HbaRule| rule.method == HbaMethod::Server;
        if has_tls {
            let lacks_tls = |rule: &HbaRule| is_for_passwords(rule) && rule.record == RecordType::HostNoSsl;
            self.warn_of(lacks_tls, "server refuses every client without TLS");
        } else {
            self.warn_of(is_for_passwords, "server refuses every client without client_tls_sslmode");
        }
    }

    fn warn_of(&mut self, concerns: impl Fn(&HbaRule) -> bool, text: &str) {
        let lines = self.rules.iter().filter(|rule| concerns(rule)).map(|rule| rule.line);
        self.warnings.extend(lines.map(|line| format!("hba line {line}: {text}")));
    }

    /// About lines that were skipped, or whose clients cannot log in.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

#[cfg(test)]
mod tests;
