//! The true expiry of an instance's credentials.
//!
//! If instance metadata returns expired credentials, the SDK moves their expiry ten to fifteen minutes into
//! the future ("static stability"), since most services accept them for a while. RDS refuses them without a
//! reason.
//!
//! Owns: a second request to instance metadata for the original expiry, if the SDK may have changed it.
//! Never: requests anything else from an instance, or handles credentials of other sources.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use aws_config::imds;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::aws::reason_of;
use crate::clock::until;
use crate::credentials::CredentialError;
use crate::slots::lock;

/// The range into which the SDK moves the expiry, relative to now, with some tolerance on both sides.
const EXTENDED: std::ops::RangeInclusive<Duration> = Duration::from_secs(590)..=Duration::from_secs(910);
/// Maximum length of a role name or document, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Number of keys whose expiry is cached: an instance has one role, and a new key every few hours.
const MAX_KNOWN_KEYS: usize = 16;
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// Known expiries of keys of instances.
#[derive(Debug, Default)]
pub(crate) struct KnownExpiries(Mutex<VecDeque<(String, SystemTime)>>);

impl KnownExpiries {
    /// Sets the expiry of an instance's credentials to the one reported by metadata. All others, and those
    /// whose expiry the SDK has not changed, are left as they are.
    pub(crate) async fn correct(
        &self,
        mut credentials: Credentials,
        now: SystemTime,
    ) -> Result<Credentials, CredentialError> {
        let origin = CredentialOrigin::of(&credentials);
        let Some(reported) = credentials.expiry().filter(|_| origin != CredentialOrigin::Other) else {
            return Ok(credentials);
        };
        let key_id = credentials.access_key_id().to_owned();
        let end = match (self.get(&key_id), origin) {
            (Some(known), _) => known.min(reported),
            (None, _) if !origin.may_have_been_extended(until(now, reported)) => reported,
            _ => true_expiry(&key_id).await.map_err(|reason| CredentialError::Unavailable {
                reason: format!("the expiry of the instance's credentials cannot be checked: {reason}"),
            })?,
        };
        self.remember(key_id, end);
        *credentials.expiry_mut() = Some(end);
        Ok(credentials)
    }

    fn get(&self, key_id: &str) -> Option<SystemTime> {
        lock(&self.0).iter().find(|(known, _)| known == key_id).map(|(_, end)| *end)
    }

    fn remember(&self, key_id: String, end: SystemTime) {
        let mut known = lock(&self.0);
        if known.iter().all(|(other, _)| *other != key_id) {
            known.truncate(MAX_KNOWN_KEYS - 1);
            known.push_front((key_id, end));
        }
    }
}

/// The source of credentials, as far as relevant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CredentialOrigin {
    /// Instance metadata, just fetched.
    Instance,
    /// No record: while metadata is unreachable, the SDK returns an instance's cached credentials without their source.
    Unknown,
    /// Another source. The last step decides: a role assumed with an instance's keys has its own expiry.
    Other,
}

impl CredentialOrigin {
    fn of(credentials: &Credentials) -> Self {
        let steps = credentials.get_property::<Vec<AwsCredentialFeature>>();
        match steps.and_then(|steps| steps.last()) {
            Some(AwsCredentialFeature::CredentialsImds) => Self::Instance,
            None => Self::Unknown,
            Some(_) => Self::Other,
        }
    }

    /// True if an expiry this long after now may have been set by the SDK. That of cached credentials was set
    /// some time ago.
    fn may_have_been_extended(self, life: Duration) -> bool {
        match self {
            Self::Instance => EXTENDED.contains(&life),
            Self::Unknown => life <= *EXTENDED.end(),
            Self::Other => false,
        }
    }
}

async fn true_expiry(access_key_id: &str) -> Result<SystemTime, String> {
    let client = imds::Client::builder().configure(&ProviderConfig::default()).build();
    let get = async |path: String| match client.get(path).await {
        Ok(text) if text.as_ref().len() <= MAX_DOCUMENT_BYTES => Ok(text),
        Ok(_) => Err("the response is too long".to_owned()),
        Err(error) => Err(reason_of(&error)),
    };
    let role = get(ROLE_PATH.to_owned()).await?;
    let role = role.as_ref().lines().next().unwrap_or_default().trim().to_owned();
    let document = get(format!("{ROLE_PATH}{role}")).await?;
    let document: serde_json::Value =
        serde_json::from_str(document.as_ref()).map_err(|_| "the response is not JSON".to_owned())?;
    if document["AccessKeyId"] != access_key_id {
        return Err("the key was replaced meanwhile".to_owned());
    }
    let text = document["Expiration"].as_str().ok_or("the response contains no expiry")?;
    let end = DateTime::from_str(text, Format::DateTime)
        .map_err(|_| "the expiry in the response is not a date".to_owned())?;
    SystemTime::try_from(end).map_err(|_| "the expiry in the response is not a date".to_owned())
}
