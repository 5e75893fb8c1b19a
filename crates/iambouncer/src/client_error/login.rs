//! Errors of logins: who may log in, how, and how many. Owns what a client learns about a refused login, which is the
//! same for unknown users and for wrong passwords.

use super::messages::{self, PoolerMessage};
use super::{Blame, ClientError, HiddenReason};
use std::borrow::Cow;

/// Too many connections are logging in, and this one is the oldest of them.
pub fn evicted(max_client_conn: u32) -> ClientError {
    too_many_clients(max_client_conn).hint("This was the oldest of the connections that had not logged in.")
}

/// The client took longer to log in than `client_login_timeout`.
pub fn login_timeout() -> ClientError {
    messages::LOGIN_TIMEOUT.error().hint("The login was not completed in time; see client_login_timeout.")
}

/// A session request without a user.
pub fn no_user() -> ClientError {
    messages::NO_USER.error()
}

/// An unknown startup parameter.
pub fn unknown_startup_parameter(name: &str) -> ClientError {
    messages::STARTUP_PARAMETER.of(name).hint("Add the name to ignore_startup_parameters to have it ignored.")
}

/// An unknown parameter in the startup parameter `options`.
pub fn unknown_option(name: &str) -> ClientError {
    messages::OPTION.of(name).hint("Add the name to ignore_startup_parameters to have it ignored.")
}

/// Something else than parameters in `options`.
pub fn unsupported_options() -> ClientError {
    messages::OPTIONS.error()
}

/// A database without a line, and there is no `*` line.
pub fn unknown_database(name: &str) -> ClientError {
    messages::NO_DATABASE.of(name).hint("Add it to [databases], or add a fallback line named *.")
}

/// The database is disabled.
pub fn database_disabled(name: &str) -> ClientError {
    messages::DATABASE_DISABLED.of(name)
}

/// How a client tried to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMethod {
    /// Without a password.
    Trust,
    /// With a password or its MD5 hash.
    Password,
    /// With SCRAM.
    Scram,
}

impl LoginMethod {
    const fn message(self) -> &'static PoolerMessage {
        match self {
            Self::Trust => &messages::TRUST,
            Self::Password => &messages::PASSWORD,
            Self::Scram => &messages::SASL,
        }
    }
}

/// Wrong password or unknown user: the client does not learn which.
pub fn authentication_failed(method: LoginMethod, user: &str) -> ClientError {
    let detail = match method {
        LoginMethod::Trust | LoginMethod::Password => {
            format!("Wrong password for user \"{user}\", or no such user.")
        }
        // PostgreSQL has the same text for all kinds of passwords, and people search for that.
        LoginMethod::Scram => {
            format!("password authentication failed for user \"{user}\": wrong password, or no such user.")
        }
    };
    method.message().error().detail(detail)
}

/// As [`authentication_failed`], for a user that `auth_query` has not found: only the log has the reason.
pub fn not_found(method: LoginMethod, user: &str) -> ClientError {
    let hidden_reason = Some(HiddenReason::NoSuchUser);
    ClientError { hidden_reason, ..authentication_failed(method, user) }
}

/// The client sent an empty password, which PostgreSQL does not accept either.
pub fn empty_password() -> ClientError {
    messages::EMPTY_PASSWORD.error()
}

/// The client does not want to use SCRAM-SHA-256.
pub fn unknown_sasl_mechanism() -> ClientError {
    messages::SASL_MECHANISM.error()
}

/// An authenticated user that may not use the console.
pub fn console_not_allowed(user: &str) -> ClientError {
    let error = messages::NOT_ALLOWED.error().detail(format!("User \"{user}\" may not use the console."));
    error.hint("Add the user to admin_users or stats_users.")
}

/// TLS is required for clients.
pub fn tls_required() -> ClientError {
    messages::SSL_REQUIRED.error().hint("Connect with sslmode=require or stricter.")
}

/// A proof of an AWS identity must not be sent unencrypted.
pub fn proof_needs_tls() -> ClientError {
    tls_required().detail("IAM authentication is allowed only with SSL connections.")
}

/// A password that the server verifies must not be sent unencrypted.
pub fn password_needs_tls() -> ClientError {
    tls_required().detail("A password that the server verifies is accepted only with SSL connections.")
}

/// A login with an AWS identity that is refused.
fn refused_identity(detail: String) -> ClientError {
    ClientError { code: Cow::Borrowed("28000"), ..messages::PASSWORD.error() }.detail(detail)
}

/// A token, or another proof of an AWS identity, is invalid.
pub fn proof_refused(user: &str, reason: &str) -> ClientError {
    refused_identity(format!("IAM authentication failed for user \"{user}\": {reason}"))
        .hint("The password must be a fresh IAM token for this user and the database's own endpoint, port and region.")
}

/// An AWS identity that the map does not allow for this user.
pub fn not_mapped(user: &str, arn: &str) -> ClientError {
    refused_identity(format!("{arn} may not log in as \"{user}\""))
        .hint("A line of auth_ident_file must map this identity to this user.")
}

/// STS does not answer, so new proofs cannot be verified.
pub fn sts_unavailable(reason: &str) -> ClientError {
    ClientError::new(Blame::Aws, "08006", format!("cannot verify the AWS identity: {reason}"))
        .hint("Try again in a moment.")
}

/// `auth_query` cannot be run; the log has the reason, which is for the operator.
pub fn auth_query_unusable() -> ClientError {
    messages::BAD_CONFIGURATION.error().hint("auth_query failed: see the log of the pooler.")
}

/// The database in which `auth_query` runs is disabled.
pub fn auth_database_disabled(name: &str) -> ClientError {
    messages::AUTH_DATABASE_DISABLED.of(name)
}

/// A user that does not exist, where no proof is required.
pub fn unknown_user(user: &str) -> ClientError {
    messages::NO_SUCH_USER
        .error()
        .detail(format!("Neither auth_file nor auth_query has the user \"{user}\"."))
}

/// `auth_type = hba`, and no rule matches.
pub fn no_authentication_method() -> ClientError {
    messages::NO_METHOD.error()
}

/// The HBA rule that matches rejects the client.
pub fn login_rejected() -> ClientError {
    messages::REJECTED.error()
}

/// The client's certificate does not prove the requested user. The log has the reason.
pub fn certificate_refused() -> ClientError {
    messages::CERTIFICATE.error()
}

/// The account at the other end of the UNIX socket may not log in as the requested user. The log has the reason.
pub fn peer_refused() -> ClientError {
    messages::PEER.error()
}

/// No LDAP server has verified the password. The log has the reason.
pub fn ldap_refused() -> ClientError {
    messages::LDAP.error()
}

/// PAM has not accepted the password. The log has the reason.
pub fn pam_refused() -> ClientError {
    messages::PAM.error()
}

/// `max_client_conn` is reached.
pub fn too_many_clients(limit: u32) -> ClientError {
    messages::TOO_MANY_CLIENTS.error().detail(limit_of(limit))
}

/// `max_db_client_connections` is reached.
pub fn too_many_clients_of_database(limit: u32) -> ClientError {
    messages::DATABASE_CLIENTS.error().detail(limit_of(limit))
}

/// `max_user_client_connections` is reached.
pub fn too_many_clients_of_user(limit: u32) -> ClientError {
    messages::USER_CLIENTS.error().detail(limit_of(limit))
}

fn limit_of(limit: u32) -> String {
    format!("The limit is {limit}.")
}

/// All file descriptors but the reserve are in use.
pub fn too_many_files() -> ClientError {
    messages::TOO_MANY_CLIENTS
        .error()
        .detail("All open files are in use.")
        .hint("Raise the limit of open files (ulimit -n, LimitNOFILE=), or lower max_client_conn.")
}
