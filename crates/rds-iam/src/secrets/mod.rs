//! User name and password of a database user from AWS Secrets Manager, in the format of RDS Proxy.
//!
//! Owns: [`SecretArn`], [`DatabaseSecret`], the [`SecretSource`] trait and its errors.
//! Never: writes or rotates a secret, prints one, or uses more of it than user name and password.

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

/// A secret, and the identity that reads it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretKey {
    /// The secret.
    pub arn: SecretArn,
    /// The identity that signs the request.
    pub identity: Identity,
}

/// One version of a secret. Its password is wiped when the last owner drops it.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseSecret {
    /// The database user.
    pub username: String,
    password: Zeroizing<String>,
    /// The version ID of Secrets Manager.
    pub version_id: String,
}

impl DatabaseSecret {
    /// A version of a secret.
    pub fn new(username: String, password: Zeroizing<String>, version_id: String) -> Self {
        Self { username, password, version_id }
    }

    /// The password. For the login only; never print it.
    pub fn expose(&self) -> &str {
        &self.password
    }

    /// True if user and password are equal; another version may have the same.
    pub fn same_login(&self, other: &Self) -> bool {
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

/// The result of [`SecretSource::fetch`].
pub type SecretFuture<'a> = Pin<Box<dyn Future<Output = Result<DatabaseSecret, SecretError>> + Send + 'a>>;

/// Fetches the current version of a secret, without caching. [`SecretCache`] calls it rarely and never
/// concurrently for one secret.
pub trait SecretSource: fmt::Debug + Send + Sync {
    /// Fetches the version with the stage AWSCURRENT.
    fn fetch<'a>(&'a self, key: &'a SecretKey) -> SecretFuture<'a>;
}

/// Why there is no secret, classified by remedy. The texts contain nothing of its value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// There are no credentials for the request.
    #[error("secret {arn} cannot be read: {error}")]
    Credentials {
        /// The secret.
        arn: String,
        /// Why not.
        error: TokenError,
    },
    /// Secrets Manager refused.
    #[error("Secrets Manager refuses secret {arn}: {reason}")]
    Refused {
        /// The secret.
        arn: String,
        /// Its response.
        reason: String,
    },
    /// No response, or an unreadable one.
    #[error("the request to Secrets Manager for secret {arn} failed: {reason}")]
    Unavailable {
        /// The secret.
        arn: String,
        /// What happened.
        reason: String,
    },
    /// The secret exists but does not have the format of RDS.
    #[error("secret {arn} contains no user name and password: {reason}")]
    Malformed {
        /// The secret.
        arn: String,
        /// What is missing.
        reason: &'static str,
    },
}

impl SecretError {
    /// True if the same request may succeed later without any change of configuration.
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
    fn debug_output_does_not_contain_the_password() {
        let password = Zeroizing::new("hunter2".to_owned());
        let secret = DatabaseSecret::new("app".to_owned(), password, "v1".to_owned());
        let text = format!("{secret:?} {secret:#?}");
        assert!(text.contains("app") && text.contains("v1") && !text.contains("hunter2"), "{text}");
    }
}
