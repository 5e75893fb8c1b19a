//! Why a fetch of credentials failed: one cause, and the first one.
//!
//! Owns: the classification of the SDK's errors, which name neither a missing file nor a wrong clock, by the environment
//! and the responses of the endpoints.
//! Never: makes requests; everything needed is known when the fetch has failed.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;

use crate::aws::reason_of;
use crate::clock::until;
use crate::credentials::CredentialError;
use crate::http_record::{HttpNotes, Metadata, split};
use crate::web_identity;

/// Largest clock difference with which AWS accepts a signature.
const MAX_CLOCK_SKEW_SECONDS: u64 = 300;
/// Variables that name files with tokens, in the order in which the SDK reads them.
const TOKEN_FILES: [&str; 2] = ["AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"];
/// If these are set, the SDK uses them and reads no file.
const ENVIRONMENT_KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
/// URI of a container's endpoint (EKS Pod Identity, ECS Anywhere).
const CONTAINER_URI: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
/// Its path on the fixed host (ECS).
const CONTAINER_PATH: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
const CONTAINER_HOST: &str = "169.254.170.2";
/// Maximum depth of an error chain.
const MAX_CAUSES: usize = 24;

/// The environment of the process; tests pass their own.
pub(crate) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The cause of an error of the SDK. `is_chain` is true if the SDK's default chain of sources was used, not a named profile.
pub(crate) fn cause_of(
    error: &CredentialsError,
    noted: &HttpNotes,
    variables: Variables<'_>,
    is_chain: bool,
) -> CredentialError {
    if is_chain && let Some(unreadable) = unreadable_file(error, variables) {
        return unreadable;
    }
    let sorted = sort(error);
    let reason = sorted.to_string();
    if let Some(seconds_ahead) = refused_time(&reason, noted) {
        return CredentialError::ClockSkew { seconds_ahead };
    }
    match sorted {
        CredentialError::NotFound { reason } => match noted.metadata {
            Some(Metadata::Silent) => CredentialError::MetadataSilent,
            Some(Metadata::NoRole) => CredentialError::NotFound {
                reason: format!("this is an instance without a role (instance profile): {reason}"),
            },
            _ => CredentialError::NotFound { reason },
        },
        CredentialError::Refused { reason } if is_chain => {
            let now = their_time(SystemTime::now(), noted.clock_skew_seconds);
            match web_identity::expired(variables, now) {
                Some(expired) => CredentialError::Refused { reason: format!("{expired}: {reason}") },
                None => CredentialError::Refused { reason },
            }
        }
        CredentialError::Unavailable { reason } => CredentialError::Unavailable {
            reason: match container_endpoint(noted, variables) {
                Some(container) => format!("{container} hands out none: {reason}"),
                None => reason,
            },
        },
        other => other,
    }
}

/// The container's endpoint and the variable that names it, if the last request went there.
fn container_endpoint(noted: &HttpNotes, variables: Variables<'_>) -> Option<String> {
    let endpoint = noted.endpoint.as_deref()?;
    let name = match variables(CONTAINER_URI) {
        Some(uri) if split(&uri).0 == endpoint => CONTAINER_URI,
        _ if endpoint == CONTAINER_HOST && variables(CONTAINER_PATH).is_some() => CONTAINER_PATH,
        _ => return None,
    };
    Some(format!("the endpoint {endpoint} ({name})"))
}

/// The cause of credentials that have expired by this machine's clock but not by the clock of their source.
pub(crate) fn wrong_clock_of(
    credentials: &Credentials,
    noted: &HttpNotes,
    now: SystemTime,
) -> Option<CredentialError> {
    let end = credentials.expiry().filter(|end| *end <= now)?;
    let is_valid_there = until(their_time(now, noted.clock_skew_seconds), end) > Duration::ZERO;
    wrong_clock(noted).filter(|_| is_valid_there)
}

/// The cause, if this machine's clock is wrong by the date of the last response.
pub(crate) fn wrong_clock(noted: &HttpNotes) -> Option<CredentialError> {
    let seconds_ahead = noted.clock_skew_seconds.filter(|skew| is_wrong(*skew))?;
    Some(CredentialError::ClockSkew { seconds_ahead: Some(seconds_ahead) })
}

fn is_wrong(skew_seconds: i64) -> bool {
    skew_seconds.unsigned_abs() > MAX_CLOCK_SKEW_SECONDS
}

/// `now` by the clock of the endpoint that answered.
fn their_time(now: SystemTime, skew_seconds: Option<i64>) -> SystemTime {
    let skew = skew_seconds.unwrap_or_default();
    let distance = Duration::from_secs(skew.unsigned_abs());
    let moved = if skew >= 0 { now.checked_sub(distance) } else { now.checked_add(distance) };
    moved.unwrap_or(now)
}

/// A refusal caused by a wrong clock, with the difference if a response had a date.
fn refused_time(reason: &str, noted: &HttpNotes) -> Option<Option<i64>> {
    // Errors of AWS and TLS that have no other cause.
    const ABOUT_TIME: [&str; 6] = [
        "Signature not yet current",
        "Signature expired",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "RequestInTheFuture",
        "certificate not valid yet",
    ];
    // Errors that may have another cause: considered only if the clock is known to be wrong.
    const PERHAPS: [&str; 4] =
        ["SignatureDoesNotMatch", "InvalidSignatureException", "ExpiredToken", "AuthFailure"];
    let names = |signs: &[&str]| signs.iter().any(|sign| reason.contains(sign));
    match noted.clock_skew_seconds {
        Some(skew) if is_wrong(skew) && (names(&ABOUT_TIME) || names(&PERHAPS)) => Some(Some(skew)),
        Some(_) => None,
        None => names(&ABOUT_TIME).then_some(None),
    }
}

/// The file that an error is about, if the environment names it: the SDK reports the system's error only.
fn unreadable_file(error: &CredentialsError, variables: Variables<'_>) -> Option<CredentialError> {
    if ENVIRONMENT_KEYS.iter().all(|name| variables(name).is_some_and(|value| !value.trim().is_empty())) {
        return None;
    }
    let kind = chain(error).find_map(|cause| cause.downcast_ref::<io::Error>())?.kind();
    TOKEN_FILES.into_iter().find_map(|variable| {
        let path = variables(variable)?;
        let read = File::open(&path).and_then(|mut file| file.read(&mut [0]));
        let unread = read.err().filter(|unread| unread.kind() == kind)?;
        Some(CredentialError::UnreadableFile { variable, path, reason: unread.to_string() })
    })
}

/// Classifies an error by its remedy. If a role is assumed with credentials of another source, that source's error is the
/// first cause.
fn sort(error: &CredentialsError) -> CredentialError {
    let reason = reason_of(error);
    let first = chain(error).filter_map(|cause| cause.downcast_ref::<CredentialsError>()).last();
    match first.unwrap_or(error) {
        CredentialsError::CredentialsNotLoaded(_) => CredentialError::NotFound { reason },
        CredentialsError::InvalidConfiguration(_) => CredentialError::Misconfigured { reason },
        _ if needs_sso_login(&reason) => {
            CredentialError::NotFound { reason: format!("{reason}; run `aws sso login`") }
        }
        _ if is_refusal(&reason) => CredentialError::Refused { reason },
        _ => CredentialError::Unavailable { reason },
    }
}

/// The error and its causes, outermost first.
pub(crate) fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source()).take(MAX_CAUSES)
}

/// True if a reason contains one of the codes with which STS, ECS and IMDS refuse permanently.
fn is_refusal(reason: &str) -> bool {
    const REFUSALS: [&str; 8] = [
        "AccessDenied",
        "InvalidIdentityToken",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "UnrecognizedClient",
        "IDPRejectedClaim",
        "ASSUME_ROLE_UNAUTHORIZED_ACCESS",
    ];
    REFUSALS.iter().any(|code| reason.contains(code))
}

/// True if an Identity Center session is missing or expired: the SDK has an error type for that but does not export it.
fn needs_sso_login(reason: &str) -> bool {
    const SIGNS: [&str; 4] = ["/sso/cache/", "UnauthorizedException", "SSO token", "SSO session"];
    SIGNS.iter().any(|sign| reason.contains(sign))
}

#[cfg(test)]
#[path = "fetch_fault_tests.rs"]
mod tests;
