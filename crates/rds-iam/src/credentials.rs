//! Who signs: identities, and the seam behind which credentials come from.
//!
//! Owns: [`Identity`], the [`CredentialSource`] trait and its errors.
//! Never: caches (see `cache`) or knows AWS endpoints (see `aws`).

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use aws_credential_types::Credentials;

use crate::region::Region;

/// Which AWS identity signs. The default is whatever the environment offers: the SDK's usual chain.
///
/// Two are equal if they are the same to AWS, whatever STS would be asked: credentials are fetched once for both.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// A profile of the shared AWS configuration files. Given one, the environment's keys are not looked at.
    pub profile: Option<String>,
    /// A role to assume with the credentials found, as ARN.
    pub role_arn: Option<String>,
    /// The external id that the role's trust policy asks for.
    pub external_id: Option<String>,
    /// The session name that CloudTrail shows for the assumed role.
    pub session_name: Option<String>,
    /// The region whose STS is asked when neither environment nor profile names one. Of several equal identities, the
    /// first one's counts.
    pub sts_region: Option<Region>,
}

impl Identity {
    fn who(&self) -> [&Option<String>; 4] {
        let Self { profile, role_arn, external_id, session_name, sts_region: _ } = self;
        [profile, role_arn, external_id, session_name]
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.who() == other.who()
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.who().hash(state);
    }
}

impl fmt::Display for Identity {
    /// One line for logs and consoles: `profile=… role=…`, or `default`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.profile, &self.role_arn) {
            (None, None) => f.write_str("default"),
            (Some(profile), None) => write!(f, "profile={profile}"),
            (None, Some(role)) => write!(f, "role={role}"),
            (Some(profile), Some(role)) => write!(f, "profile={profile} role={role}"),
        }
    }
}

/// What a [`CredentialSource`] answers with.
pub type CredentialFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Credentials, CredentialError>> + Send + 'a>>;

/// Fetches credentials, anew on every call. [`CredentialCache`](crate::CredentialCache) calls it rarely and
/// never twice at a time for one identity.
pub trait CredentialSource: fmt::Debug + Send + Sync {
    /// Fetches credentials for `identity`.
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CredentialFuture<'a>;
}

/// What a fetch comes to. The SDK panics on some answers that are no good – a role's name that is no path – and that is
/// a failure like others: counted, and not tried again at once.
pub(crate) async fn outcome_of(mut fetch: CredentialFuture<'_>) -> Result<Credentials, CredentialError> {
    poll_fn(move |context| {
        let polled = catch_unwind(AssertUnwindSafe(|| fetch.as_mut().poll(context)));
        // The message is on its way to stderr; it may quote anything, so it goes nowhere else.
        let reason = || "the AWS SDK gave up on an answer that it did not expect".to_owned();
        polled.unwrap_or_else(|_panic| Poll::Ready(Err(CredentialError::Unavailable { reason: reason() })))
    })
    .await
}

/// Why there are no credentials, sorted by what one does about it. The texts hold no secrets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// No source had any.
    #[error("no AWS credentials found: {reason}")]
    NotFound {
        /// What was tried.
        reason: String,
    },
    /// A source is set up wrongly.
    #[error("the AWS credential configuration is wrong: {reason}")]
    Misconfigured {
        /// What is wrong.
        reason: String,
    },
    /// AWS answered no.
    #[error("AWS refused to hand out credentials: {reason}")]
    Refused {
        /// AWS's answer.
        reason: String,
    },
    /// A source could not be reached, answered nonsense or took too long.
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
        /// The system's words.
        reason: String,
    },
    /// The metadata service of an instance takes connections and does not answer.
    #[error(
        "the metadata service takes connections and does not answer, and no other source has credentials"
    )]
    MetadataSilent,
    /// This machine's clock is wrong: AWS refuses what it dates, or its credentials seem to have expired.
    #[error("{}", clock_text(*.seconds_ahead))]
    ClockSkew {
        /// By how many seconds it is ahead of AWS's, where an answer had a date.
        seconds_ahead: Option<i64>,
    },
    /// A source handed out credentials that have expired.
    #[error(
        "the AWS credentials that the source hands out have expired (key {access_key_id}): \
         a stale cache, instance metadata that no longer refreshes, or a wrong clock"
    )]
    Ended {
        /// The key they belong to.
        access_key_id: String,
    },
}

impl CredentialError {
    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Ended { .. } | Self::MetadataSilent | Self::ClockSkew { .. } => {
                true
            }
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
    fn identity_reads_well() {
        let mut identity = Identity::default();
        assert_eq!(identity.to_string(), "default");
        identity.role_arn = Some("arn:aws:iam::1:role/x".into());
        assert_eq!(identity.to_string(), "role=arn:aws:iam::1:role/x");
        identity.profile = Some("prod".into());
        assert_eq!(identity.to_string(), "profile=prod role=arn:aws:iam::1:role/x");
    }
}
