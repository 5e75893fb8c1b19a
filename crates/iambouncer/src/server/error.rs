//! Why a server login failed. Owns the distinction that decides what happens to waiting clients: a refusal is reported
//! to them at once; after any other failure they wait for a retry.

use crate::auth::scram::ScramError;
use crate::client_error::{self, Blame, ClientError};
use crate::config::TargetSessionAttrs;
use crate::login_failure::LoginFailure;
use crate::net::certificate_fault::CertificateFaultKind;
use crate::net::trust::fault_in;
use crate::server_roles::ServerRole;
use std::borrow::Cow;

/// The stage of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginStage {
    /// Resolving the name or connecting.
    #[default]
    Network,
    /// Setting up TLS.
    Tls,
    /// Waiting for `iam_login_rate`.
    RateLimit,
    /// Waiting for AWS credentials to sign with.
    Credentials,
    /// Waiting for Secrets Manager.
    Secret,
    /// Waiting for the server's next message.
    Answer,
}

impl std::fmt::Display for LoginStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Network => "no connection was established",
            Self::Tls => "TLS was not set up",
            Self::RateLimit => "it has waited for iam_login_rate",
            Self::Credentials => "no AWS credentials were obtained",
            Self::Secret => "Secrets Manager did not answer",
            Self::Answer => "the server did not finish the login",
        })
    }
}

/// The kind of a TLS failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFailureKind {
    /// The certificate is for other names.
    WrongName,
    /// It is not signed by a trusted authority.
    Untrusted,
    /// It has expired or is not valid yet.
    Expired,
    /// Versions, alerts, no TLS at all.
    Other,
}

impl TlsFailureKind {
    /// Classifies the error of a TLS handshake.
    pub fn of(error: &std::io::Error) -> Self {
        if let Some(fault) = fault_in(error) {
            return match fault.kind() {
                CertificateFaultKind::Name => Self::WrongName,
                CertificateFaultKind::Period => Self::Expired,
                CertificateFaultKind::Trust => Self::Untrusted,
            };
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => Self::Untrusted,
            _ => Self::Other,
        }
    }
}

/// A failed login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The name does not resolve.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// Host.
        host: String,
        /// The resolver's message.
        reason: String,
    },
    /// No connection.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Target.
        target: String,
        /// The system's message.
        reason: String,
        /// The system's error kind.
        kind: std::io::ErrorKind,
    },
    /// `server_connect_timeout`.
    #[error("login to {target} took longer than server_connect_timeout ({stage})")]
    Timeout {
        /// Target.
        target: String,
        /// The stage that was reached.
        stage: LoginStage,
    },
    /// `iam_login_rate`.
    #[error("too many IAM logins to {0} are queued (iam_login_rate)")]
    LoginRate(String),
    /// The pooler would connect to itself.
    #[error("the server address {0} is this pooler's own listener")]
    OwnListener(String),
    /// TLS is required but not supported by the server.
    #[error("server does not support TLS, but server_tls_sslmode requires it")]
    NoTls,
    /// TLS is required but disabled.
    #[error("TLS is required but disabled by server_tls_sslmode")]
    TlsOff,
    /// TLS failed: certificate, name, versions.
    #[error("TLS to {target} failed: {reason}")]
    Tls {
        /// Target.
        target: String,
        /// The message of rustls.
        reason: String,
        /// The kind of failure.
        trouble: TlsFailureKind,
        /// What to do about the certificate, if the host's owner issues it.
        remedy: Option<String>,
    },
    /// The server refused the login.
    #[error("server login failed: {severity} {message}")]
    Refused {
        /// FATAL or ERROR.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// The server's message.
        message: String,
        /// The server's hint.
        hint: Option<String>,
    },
    /// No password is available for the user.
    #[error("server requests a password, but none is available for user \"{0}\"")]
    NoPassword(String),
    /// The stored form of the password does not fit the request.
    #[error("server requests {asked}, but the stored password of user \"{user}\" cannot be used for that")]
    UnusablePassword {
        /// The authentication request.
        asked: &'static str,
        /// User.
        user: String,
    },
    /// The server cannot verify the password of a client: it requests none.
    #[error("server requests no password of user \"{0}\", so it cannot verify the one of the client")]
    PasswordNotRequested(String),
    /// IAM: the server did not request a token.
    #[error("server asks user \"{user}\" for {asked}, not for an IAM token")]
    NotAnIamUser {
        /// User.
        user: String,
        /// The authentication request.
        asked: &'static str,
    },
    /// IAM: the server's name was not verified on this connection.
    #[error(
        "an IAM token is sent only to a server whose host name was verified; set server_tls_sslmode = verify-full"
    )]
    TokenNeedsVerifiedName,
    /// IAM: no token.
    #[error("no IAM token for user \"{user}\": {reason}")]
    Token {
        /// User.
        user: String,
        /// The token engine's message.
        reason: String,
        /// The cause.
        cause: LoginFailure,
        /// Specific advice, in place of the cause's general fix.
        advice: Option<String>,
        /// A retry may succeed: AWS is slow or unreachable.
        is_transient: bool,
    },
    /// No secret.
    #[error("{reason}")]
    Secret {
        /// The cache's message.
        reason: String,
        /// The cause.
        cause: LoginFailure,
        /// Specific advice, in place of the cause's general fix.
        advice: Option<String>,
        /// A retry may succeed.
        is_transient: bool,
    },
    /// The server does not accept the password of a secret.
    #[error("server login failed: {message} (password of secret {secret}, version {version})")]
    SecretPassword {
        /// The secret.
        secret: String,
        /// Its version.
        version: String,
        /// The server's message.
        message: String,
        /// A rotation may be under way: the database has the new password, but AWSCURRENT is still the old one.
        may_be_in_rotation: bool,
    },
    /// The pooler's side of SCRAM failed.
    #[error("SCRAM with the server failed: {0}")]
    Scram(#[from] ScramError),
    /// An unsupported authentication request.
    #[error("server requests authentication method {0}, which is not supported")]
    UnsupportedAuthentication(u32),
    /// `target_session_attrs`: the server is not as required.
    #[error("{server} is {role}, but target_session_attrs = {wanted}")]
    WrongRole {
        /// Host and port.
        server: String,
        /// The requirement.
        wanted: TargetSessionAttrs,
        /// What it is.
        role: ServerRole,
    },
    /// `target_session_attrs`: none of several hosts can be used.
    #[error("no host of the database line can be used (target_session_attrs = {wanted}): {found}")]
    NoSuitableServer {
        /// The requirement.
        wanted: TargetSessionAttrs,
        /// What each of them is, or why it cannot be reached.
        found: String,
    },
    /// The server violated the protocol or closed the connection.
    #[error("server login aborted: {0}")]
    BrokenOff(String),
}

impl LoginError {
    /// Why the connection is closed, in PgBouncer's words where it has some.
    pub fn close_reason(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Resolve { .. } => "server DNS lookup failed".into(),
            Self::Connect { .. } => "connect failed".into(),
            Self::Timeout { .. } => "connect timeout".into(),
            Self::Refused { message, .. } => message.into(),
            other => other.to_string().into(),
        }
    }

    /// True if the login was refused for a reason that an early retry will not change.
    pub fn is_refusal(&self) -> bool {
        match self {
            // 57P03: starting up, shutting down, in recovery. 53300: full. Both are temporary.
            Self::Refused { code, .. } => !matches!(code.as_str(), "57P03" | "53300" | "57P01" | "57P02"),
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::LoginRate(_)
            | Self::WrongRole { .. }
            | Self::NoSuitableServer { .. }
            | Self::BrokenOff(_) => false,
            Self::Token { is_transient, .. } | Self::Secret { is_transient, .. } => !is_transient,
            Self::SecretPassword { may_be_in_rotation, .. } => !may_be_in_rotation,
            _ => true,
        }
    }

    /// True if the server cannot be reached, or is starting or stopping.
    pub fn is_about_reaching(&self) -> bool {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Timeout { .. } | Self::BrokenOff(_) => true,
            Self::Refused { code, .. } => code.starts_with("57P"),
            _ => false,
        }
    }

    /// True if the server, or all hosts of its line, are not as `target_session_attrs` requires: another one will be, once
    /// it is promoted.
    pub fn is_wrong_role(&self) -> bool {
        matches!(self, Self::WrongRole { .. } | Self::NoSuitableServer { .. })
    }

    /// True if the server has refused the user or its proof (SQLSTATE class 28).
    pub fn is_about_user(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code.starts_with("28"))
    }

    /// The error for a waiting client.
    pub fn to_fault(&self) -> ClientError {
        let (blame, code): (Blame, Cow<'static, str>) = match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::WrongRole { .. }
            | Self::NoSuitableServer { .. }
            | Self::BrokenOff(_) => (Blame::Server, "08001".into()),
            Self::LoginRate(_) => (Blame::Us, "53300".into()),
            Self::Refused { code, .. } if code.len() == 5 => (Blame::Server, code.clone().into()),
            Self::Refused { .. } => (Blame::Server, "08004".into()),
            Self::Token { .. } | Self::Secret { .. } | Self::NotAnIamUser { .. } => {
                (Blame::Aws, "28000".into())
            }
            Self::SecretPassword { .. } => (Blame::Server, "28P01".into()),
            Self::NoPassword(_)
            | Self::PasswordNotRequested(_)
            | Self::UnusablePassword { .. }
            | Self::TokenNeedsVerifiedName => (Blame::Configuration, "28000".into()),
            Self::OwnListener(_) | Self::TlsOff => (Blame::Configuration, "08001".into()),
            Self::NoTls | Self::Tls { .. } | Self::Scram(_) | Self::UnsupportedAuthentication(_) => {
                (Blame::Server, "08004".into())
            }
        };
        let hint = self.hint().map(Cow::Owned);
        let message = self.to_string().into();
        let error = ClientError { blame, code, message, detail: None, hint, hidden_reason: None };
        match self {
            // As in PgBouncer, the client receives the server's own message.
            Self::Refused { message, .. } => ClientError { message: message.clone().into(), ..error }
                .detail("server login failed: the server has refused the pooler, not the client"),
            Self::UnusablePassword { .. } => {
                let ClientError { message, .. } = client_error::wrong_password_type();
                ClientError { detail: Some(error.message), message, ..error }
            }
            _ => error,
        }
    }

    /// A hint for this case; general advice belongs to the cause.
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Refused { hint, .. } => hint.clone(),
            Self::NotAnIamUser { user, .. } => Some(format!(
                "RDS asks for a token in clear text only from members of rds_iam: run GRANT rds_iam TO \"{}\".",
                user.replace('"', "\"\"")
            )),
            Self::Tls { remedy, .. } => remedy.clone(),
            Self::OwnListener(_) => {
                Some("Name the database's own endpoint as host, not the pooler's address.".to_owned())
            }
            Self::SecretPassword { may_be_in_rotation: true, .. } => Some(
                "The secret may be in the middle of a rotation; it is read again until that is over."
                    .to_owned(),
            ),
            Self::PasswordNotRequested(_) => Some(
                "Have pg_hba.conf of the server request a password from the pooler's address.".to_owned(),
            ),
            Self::NoPassword(_) => {
                Some("Add the user to auth_file, or set password= on the database line.".to_owned())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starting_server_is_temporary_and_a_wrong_password_is_not() {
        let refused = |code: &str| LoginError::Refused {
            severity: "FATAL".into(),
            code: code.into(),
            message: "x".into(),
            hint: None,
        };
        assert!(!refused("57P03").is_refusal());
        assert!(refused("28P01").is_refusal());
        assert_eq!(refused("28P01").to_fault().code, "28P01");
        assert_eq!(LoginError::NoTls.to_fault().code, "08004");
    }
}
