//! Why a server login failed. Owns the distinction that decides what happens to waiting clients: a refusal is
//! told to them at once, trouble on the way there is retried while they wait.

use crate::auth::scram::ScramError;
use crate::client_error::{Blame, ClientError};
use crate::login_failure::LoginFailure;
use crate::net::certificate_fault::CertificateFaultKind;
use crate::net::trust::fault_in;
use std::borrow::Cow;

/// How far a login has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoginStage {
    /// Looking the name up, or connecting.
    #[default]
    Network,
    /// Setting up TLS.
    Tls,
    /// Waiting for AWS credentials to sign with.
    Credentials,
    /// Waiting for Secrets Manager.
    Secret,
    /// Waiting for the server's next word.
    Answer,
}

impl std::fmt::Display for LoginStage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Network => "no connection came about",
            Self::Tls => "TLS was not set up",
            Self::Credentials => "no AWS credentials came",
            Self::Secret => "Secrets Manager did not answer",
            Self::Answer => "the server did not finish the login",
        })
    }
}

/// What kind of failure TLS met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsTrouble {
    /// The certificate is for other names.
    WrongName,
    /// Nobody we trust has signed it.
    Untrusted,
    /// Its time is over, or has not come.
    Ended,
    /// Versions, alerts, no TLS at all.
    Other,
}

impl TlsTrouble {
    /// Of an error that a TLS handshake ended with.
    pub fn of(error: &std::io::Error) -> Self {
        if let Some(fault) = fault_in(error) {
            return match fault.kind() {
                CertificateFaultKind::Name => Self::WrongName,
                CertificateFaultKind::Period => Self::Ended,
                CertificateFaultKind::Trust => Self::Untrusted,
            };
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => Self::Untrusted,
            _ => Self::Other,
        }
    }
}

/// A login that did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The name does not resolve.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// Host.
        host: String,
        /// Resolver's words.
        reason: String,
    },
    /// No connection.
    #[error("cannot connect to {target}: {reason}")]
    Connect {
        /// Where.
        target: String,
        /// System's words.
        reason: String,
        /// System's kind.
        kind: std::io::ErrorKind,
    },
    /// `server_connect_timeout`.
    #[error("login to {target} took longer than server_connect_timeout ({stage})")]
    Timeout {
        /// Where.
        target: String,
        /// How far it had come.
        stage: LoginStage,
    },
    /// `iam_login_rate`.
    #[error("too many IAM logins to {0} are waiting for their turn (iam_login_rate)")]
    LoginRate(String),
    /// We would be talking to ourselves.
    #[error("the server address {0} is this pooler's own listener")]
    OwnListener(String),
    /// TLS is required and the server has none.
    #[error("server does not support TLS, but server_tls_sslmode requires it")]
    NoTls,
    /// TLS is required and switched off.
    #[error("TLS is required here and server_tls_sslmode switches it off")]
    TlsOff,
    /// TLS failed: certificate, name, versions.
    #[error("TLS to {target} failed: {reason}")]
    Tls {
        /// Where.
        target: String,
        /// rustls' words.
        reason: String,
        /// What kind of failure it is.
        trouble: TlsTrouble,
        /// What to do about the certificate, if it is one that the host's owner makes.
        remedy: Option<String>,
    },
    /// The server said no.
    #[error("server login failed: {severity} {message}")]
    Refused {
        /// FATAL, ERROR.
        severity: String,
        /// SQLSTATE.
        code: String,
        /// Server's message.
        message: String,
        /// What we make of it.
        hint: Option<String>,
    },
    /// No password is known for the user.
    #[error("server asks for a password and none is known for user \"{0}\"")]
    NoPassword(String),
    /// What is stored of the password does not fit the kind of request.
    #[error("server asks for {asked}, which cannot be answered from what is stored for user \"{user}\"")]
    UnusablePassword {
        /// CertificateFaultKind of request.
        asked: &'static str,
        /// User.
        user: String,
    },
    /// IAM: the server did not ask for a token.
    #[error("server asks user \"{user}\" for {asked}, not for an IAM token")]
    NotAnIamUser {
        /// User.
        user: String,
        /// CertificateFaultKind of request.
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
        /// Token engine's words.
        reason: String,
        /// What it means.
        cause: LoginFailure,
        /// What to do in this very case, in place of what helps in general.
        advice: Option<String>,
        /// Trying again may help: AWS is slow or out of reach.
        is_transient: bool,
    },
    /// No secret.
    #[error("{reason}")]
    Secret {
        /// The cache's words.
        reason: String,
        /// What it means.
        cause: LoginFailure,
        /// What to do in this very case, in place of what helps in general.
        advice: Option<String>,
        /// Trying again may help.
        is_transient: bool,
    },
    /// The server does not take what a secret holds.
    #[error("server login failed: {message} (password of secret {secret}, version {version})")]
    SecretPassword {
        /// The secret.
        secret: String,
        /// Its version.
        version: String,
        /// The server's message.
        message: String,
        /// It may be in the middle of a rotation: the database has the new password, AWSCURRENT is still the old one.
        may_be_in_rotation: bool,
    },
    /// SCRAM failed on our side.
    #[error("SCRAM with the server failed: {0}")]
    Scram(#[from] ScramError),
    /// An authentication request we do not speak.
    #[error("server asks for authentication method {0}, which is not supported")]
    UnsupportedAuthentication(u32),
    /// The server broke the protocol or went away.
    #[error("server broke off the login: {0}")]
    BrokenOff(String),
}

impl LoginError {
    /// True when the server, or we, said no for a reason that trying again soon will not change.
    pub fn is_refusal(&self) -> bool {
        match self {
            // 57P03: starting up, shutting down, in recovery. 53300: full. Both pass.
            Self::Refused { code, .. } => !matches!(code.as_str(), "57P03" | "53300" | "57P01" | "57P02"),
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::LoginRate(_)
            | Self::BrokenOff(_) => false,
            Self::Token { is_transient, .. } | Self::Secret { is_transient, .. } => !is_transient,
            Self::SecretPassword { may_be_in_rotation, .. } => !may_be_in_rotation,
            _ => true,
        }
    }

    /// What a waiting client is told.
    pub fn to_fault(&self) -> ClientError {
        let (blame, code): (Blame, Cow<'static, str>) = match self {
            Self::Resolve { .. } | Self::Connect { .. } | Self::Timeout { .. } | Self::BrokenOff(_) => {
                (Blame::Server, "08001".into())
            }
            Self::LoginRate(_) => (Blame::Us, "53300".into()),
            Self::Refused { code, .. } if code.len() == 5 => (Blame::Server, code.clone().into()),
            Self::Refused { .. } => (Blame::Server, "08004".into()),
            Self::Token { .. } | Self::Secret { .. } | Self::NotAnIamUser { .. } => {
                (Blame::Aws, "28000".into())
            }
            Self::SecretPassword { .. } => (Blame::Server, "28P01".into()),
            Self::NoPassword(_) | Self::UnusablePassword { .. } | Self::TokenNeedsVerifiedName => {
                (Blame::Configuration, "28000".into())
            }
            Self::OwnListener(_) | Self::TlsOff => (Blame::Configuration, "08001".into()),
            Self::NoTls | Self::Tls { .. } | Self::Scram(_) | Self::UnsupportedAuthentication(_) => {
                (Blame::Server, "08004".into())
            }
        };
        ClientError { blame, code, message: self.to_string().into(), hint: self.hint().map(Cow::Owned) }
    }

    /// What can be said of this very case; what helps in general is the cause's.
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
    fn a_starting_server_is_waited_for_and_a_wrong_password_is_not() {
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
