//! User name and password of a database user from AWS Secrets Manager, the way RDS Proxy takes them.
//!
//! Owns: [`SecretArn`], [`DatabaseSecret`], the [`SecretSource`] trait and its errors.
//! Never: writes or rotates a secret, prints one, or takes more of it than user name and password.

mod arn;
mod aws;
mod cache;
mod document;

pub use arn::{SecretArn, SecretArnError};
pub use aws::AwsSecrets;
pub use cache::{SecretCache, SecretStatus};

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use zeroize::Zeroizing;

use crate::credentials::Identity;
use crate::error::TokenError;

/// Which secret, and who asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretKey {
    /// The secret.
    pub arn: SecretArn,
    /// Whose credentials sign the question.
    pub identity: Identity,
}

/// One version of a secret. Its password is wiped when the last owner drops it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseSecret {
    /// Database user.
    pub username: String,
    password: Zeroizing<String>,
    /// The version, as Secrets Manager names it.
    pub version_id: String,
}

impl DatabaseSecret {
    /// A version of a secret.
    pub fn new(username: String, password: Zeroizing<String>, version_id: String) -> Self {
        Self { username, password, version_id }
    }

    /// The password itself. For the login, and for nothing that prints.
    pub fn expose(&self) -> &str {
        &self.password
    }

    /// Whether both open the same door; another version may hold the same.
    pub fn opens_the_same(&self, other: &Self) -> bool {
        self.username == other.username && self.password == other.password
    }
}

impl fmt::Debug for DatabaseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, version_id, .. } = self;
        f.debug_struct("DatabaseSecret")
            .field("username", username)
            .field("version_id", version_id)
            .finish_non_exhaustive()
    }
}

/// What a [`SecretSource`] answers with.
pub type SecretFuture<'a> = Pin<Box<dyn Future<Output = Result<DatabaseSecret, SecretError>> + Send + 'a>>;

/// Fetches the current version of a secret, anew on every call. [`SecretCache`] calls it rarely and never twice at a
/// time for one secret.
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// Fetches the version that carries the stage AWSCURRENT.
    fn fetch<'a>(&'a self, key: &'a SecretKey) -> SecretFuture<'a>;
}

/// Why there is no secret, sorted by what one does about it. The texts hold nothing of its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// There are no credentials to ask with.
    #[error("secret {arn} cannot be read: {error}")]
    Credentials {
        /// The secret.
        arn: String,
        /// Why not.
        error: TokenError,
    },
    /// Secrets Manager said no.
    #[error("Secrets Manager refuses secret {arn}: {reason}")]
    Refused {
        /// The secret.
        arn: String,
        /// Its words.
        reason: String,
    },
    /// No answer, or none that can be read.
    #[error("Secrets Manager cannot be asked for secret {arn}: {reason}")]
    Unavailable {
        /// The secret.
        arn: String,
        /// What happened.
        reason: String,
    },
    /// The secret is there and is not what RDS makes of them.
    #[error("secret {arn} holds no user name and password: {reason}")]
    Malformed {
        /// The secret.
        arn: String,
        /// What is missing.
        reason: &'static str,
    },
}

impl SecretError {
    /// Whether the same question may have another answer later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Credentials { error, .. } => error.is_transient(),
            Self::Unavailable { .. } => true,
            Self::Refused { .. } | Self::Malformed { .. } => false,
        }
    }

    /// A short name of the cause, for metric labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Credentials { .. } => "credentials",
            Self::Refused { .. } => "refused",
            Self::Unavailable { .. } => "unavailable",
            Self::Malformed { .. } => "malformed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printable_holds_the_password() {
        let password = Zeroizing::new("hunter2".to_owned());
        let secret = DatabaseSecret::new("app".to_owned(), password, "v1".to_owned());
        let text = format!("{secret:?} {secret:#?}");
        assert!(text.contains("app") && text.contains("v1") && !text.contains("hunter2"), "{text}");
    }
}
