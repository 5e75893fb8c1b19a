//! Causes of missing or rejected credentials and secrets, and specific advice. Owns this mapping for the log, for
//! clients and for `doctor`, so that all of them name the same cause.

use crate::login_failure::LoginFailure;
use rds_iam::secrets::SecretError;
use rds_iam::{CallerError, TokenError};

/// Error codes of AWS for an unknown key, or for a secret that does not match the key.
const UNKNOWN_KEY: [&str; 4] =
    ["InvalidClientTokenId", "UnrecognizedClient", "SignatureDoesNotMatch", "InvalidSignature"];
/// Error codes of AWS for expired credentials.
const EXPIRED_KEY: [&str; 2] = ["ExpiredToken", "RequestExpired"];

/// The cause of a missing token.
pub fn failure_of(error: &TokenError) -> LoginFailure {
    match error.label() {
        "unknown_region" => LoginFailure::MissingRegion,
        "no_credentials" => LoginFailure::NoCredentials,
        "misconfigured" => LoginFailure::Configuration,
        "refused" => LoginFailure::RoleRefused,
        "expired_credentials" => LoginFailure::CredentialsEnding,
        "clock_skew" => LoginFailure::ClockSkew,
        "unavailable" => LoginFailure::MetadataUnreachable,
        _ => LoginFailure::BrokenToken,
    }
}

/// Specific advice, if the general advice would be misleading.
pub fn advice_of(error: &TokenError) -> Option<String> {
    match error {
        TokenError::UnreadableFile { reason, .. } => Some(format!("{reason}. {}.", error.remedy())),
        TokenError::MetadataSilent { .. } => Some(format!("{}.", error.remedy())),
        TokenError::ClockSkew { reason, .. } => {
            let mut reason = reason.clone();
            if let Some(first) = reason.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            Some(format!("{reason}. {}", LoginFailure::ClockSkew.info().fix))
        }
        _ => None,
    }
}

/// The hint: what to do, and the number of the cause.
pub fn hint_of(error: &TokenError) -> String {
    let cause = failure_of(error);
    advice_of(error).map_or_else(|| cause.hint(None), |advice| with_number(&advice, cause))
}

/// Advice as a hint, with the number of its cause.
pub fn with_number(advice: &str, cause: LoginFailure) -> String {
    format!("{advice} [{}]", cause.info().id)
}

/// The cause of a missing secret.
pub fn failure_of_secret(error: &SecretError) -> LoginFailure {
    match error {
        SecretError::Credentials { error, .. } => failure_of(error),
        SecretError::Refused { reason, .. } => {
            cause_of_refused_key(reason).unwrap_or(LoginFailure::SecretRefused)
        }
        SecretError::Malformed { .. } => LoginFailure::SecretMalformed,
        _ => LoginFailure::SecretsUnreachable,
    }
}

/// Specific advice, if the general advice would be misleading.
pub fn advice_of_secret(error: &SecretError) -> Option<String> {
    match error {
        SecretError::Credentials { error, .. } => advice_of(error),
        _ => None,
    }
}

/// The cause, if AWS does not identify the caller because of its credentials.
pub fn cause_of_caller(error: &CallerError) -> Option<LoginFailure> {
    match error {
        CallerError::Refused(reason) => cause_of_refused_key(reason),
        _ => None,
    }
}

/// The text for a key that AWS does not accept.
pub fn text_of_refused_key(access_key_id: &str) -> String {
    format!("AWS does not accept the credentials of key {access_key_id} for anything.")
}

fn cause_of_refused_key(reason: &str) -> Option<LoginFailure> {
    let names = |codes: &[&str]| codes.iter().any(|code| reason.contains(code));
    if names(&EXPIRED_KEY) {
        return Some(LoginFailure::CredentialsEnding);
    }
    names(&UNKNOWN_KEY).then_some(LoginFailure::NoCredentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> String {
        "default".to_owned()
    }

    #[test]
    fn a_hint_about_a_missing_file_names_the_file() {
        let reason = "AWS_WEB_IDENTITY_TOKEN_FILE names /nowhere, which cannot be read: gone".to_owned();
        let hint = hint_of(&TokenError::UnreadableFile { identity: identity(), reason });
        assert!(hint.contains("/nowhere") && hint.ends_with("[IAM002]") && !hint.contains("role"), "{hint}");
    }

    #[test]
    fn only_a_silent_metadata_service_advises_the_hop_limit() {
        let silent = hint_of(&TokenError::MetadataSilent { identity: identity(), reason: String::new() });
        let other = hint_of(&TokenError::Unavailable { identity: identity(), reason: String::new() });
        assert!(silent.contains("hop-limit") && silent.ends_with("[IAM015]"), "{silent}");
        assert!(!other.contains("hop") && other.ends_with("[IAM015]"), "{other}");
    }

    #[test]
    fn a_wrong_clock_has_its_own_cause() {
        let reason = "this machine's clock is 4200 s ahead of AWS's".to_owned();
        let hint = hint_of(&TokenError::ClockSkew { identity: identity(), reason });
        assert!(
            hint.starts_with("This machine's clock is 4200 s ahead") && hint.ends_with("[IAM013]"),
            "{hint}"
        );
    }

    #[test]
    fn a_secret_refused_because_of_the_key_names_the_key() {
        let refused = |reason: &str| {
            let error = SecretError::Refused { arn: "arn".to_owned(), reason: reason.to_owned() };
            failure_of_secret(&error)
        };
        assert_eq!(refused("UnrecognizedClientException: the token is invalid"), LoginFailure::NoCredentials);
        assert_eq!(refused("ExpiredTokenException: the token is expired"), LoginFailure::CredentialsEnding);
        assert_eq!(refused("AccessDeniedException: not authorized"), LoginFailure::SecretRefused);
    }
}
