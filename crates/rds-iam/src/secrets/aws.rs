//! Secrets Manager as a [`SecretSource`].
//!
//! Owns: the one call, `GetSecretValue` for AWSCURRENT, its timeouts and the classification of its errors.
//! Never: caches; [`SecretCache`](super::SecretCache) does.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::config::{Builder, Region, SharedCredentialsProvider};
use aws_sdk_secretsmanager::error::ProvideErrorMetadata as _;
use zeroize::Zeroizing;

use super::document;
use super::{DatabaseSecret, SecretError, SecretFuture, SecretKey, SecretSource};
use crate::aws::{load_config, reason_of};
use crate::cache::CredentialCache;
use crate::error::TokenError;

/// Time limit of a call, including retries: well below the time limit of a login.
const CALL_TIMEOUT: Duration = Duration::from_secs(9);
/// Time limit of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);
/// The stage requested in every call.
const CURRENT: &str = "AWSCURRENT";
/// Codes of transient errors.
const TRANSIENT: [&str; 4] =
    ["InternalServiceError", "InternalServiceErrorException", "ThrottlingException", "ServiceUnavailable"];

/// The AWS SDK as a [`SecretSource`].
#[derive(Debug)]
pub struct AwsSecrets {
    credentials: CredentialCache,
}

impl AwsSecrets {
    /// Requests secrets with credentials of this cache; an argument for
    /// [`SecretCache::new`](super::SecretCache::new).
    pub fn shared(credentials: CredentialCache) -> Arc<dyn SecretSource> {
        Arc::new(Self { credentials })
    }

    async fn read(&self, key: &SecretKey) -> Result<DatabaseSecret, SecretError> {
        let arn = || key.arn.to_string();
        let credentials = self.credentials.get(&key.identity).await.map_err(|error| {
            SecretError::Credentials { arn: arn(), error: TokenError::from_credentials(&key.identity, error) }
        })?;
        let shared = load_config(&key.identity).await;
        let timeouts = TimeoutConfig::builder()
            .operation_timeout(CALL_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .build();
        let config = Builder::from(&shared)
            .region(Region::new(key.arn.region().to_string()))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .timeout_config(timeouts)
            .build();
        let request =
            Client::from_conf(config).get_secret_value().secret_id(key.arn.as_str()).version_stage(CURRENT);
        let answer = request.send().await.map_err(|error| {
            let reason = reason_of(&error);
            let is_transient = error.code().is_none_or(|code| TRANSIENT.contains(&code));
            match error.as_service_error() {
                Some(_) if !is_transient => SecretError::Refused { arn: arn(), reason },
                _ => SecretError::Unavailable { arn: arn(), reason },
            }
        })?;
        if answer.secret_string.is_none() && answer.secret_binary.is_none() {
            // Not a response of Secrets Manager: a proxy in between must have answered.
            let reason = "the response contains no secret".to_owned();
            return Err(SecretError::Unavailable { arn: arn(), reason });
        }
        let text = answer.secret_string.map(Zeroizing::new);
        let malformed = |reason| SecretError::Malformed { arn: arn(), reason };
        let text = text.ok_or_else(|| malformed("it is binary, not text"))?;
        let (username, password) = document::parse(&text).map_err(malformed)?;
        Ok(DatabaseSecret::new(username, password, answer.version_id.unwrap_or_default()))
    }
}

impl SecretSource for AwsSecrets {
    fn fetch<'a>(&'a self, key: &'a SecretKey) -> SecretFuture<'a> {
        Box::pin(self.read(key))
    }
}
