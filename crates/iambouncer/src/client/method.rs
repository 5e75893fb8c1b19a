//! How a client authenticates. Owns the decision, made once before any exchange: by the HBA rules, or the same for
//! all clients.

use crate::auth::hba::{HbaClient, HbaMethod};
use crate::client_error::{self, ClientError};
use crate::config::{AuthType, LdapOptions};
use crate::context::ConfigFiles;
use std::net::IpAddr;
use std::sync::Arc;

/// What a client has to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AuthMethod {
    /// Nothing; every user name is accepted.
    Any,
    /// Nothing, but the user must exist.
    Trust,
    /// A password that is stored.
    Password(PasswordExchange),
    /// An RDS token.
    Iam,
    /// A presigned STS request.
    IamSts,
    /// A certificate with the user's name, or one that `map` allows.
    Certificate {
        /// A map of `auth_ident_file`.
        map: Option<String>,
    },
    /// An account of the host with the user's name, or one that `map` allows. The client is on a UNIX socket.
    Peer {
        /// A map of `auth_ident_file`.
        map: Option<String>,
    },
    /// A password that an LDAP server verifies.
    Ldap(Arc<LdapOptions>),
    /// A password that PAM verifies.
    Pam {
        /// The client's address; `None` on a UNIX socket.
        remote: Option<IpAddr>,
    },
    /// A password that the database's server verifies.
    Server,
}

/// How a stored password is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PasswordExchange {
    Cleartext,
    Md5,
    Scram,
}

impl AuthMethod {
    /// The method for a client.
    ///
    /// # Errors
    /// No HBA rule matches, or the one that does rejects the client. Both depend on names only, not on whether they
    /// exist.
    pub(super) fn of(loaded: &ConfigFiles, client: &HbaClient<'_>) -> Result<Self, ClientError> {
        Ok(match loaded.config.settings.auth_type {
            AuthType::Any => Self::Any,
            AuthType::Trust => Self::Trust,
            AuthType::Plain => Self::Password(PasswordExchange::Cleartext),
            AuthType::Md5 => Self::Password(PasswordExchange::Md5),
            AuthType::ScramSha256 => Self::Password(PasswordExchange::Scram),
            AuthType::Iam => Self::Iam,
            AuthType::IamSts => Self::IamSts,
            AuthType::Cert => Self::Certificate { map: None },
            AuthType::Hba => return Self::of_rules(loaded, client),
            AuthType::Ldap => match loaded.config.settings.auth_ldap_options.options() {
                Some(options) => Self::Ldap(options.clone()),
                // Refused when the file is read.
                None => return Err(client_error::ldap_refused()),
            },
            AuthType::Pam => Self::Pam { remote: client.address },
            AuthType::Server => Self::Server,
        })
    }

    fn of_rules(loaded: &ConfigFiles, client: &HbaClient<'_>) -> Result<Self, ClientError> {
        let rule = loaded.hba.find(client).ok_or_else(client_error::no_authentication_method)?;
        tracing::debug!("HBA Line {} is matched", rule.line);
        Ok(match &rule.method {
            HbaMethod::Trust => Self::Trust,
            HbaMethod::Reject => return Err(client_error::login_rejected()),
            HbaMethod::Md5 => Self::Password(PasswordExchange::Md5),
            HbaMethod::ScramSha256 => Self::Password(PasswordExchange::Scram),
            HbaMethod::Password => Self::Password(PasswordExchange::Cleartext),
            HbaMethod::Peer { .. } if client.address.is_some() => return Err(client_error::peer_refused()),
            HbaMethod::Peer { map } => Self::Peer { map: map.clone() },
            HbaMethod::Cert { map } => Self::Certificate { map: map.clone() },
            HbaMethod::Ldap(options) => Self::Ldap(options.clone()),
            HbaMethod::Pam => Self::Pam { remote: client.address },
            HbaMethod::Server => Self::Server,
        })
    }

    /// The method for the console, which has no server that could verify a token or a password.
    pub(super) fn of_console(self) -> Self {
        match self {
            Self::Iam | Self::Server => Self::Password(PasswordExchange::Scram),
            other => other,
        }
    }
}
