//! The target and credentials of a login. Owns how they are derived from a database line, a user and the files they
//! refer to; makes no connection.

use super::diagnosis::LineSummary;
use super::signing::Signing;
use crate::auth::scram::keys::{ClientKeys, ScramSecret};
use crate::config::{Database, Host, Secret, ServerAuth, TlsMode};
use crate::context::ConfigFiles;
use crate::net::verified::ServerTls;
use crate::server_roles::RequiredRole;
use rds_iam::TokenKey;
use rds_iam::secrets::SecretKey;
use std::borrow::Cow;

/// Name of the line for databases without a line of their own.
const FALLBACK: &str = "*";

/// How the pooler proves its identity.
#[derive(Clone)]
pub enum Credential {
    /// Nothing; sufficient for trust.
    None,
    /// A password, or its stored form.
    Password(Secret),
    /// Keys derived from the client's own SCRAM login, usable if the server stores the same secret.
    ScramKeys(ClientKeys),
    /// A token, generated for this login.
    Iam(Signing),
    /// User name and password of a secret.
    Secret(SecretKey),
    /// A password received from a client, which the server has to verify.
    Claimed(Secret),
    /// A token received from a client, to be sent once.
    Given {
        /// The target it is for.
        key: TokenKey,
        /// The token.
        token: Secret,
    },
}

/// What a client's login has revealed, with which its pool can log in to servers.
#[derive(Clone)]
pub enum LearnedCredential {
    /// Keys derived from a login by SCRAM.
    ScramKeys(ClientKeys),
    /// A password that another service has verified.
    Password(Secret),
}

/// The target and credentials of a login.
#[derive(Clone)]
pub struct LoginTarget {
    /// Host.
    pub host: Host,
    /// Port.
    pub port: u16,
    /// Database on the server.
    pub database: String,
    /// User on the server.
    pub user: String,
    /// Proof.
    pub credential: Credential,
    /// Further startup parameters.
    pub parameters: Vec<(Cow<'static, str>, String)>,
    /// Run once after the login.
    pub connect_query: Option<String>,
    /// The line is the fallback, `*`.
    pub is_fallback: bool,
    /// What the server has to be.
    pub required: Option<RequiredRole>,
    /// TLS mode.
    pub tls_mode: TlsMode,
    /// TLS settings from the same configuration as the mode: a RELOAD during a login must not mix the two.
    pub tls: Option<ServerTls>,
}

impl LoginTarget {
    /// The properties of the line that a diagnosis needs.
    pub(super) fn line(&self) -> LineSummary {
        let uses_iam = matches!(self.credential, Credential::Iam(_) | Credential::Given { .. });
        LineSummary {
            uses_iam,
            is_rds: uses_iam || self.host.tcp().and_then(rds_iam::RdsEndpoint::parse).is_some(),
            is_fallback: self.is_fallback,
        }
    }

    /// The login of `user` to one host of a line, for a client of `database`. `learned` is from a client's own
    /// login.
    pub fn new(
        loaded: &ConfigFiles,
        line: &Database,
        database: &str,
        user: &str,
        host: &Host,
        learned: impl FnOnce() -> Option<LearnedCredential>,
    ) -> Self {
        let credential = match (line.server_auth, line.secret_key()) {
            (ServerAuth::Iam, _) => Credential::Iam(Signing::of(line)),
            (ServerAuth::Password, Some(key)) => Credential::Secret(key),
            (ServerAuth::Password, None) => password(loaded, line, user, learned),
        };
        let parameters = [
            ("client_encoding", &line.client_encoding),
            ("datestyle", &line.datestyle),
            ("timezone", &line.timezone),
            ("application_name", &line.application_name),
        ];
        let parameters =
            parameters.into_iter().filter_map(|(name, value)| Some((name.into(), value.clone()?)));
        Self {
            parameters: parameters.collect(),
            connect_query: line.connect_query.clone(),
            ..Self::bare(loaded, line, database, user, host, credential)
        }
    }

    /// The login of the user that runs `auth_query`. The password of the line is for the user of the line.
    pub fn for_auth_query(
        loaded: &ConfigFiles,
        line: &Database,
        database: &str,
        user: &str,
        host: &Host,
    ) -> Self {
        let is_user_of_line = line.user.as_deref() == Some(user);
        let credential = match (line.server_auth, line.secret_key()) {
            (ServerAuth::Iam, _) => Credential::Iam(Signing::of(line)),
            (ServerAuth::Password, Some(key)) if is_user_of_line => Credential::Secret(key),
            _ if is_user_of_line => password(loaded, line, user, || None),
            _ => password(loaded, &Database { password: None, ..line.clone() }, user, || None),
        };
        Self::bare(loaded, line, database, user, host, credential)
    }

    /// The same without session settings, for logins that only verify something.
    pub fn bare(
        loaded: &ConfigFiles,
        line: &Database,
        database: &str,
        user: &str,
        host: &Host,
        credential: Credential,
    ) -> Self {
        Self {
            host: host.clone(),
            port: line.port,
            database: line.server_dbname(database).to_owned(),
            user: user.to_owned(),
            credential,
            parameters: Vec::new(),
            connect_query: None,
            is_fallback: line.name == FALLBACK,
            required: None,
            tls_mode: loaded.config.settings.server_tls_sslmode,
            tls: loaded.server_tls.clone(),
        }
    }
}

/// True if the stored form is a SCRAM secret, which is not usable without the keys from a client's login.
pub fn is_scram_secret(stored: &Secret) -> bool {
    ScramSecret::parse(stored.expose()).is_some()
}

fn password(
    loaded: &ConfigFiles,
    line: &Database,
    user: &str,
    learned: impl FnOnce() -> Option<LearnedCredential>,
) -> Credential {
    if let Some(password) = &line.password {
        return Credential::Password(password.clone());
    }
    match loaded.users.get(user) {
        Some(entry) if entry.is_iam_token() => Credential::None,
        Some(entry) if is_scram_secret(&entry.password) => match learned() {
            Some(LearnedCredential::ScramKeys(keys)) => Credential::ScramKeys(keys),
            Some(LearnedCredential::Password(password)) => Credential::Password(password),
            None => Credential::Password(entry.password.clone()),
        },
        Some(entry) if !entry.password.expose().is_empty() => Credential::Password(entry.password.clone()),
        _ => match learned() {
            Some(LearnedCredential::Password(password)) => Credential::Password(password),
            Some(LearnedCredential::ScramKeys(keys)) => Credential::ScramKeys(keys),
            None => Credential::None,
        },
    }
}
