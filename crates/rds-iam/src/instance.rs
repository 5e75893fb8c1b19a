//! The true end of an instance's credentials.
//!
//! When instance metadata hands out credentials that have ended, the SDK moves their end ten to fifteen minutes into the
//! future ("static stability"), since most services look at nothing but the signature for a while. RDS refuses them and
//! does not say why.
//!
//! Owns: the second look at what metadata itself says, for ends that may be the SDK's invention.
//! Never: asks for anything else of an instance, or for credentials of other sources.

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

/// Where the SDK puts invented ends, after now; a little more on both sides for the time between it and us.
const INVENTED: std::ops::RangeInclusive<Duration> = Duration::from_secs(590)..=Duration::from_secs(910);
/// Longest name of a role, and longest document, that are read, in bytes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// Gives credentials of an instance the end that metadata tells. All others, and those whose end nobody would invent,
/// stay as they are.
pub(crate) async fn with_true_end(
    mut credentials: Credentials,
    now: SystemTime,
) -> Result<Credentials, CredentialError> {
    let is_suspicious = credentials.expiry().is_some_and(|end| INVENTED.contains(&until(now, end)));
    if !is_suspicious || !is_from_instance(&credentials) {
        return Ok(credentials);
    }
    let end = true_end(credentials.access_key_id()).await.map_err(|reason| CredentialError::Unavailable {
        reason: format!("the end of the instance's credentials cannot be checked: {reason}"),
    })?;
    *credentials.expiry_mut() = Some(end);
    Ok(credentials)
}

/// The last step decides: a role assumed with an instance's keys has an end of its own.
fn is_from_instance(credentials: &Credentials) -> bool {
    let steps = credentials.get_property::<Vec<AwsCredentialFeature>>();
    steps.and_then(|steps| steps.last()) == Some(&AwsCredentialFeature::CredentialsImds)
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
