//! The caller's AWS identity and AWS's clock: one `sts:GetCallerIdentity`, which requires no permission.
//!
//! Owns: the call and the comparison of the clocks, which also works if the call is refused (a wrong clock is
//! one reason for a refusal).
//! Never: caches; callers ask rarely.

use std::error::Error;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_sts::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{ConfigBag, Intercept, RuntimeComponents, SharedCredentialsProvider};
use aws_sdk_sts::error::BoxError;

use crate::aws::{load_config, reason_of};
use crate::clock::{Clock, seconds_ahead};
use crate::credentials::Identity;
use crate::http_record::date_of;
use crate::slots::lock;

/// Time limit of a call, including retries.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// An identity as reported by AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The ARN; for a role, that of the session.
    pub arn: String,
    /// The account.
    pub account: String,
}

/// The result of [`ask_caller`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerAnswer {
    /// The identity, or the error.
    pub caller: Result<Caller, CallerError>,
    /// Seconds by which the local clock is ahead of AWS's; `None` without a response.
    pub clock_skew_seconds: Option<i64>,
}

/// Why AWS did not report an identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallerError {
    /// No region is configured.
    #[error("no region is configured for STS: set AWS_REGION")]
    NoRegion,
    /// STS refused the credentials.
    #[error("STS refuses the credentials: {0}")]
    Refused(String),
    /// No response, or an unreadable one.
    #[error("the request to STS failed: {0}")]
    Unavailable(String),
}

/// Asks STS for the identity of `credentials`. Endpoint and region are those of the identity's configuration.
pub async fn ask_caller(identity: &Identity, credentials: &Credentials, clock: &dyn Clock) -> CallerAnswer {
    let shared = load_config(identity).await;
    if shared.region().is_none() {
        return CallerAnswer { caller: Err(CallerError::NoRegion), clock_skew_seconds: None };
    }
    let date = DateReader::default();
    let timeouts = TimeoutConfig::builder()
        .operation_timeout(CALL_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .build();
    let config = aws_sdk_sts::config::Builder::from(&shared)
        .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
        .timeout_config(timeouts)
        .interceptor(date.clone())
        .build();
    let answer = aws_sdk_sts::Client::from_conf(config).get_caller_identity().send().await;
    let caller = match answer {
        Ok(answer) => match (answer.arn, answer.account) {
            (Some(arn), Some(account)) => Ok(Caller { arn, account }),
            _ => Err(CallerError::Unavailable("the response contains no identity".to_owned())),
        },
        Err(error) if error.as_service_error().is_some() => Err(CallerError::Refused(text_of(&error))),
        Err(error) => Err(CallerError::Unavailable(text_of(&error))),
    };
    let server_time = *lock(&date.0);
    CallerAnswer { caller, clock_skew_seconds: server_time.map(|remote| seconds_ahead(clock.now(), remote)) }
}

fn text_of(error: &dyn Error) -> String {
    reason_of(error)
}

/// Stores the `Date` header of the last response.
#[derive(Clone, Debug, Default)]
struct DateReader(Arc<Mutex<Option<SystemTime>>>);

impl Intercept for DateReader {
    fn name(&self) -> &'static str {
        "DateReader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(time) = date_of(context.response()) {
            *lock(&self.0) = Some(time);
        }
        Ok(())
    }
}
