//! The true end of an instance's credentials.
//!
//! When instance metadata hands out credentials that have ended, the SDK moves their end ten to fifteen minutes into the
//! future ("static stability"), since most services look at nothing but the signature for a while. RDS refuses them and
//! does not say why.
//!
//! Owns: the second look at what metadata itself says, for ends that may be the SDK's invention.
//! Never: asks for anything else of an instance, or for credentials of other sources.

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

/// Where the SDK puts invented ends, after now; a little more on both sides for the time between it and us.
const INVENTED: std::ops::RangeInclusive<Duration> = Duration::from_secs(590)..=Duration::from_secs(910);
/// Longest name of a role, and longest document, that are read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Keys whose ends are remembered: an instance has one role, and a new key every few hours.
const MAX_KNOWN_KEYS: usize = 16;
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// What is known of the keys that instances have handed out here.
#[derive(Debug, Default)]
pub(crate) struct KnownEnds(Mutex<VecDeque<(String, SystemTime)>>);

impl KnownEnds {
    /// Gives credentials of an instance the end that metadata tells. All others, and those whose end nobody would
    /// invent, stay as they are.
    pub(crate) async fn correct(
        &self,
        mut credentials: Credentials,
        now: SystemTime,
    ) -> Result<Credentials, CredentialError> {
        let origin = CredentialOrigin::of(&credentials);
        let Some(told) = credentials.expiry().filter(|_| origin != CredentialOrigin::Other) else {
            return Ok(credentials);
        };
        let key_id = credentials.access_key_id().to_owned();
        let end = match (self.get(&key_id), origin) {
            (Some(known), _) => known.min(told),
            (None, _) if !origin.may_have_invented(until(now, told)) => told,
            _ => true_end(&key_id).await.map_err(|reason| CredentialError::Unavailable {
                reason: format!("the end of the instance's credentials cannot be checked: {reason}"),
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

/// Where credentials come from, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CredentialOrigin {
    /// Instance metadata, just now.
    Instance,
    /// Nothing says so: the SDK remembers an instance's while metadata is away, and forgets to say whose they are.
    Unknown,
    /// Something else. The last step decides: a role assumed with an instance's keys has an end of its own.
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

    /// Whether an end this long after now may be the SDK's. What it remembers was given its end some time ago.
    fn may_have_invented(self, life: Duration) -> bool {
        match self {
            Self::Instance => INVENTED.contains(&life),
            Self::Unknown => life <= *INVENTED.end(),
            Self::Other => false,
        }
    }
}

async fn true_end(access_key_id: &str) -> Result<SystemTime, String> {
    let client = imds::Client::builder().configure(&ProviderConfig::default()).build();
    let get = async |path: String| match client.get(path).await {
        Ok(text) if text.as_ref().len() <= MAX_DOCUMENT_BYTES => Ok(text),
        Ok(_) => Err("the answer is too long".to_owned()),
        Err(error) => Err(reason_of(&error)),
    };
    let role = get(ROLE_PATH.to_owned()).await?;
    let role = role.as_ref().lines().next().unwrap_or_default().trim().to_owned();
    let document = get(format!("{ROLE_PATH}{role}")).await?;
    let document: serde_json::Value =
        serde_json::from_str(document.as_ref()).map_err(|_| "the answer is no JSON".to_owned())?;
    if document["AccessKeyId"] != access_key_id {
        return Err("another key came meanwhile".to_owned());
    }
    let text = document["Expiration"].as_str().ok_or("the answer tells no end")?;
    let end =
        DateTime::from_str(text, Format::DateTime).map_err(|_| "the answer's end is no date".to_owned())?;
    SystemTime::try_from(end).map_err(|_| "the answer's end is no date".to_owned())
}
