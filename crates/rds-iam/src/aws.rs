//! Credentials from every source the AWS SDK supports.
//!
//! Owns: one SDK provider per identity, built on first use: environment, profiles (including SSO and
//! `credential_process`), web identity, container endpoints (ECS, EKS Pod Identity), instance metadata, and a
//! role assumed with any of them.
//! Never: caches what they return ([`CredentialCache`](crate::CredentialCache) does), or loads anything for
//! an identity that was not requested.

use std::error::Error;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::SystemTime;

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use tokio::sync::OnceCell;

use crate::credentials::{CredentialError, CredentialFuture, CredentialSource, Identity};
use crate::fetch_fault::{cause_of, wrong_clock, wrong_clock_of};
use crate::http_client;
use crate::http_record::HttpRecord;
use crate::instance::KnownExpiries;
use crate::slots::Slots;

/// Maximum number of identities with a provider.
const MAX_PROVIDERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Maximum length of a reason, in characters: SDK errors quote server responses.
const MAX_REASON_CHARS: usize = 800;
/// Maximum depth of an error chain.
const MAX_CAUSES: usize = 12;
/// Shown by CloudTrail for roles assumed without an explicit session name.
const DEFAULT_SESSION_NAME: &str = "rds-iam";

/// The AWS SDK as a [`CredentialSource`].
#[derive(Debug)]
pub struct AwsCredentials {
    providers: Slots<Identity, OnceCell<Provider>>,
    expiries: KnownExpiries,
}

/// The SDK's provider of one identity, and what its endpoints answered.
#[derive(Debug)]
struct Provider {
    credentials: SharedCredentialsProvider,
    record: HttpRecord,
}

impl AwsCredentials {
    /// A source that has not loaded anything yet.
    pub fn new() -> Self {
        Self { providers: Slots::new(MAX_PROVIDERS), expiries: KnownExpiries::default() }
    }

    /// Like `new`, as an argument for [`TokenEngine::new`](crate::TokenEngine::new).
    pub fn shared() -> Arc<dyn CredentialSource> {
        Arc::new(Self::new())
    }
}

impl Default for AwsCredentials {
    fn default() -> Self {
        Self::new()
    }
}

impl CredentialSource for AwsCredentials {
    fn fetch<'a>(&'a self, identity: &'a Identity) -> CredentialFuture<'a> {
        Box::pin(async move {
            let cell = self.providers.get(identity);
            let Provider { credentials, record } = cell.get_or_try_init(|| load_provider(identity)).await?;
            record.clear();
            let fetched = credentials.provide_credentials().await;
            let credentials = fetched.map_err(|error| {
                let variables = |name: &str| std::env::var(name).ok();
                cause_of(&error, &record.noted(), &variables, identity.profile.is_none())
            })?;
            let noted = record.noted();
            // With a wrong clock nothing can be said about expiry.
            let corrected = self.expiries.correct(credentials, SystemTime::now()).await;
            let credentials = corrected.map_err(|error| wrong_clock(&noted).unwrap_or(error))?;
            match wrong_clock_of(&credentials, &noted, SystemTime::now()) {
                Some(wrong_clock) => Err(wrong_clock),
                None => Ok(credentials),
            }
        })
    }
}

async fn load_provider(identity: &Identity) -> Result<Provider, CredentialError> {
    let record = HttpRecord::default();
    let config = loader(identity).http_client(record.client()).load().await;
    let base = match &identity.profile {
        Some(profile) => profile_provider(profile, &config, &record),
        None => config.credentials_provider().ok_or_else(|| CredentialError::NotFound {
            reason: "the AWS SDK offers no credential source".to_owned(),
        })?,
    };
    let Some(role_arn) = &identity.role_arn else {
        return Ok(Provider { credentials: base, record });
    };
    let session_name = identity.session_name.as_deref().unwrap_or(DEFAULT_SESSION_NAME);
    let mut role =
        AssumeRoleProvider::builder(role_arn.as_str()).configure(&config).session_name(session_name);
    if let Some(external_id) = &identity.external_id {
        role = role.external_id(external_id.as_str());
    }
    let credentials = SharedCredentialsProvider::new(role.build_from_provider(base).await);
    Ok(Provider { credentials, record })
}

pub(crate) async fn load_config(identity: &Identity) -> SdkConfig {
    loader(identity).load().await
}

fn loader(identity: &Identity) -> ConfigLoader {
    let mut of_profile = ProfileFileRegionProvider::builder();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http_client::new());
    if let Some(profile) = &identity.profile {
        of_profile = of_profile.profile_name(profile);
        loader = loader.profile_name(profile);
    }
    // Only STS needs this region; the database's is in the token request. The STS region of the identity precedes the
    // metadata service, which is asked last: outside EC2 that only delays the start.
    let of_identity = identity.sts_region.as_ref().map(|region| aws_config::Region::new(region.to_string()));
    loader.region(
        RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(of_profile.build())
            .or_else(of_identity)
            .or_else(ImdsRegionProvider::builder().build()),
    )
}

/// A named profile takes precedence over keys in the environment, unlike in the SDK's default chain.
fn profile_provider(profile: &str, config: &SdkConfig, record: &HttpRecord) -> SharedCredentialsProvider {
    let provider_config = ProviderConfig::default()
        .with_behavior_version(Some(BehaviorVersion::latest()))
        .with_http_client(record.client())
        .with_region(config.region().cloned());
    let provider =
        ProfileFileCredentialsProvider::builder().configure(&provider_config).profile_name(profile).build();
    SharedCredentialsProvider::new(provider)
}

/// The source of the credentials, for display. The SDK records each step: a role assumed with keys of a
/// profile has two.
pub(crate) fn provider_of(credentials: &Credentials) -> String {
    use AwsCredentialFeature as Step;
    let steps = credentials.get_property::<Vec<Step>>().map(Vec::as_slice).unwrap_or_default();
    let words = steps.iter().filter_map(|step| match step {
        Step::CredentialsEnvVars => Some("environment"),
        Step::CredentialsEnvVarsStsWebIdToken
        | Step::CredentialsStsAssumeRoleWebId
        | Step::CredentialsProfileStsWebIdToken => Some("web identity"),
        Step::CredentialsStsAssumeRole => Some("assumed role"),
        Step::CredentialsProfile
        | Step::CredentialsProfileSourceProfile
        | Step::CredentialsProfileNamedProvider => Some("profile"),
        Step::CredentialsSso | Step::CredentialsProfileSso => Some("SSO"),
        Step::CredentialsProcess | Step::CredentialsProfileProcess => Some("process"),
        Step::CredentialsHttp => Some("container"),
        Step::CredentialsImds => Some("instance metadata"),
        _ => None,
    });
    let mut found: Vec<&str> = Vec::new();
    for word in words {
        if !found.contains(&word) {
            found.push(word);
        }
    }
    if found.is_empty() { "code".to_owned() } else { found.join(", ") }
}

/// Copies the recorded source from `before` if it has the same key and the new copy has none: while metadata
/// is unreachable, the SDK returns cached credentials without their source.
pub(crate) fn keep_origin(credentials: &mut Credentials, before: Option<&Credentials>) {
    let known = before.and_then(|before| before.get_property::<Vec<AwsCredentialFeature>>());
    let steps = credentials.get_property_mut_or_default::<Vec<AwsCredentialFeature>>();
    if let Some(known) = known.filter(|_| steps.is_empty()) {
        steps.clone_from(known);
    }
}

/// The chain of causes in one line. Uses `Display` only: the errors' `Debug` output contains whole responses,
/// including keys.
pub(crate) fn reason_of(error: &dyn Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut cause = Some(error);
    while let Some(current) = cause {
        let text = current.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        cause = current.source().filter(|_| parts.len() < MAX_CAUSES);
    }
    parts.join(": ").chars().filter(|c| !c.is_control()).take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_credential_types::provider::error::CredentialsError;

    #[test]
    fn reasons_are_one_bounded_line() {
        let reason = reason_of(&CredentialsError::provider_error("a\nb".repeat(2000)));
        assert!(reason.chars().count() <= MAX_REASON_CHARS && !reason.contains('\n'));
    }
}
