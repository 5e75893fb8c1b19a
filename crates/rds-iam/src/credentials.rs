//! AWS identities, and the trait behind which credentials are fetched.
//!
//! Owns: [`Identity`], the [`CredentialSource`] trait and its errors.
//! Never: caches (see `cache`) or contains AWS endpoints (see `aws`).

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use aws_credential_types::Credentials;

use crate::region::Region;

/// An AWS identity to sign with. The default uses the SDK's usual chain.
///
/// Two identities are equal if they are the same to AWS, whatever their STS region: credentials are fetched
/// once for both.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// A profile of the shared AWS configuration files. If set, keys in the environment are ignored.
    pub profile: Option<String>,
    /// The ARN of a role to assume with those credentials.
    pub role_arn: Option<String>,
    /// The external ID required by the role's trust policy.
    pub external_id: Option<String>,
    /// The session name of the assumed role, shown by CloudTrail.
    pub session_name: Option<String>,
    /// The region for STS if neither environment nor profile sets one. Of several equal identities, the first
    /// one's is used.
    pub sts_region: Option<Region>,
}

impl Identity {
    fn key(&self) -> [&Option<String>; 4] {
        let Self { profile, role_arn, external_id, session_name, sts_region: _ } = self;
        [profile, role_arn, external_id, session_name]
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for Identity {
    /// One line for display: `profile=… role=…`, or `default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.profile, &self.role_arn) {
            (None, None) => f.write_str("default"),
            (Some(profile), None) => write!(f, "profile={profile}"),
            (None, Some(role)) => write!(f, "role={role}"),
            (Some(profile), Some(role)) => write!(f, "profile={profile} role={role}"),
        }
    }
}

/// The result of [`CredentialSource::fetch`].
pub type CredentialFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Credentials, CredentialError>> + Send + 'a>>;

/// Fetches credentials, without caching. [`CredentialCache`](crate::CredentialCache) calls it rarely and
/// never concurrently for one identity.
pub trait CredentialSource: fmt::Debug + Send + Sync {
    /// Fetches credentials for `identity`.
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CredentialFuture<'a>;
}

/// The result of a fetch. The SDK panics on some invalid responses (such as a role name that is not a valid
/// path); this makes it an ordinary failure, which is counted and causes backoff.
pub(crate) async fn outcome_of(mut fetch: CredentialFuture<'_>) -> Result<Credentials, CredentialError> {
    poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| fetch.as_mut().poll(context)));
        // The panic message was printed to stderr. It may contain anything, so it is not included here.
        let reason = || "the AWS SDK failed on a response that it did not expect".to_owned();
        polled.unwrap_or_else(|_panic| Poll::Ready(Err(CredentialError::Unavailable { reason: reason() })))
    })
    .await
}

/// Why there are no credentials, classified by remedy. The texts contain no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// No source had credentials.
    #[error("no AWS credentials found: {reason}")]
    NotFound {
        /// What was tried.
        reason: String,
    },
    /// A source is misconfigured.
    #[error("the AWS credential configuration is wrong: {reason}")]
    Misconfigured {
        /// What is wrong.
        reason: String,
    },
    /// AWS refused.
    #[error("AWS refused to hand out credentials: {reason}")]
    Refused {
        /// AWS's response.
        reason: String,
    },
    /// A source could not be reached, returned an invalid response or timed out.
    #[error("AWS credentials could not be fetched: {reason}")]
    Unavailable {
        /// What happened.
        reason: String,
    },
    /// A file that the environment names as the source cannot be read.
    #[error("{variable} names {path}, which cannot be read: {reason}")]
    UnreadableFile {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        reason: String,
    },
    /// The metadata service of an instance accepts connections and does not answer.
    #[error(
        "the metadata service takes connections and does not answer, and no other source has credentials"
    )]
    MetadataSilent,
    /// This machine's clock is wrong: AWS rejects its requests, or credentials seem to have expired on arrival.
    #[error("{}", clock_text(*.seconds_ahead))]
    ClockSkew {
        /// Seconds by which it is ahead of AWS's clock, if an answer had a date.
        seconds_ahead: Option<i64>,
    },
    /// A source returned credentials that have expired.
    #[error(
        "the AWS credentials returned by the source have expired (key {access_key_id}): \
         a stale cache, instance metadata that no longer refreshes, or a wrong clock"
    )]
    Expired {
        /// Their key.
        access_key_id: String,
    },
}

impl CredentialError {
    /// True if the same request may succeed later without any change of configuration.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::Expired { .. }
            | Self::MetadataSilent
            | Self::ClockSkew { .. } => true,
            Self::NotFound { .. }
            | Self::Misconfigured { .. }
            | Self::Refused { .. }
            | Self::UnreadableFile { .. } => false,
        }
    }
}

fn clock_text(seconds_ahead: Option<i64>) -> String {
    match seconds_ahead {
        Some(seconds) => {
            let direction = if seconds > 0 { "ahead of" } else { "behind" };
            format!("this machine's clock is {} s {direction} AWS's", seconds.unsigned_abs())
        }
        None => "AWS refuses the time of this machine's clock".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_displayed_on_one_line() {
        let mut identity = Identity::default();
        assert_eq!(identity.to_string(), "default");
        identity.role_arn = Some("arn:aws:iam::1:role/x".into());
        assert_eq!(identity.to_string(), "role=arn:aws:iam::1:role/x");
        identity.profile = Some("prod".into());
        assert_eq!(identity.to_string(), "profile=prod role=arn:aws:iam::1:role/x");
    }
}
