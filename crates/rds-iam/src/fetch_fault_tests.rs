//! Which cause is chosen for a failed fetch of credentials.

use super::*;

fn cause(error: &CredentialsError, noted: HttpNotes, variables: &[(&str, &str)]) -> CredentialError {
    let variables =
        |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    cause_of(error, &noted, &variables, true)
}

fn skew(seconds: i64) -> HttpNotes {
    HttpNotes { clock_skew_seconds: Some(seconds), ..HttpNotes::default() }
}

fn refusal(text: &str) -> CredentialsError {
    CredentialsError::provider_error(text.to_owned())
}

#[test]
fn errors_are_sorted_by_what_to_do() {
    let sorted = |error| cause(&error, HttpNotes::default(), &[]);
    assert!(matches!(sorted(CredentialsError::not_loaded("none")), CredentialError::NotFound { .. }));
    let wrong = CredentialsError::invalid_configuration("profile x is not defined");
    assert!(matches!(sorted(wrong), CredentialError::Misconfigured { .. }));
    let refused = sorted(refusal("AccessDenied: not authorized to perform sts:AssumeRole"));
    assert!(matches!(refused, CredentialError::Refused { .. }));
    let gone = sorted(refusal("dispatch failure"));
    assert!(gone.is_transient() && gone.to_string().contains("dispatch failure"));
}

#[test]
fn a_role_on_top_of_a_missing_source_is_a_missing_source() {
    let base = CredentialsError::not_loaded("no providers in chain provided credentials");
    let on_top = CredentialsError::provider_error(base);
    assert!(matches!(cause(&on_top, HttpNotes::default(), &[]), CredentialError::NotFound { .. }));
}

#[test]
fn a_missing_web_identity_file_is_named_with_its_path() {
    let missing = || CredentialsError::provider_error(io::Error::from(io::ErrorKind::NotFound));
    let file = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token");
    let found = cause(&missing(), HttpNotes::default(), &[file]);
    assert!(matches!(&found, CredentialError::UnreadableFile { path, .. } if path == "/nowhere/token"));
    assert!(found.to_string().contains("/nowhere/token") && !found.is_transient(), "{found}");
    // Keys in the environment come first: then an error is about something else.
    let keys = [file, ("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    assert!(matches!(cause(&missing(), HttpNotes::default(), &keys), CredentialError::Unavailable { .. }));
    let refused = CredentialsError::provider_error(io::Error::from(io::ErrorKind::ConnectionRefused));
    assert!(matches!(cause(&refused, HttpNotes::default(), &[file]), CredentialError::Unavailable { .. }));
}

#[test]
fn a_clock_that_is_known_to_be_wrong_is_the_cause_of_a_refused_signature() {
    let refused = refusal("SignatureDoesNotMatch: the request signature we calculated does not match");
    let wrong = CredentialError::ClockSkew { seconds_ahead: Some(4200) };
    assert_eq!(cause(&refused, skew(4200), &[]), wrong);
    assert!(matches!(cause(&refused, skew(20), &[]), CredentialError::Refused { .. }));
    assert!(matches!(cause(&refused, HttpNotes::default(), &[]), CredentialError::Refused { .. }));
    let denied = refusal("AccessDenied: not authorized");
    assert!(matches!(cause(&denied, skew(4200), &[]), CredentialError::Refused { .. }));
}

#[test]
fn a_refusal_about_time_is_the_clock_also_without_a_date() {
    for text in ["SignatureDoesNotMatch: Signature not yet current: 20240115T134456Z", "RequestExpired"] {
        let unknown = CredentialError::ClockSkew { seconds_ahead: None };
        assert_eq!(cause(&refusal(text), HttpNotes::default(), &[]), unknown, "{text}");
        // The answer's date says that the clock is right.
        assert!(!matches!(cause(&refusal(text), skew(2), &[]), CredentialError::ClockSkew { .. }), "{text}");
    }
}

#[test]
fn credentials_that_have_expired_by_a_wrong_clock_only_are_no_expired_credentials() {
    let now = SystemTime::now();
    let ended_ago = |seconds| {
        let end = now - Duration::from_secs(seconds);
        Credentials::new("AKID", "secret", None, Some(end), "test")
    };
    let wrong = Some(CredentialError::ClockSkew { seconds_ahead: Some(4200) });
    assert_eq!(wrong_clock_of(&ended_ago(600), &skew(4200), now), wrong);
    assert_eq!(wrong_clock_of(&ended_ago(4300), &skew(4200), now), None, "by both clocks");
    assert_eq!(wrong_clock_of(&ended_ago(100), &skew(200), now), None, "a clock that AWS accepts");
    assert_eq!(wrong_clock_of(&ended_ago(600), &HttpNotes::default(), now), None);
}

#[test]
fn a_silent_metadata_service_counts_only_where_no_other_source_was_found() {
    let silent = HttpNotes { metadata: Some(Metadata::Silent), ..HttpNotes::default() };
    let nothing = CredentialsError::not_loaded("none");
    assert_eq!(cause(&nothing, silent.clone(), &[]), CredentialError::MetadataSilent);
    assert!(matches!(cause(&refusal("timeout"), silent, &[]), CredentialError::Unavailable { .. }));
}

#[test]
fn a_container_endpoint_that_does_not_answer_is_named_with_its_variable() {
    let asked = |endpoint: &str| HttpNotes { endpoint: Some(endpoint.to_owned()), ..HttpNotes::default() };
    let variables = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/credentials")];
    let found = cause(&refusal("timeout"), asked("127.0.0.1:1"), &variables).to_string();
    assert!(found.contains("127.0.0.1:1 (AWS_CONTAINER_CREDENTIALS_FULL_URI)"), "{found}");
    let found = cause(&refusal("timeout"), asked("sts.amazonaws.com"), &variables).to_string();
    assert!(!found.contains("AWS_CONTAINER"), "{found}");
}
