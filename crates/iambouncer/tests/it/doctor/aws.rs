//! Credentials, identities and clocks that are in the way.

use super::{Case, ROLE};
use crate::support::sim::REGION;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rds_sim::CredentialSettings;
use std::net::TcpListener;
use std::time::Duration;

/// IAM002.
#[test]
fn no_credentials_are_told_with_the_reason_of_their_place() {
    let found = Case::without_key().report();
    found.expect_failure_with_token("credentials", "IAM002", &["no AWS credentials", "AWS_ACCESS_KEY_ID"]);
    let file =
        Case::without_key().env("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token").env("AWS_ROLE_ARN", ROLE);
    let found = file.env("AWS_REGION", REGION).report();
    found.expect_failure_with_token("credentials", "IAM002", &["/nowhere/token", "cannot be read"]);
    // A service account's token that nobody has renewed.
    let case = Case::without_key();
    case.sts.set(|settings| settings.web_identity_token = Some("another".to_owned()));
    let ended = URL_SAFE_NO_PAD.encode(br#"{"exp":1700000000}"#);
    let path = case.sim.dir().join("service-account");
    std::fs::write(&path, format!("head.{ended}.signature")).unwrap();
    let case = case.env("AWS_WEB_IDENTITY_TOKEN_FILE", path.to_str().unwrap()).env("AWS_ROLE_ARN", ROLE);
    case.report().expect_failure_with_token("credentials", "IAM016", &["service-account", "ended "]);
}

/// IAM021.
#[test]
fn another_identity_than_the_one_that_was_meant_is_noticed() {
    let case = Case::new().env("AWS_ROLE_ARN", ROLE);
    case.report().expect_warning("identity", "IAM021", &[ROLE, "by role rds-sim-role"]);
}

/// IAM009.
#[test]
fn credentials_about_to_end_are_told() {
    let case = Case::without_key();
    let life = Duration::from_secs(300);
    let endpoint = case.sim.credentials(CredentialSettings { life, ..Default::default() });
    let file = case.sim.dir().join("authorization");
    std::fs::write(&file, CredentialSettings::default().authorization).unwrap();
    let case = case.env_all(endpoint.container_environment(&file));
    let found = case.report();
    found.expect_warning("credentials", "IAM009", &["from container", "expire in 2", "expires with them"]);
    endpoint.set(|settings| settings.life = Duration::from_secs(20));
    case.report().expect_warning("credentials", "IAM009", &["expires with them"]);
}

#[test]
fn an_instance_whose_credentials_have_ended_is_told() {
    let case = Case::without_key();
    let issue_ended = Some(Duration::from_secs(600));
    let endpoint =
        case.sim.credentials(CredentialSettings { issue_ended, reissue: false, ..Default::default() });
    let case = case.env("AWS_EC2_METADATA_DISABLED", "false").env_all(endpoint.imds_environment());
    case.report().expect_failure_with_token("credentials", "IAM009", &["instance metadata", "expired"]);
}

/// IAM013.
#[test]
fn a_clock_that_is_an_hour_off_is_the_cause() {
    for (seconds, words) in [(3600, "behind AWS's"), (-3600, "ahead of AWS's")] {
        let case = Case::new();
        case.sim.simulator.clock().advance(seconds);
        let found = case.report();
        assert_eq!(found.ids("failure"), ["clock", "login"], "{:#}", found.value);
        for check in ["clock", "login"] {
            found.expect_words(check, "IAM013", &[words, "Synchronize the clock"]);
        }
    }
}

/// IAM021, in Kubernetes.
#[test]
fn the_node_in_place_of_the_pod_is_noticed() {
    let case = Case::new().env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    case.sts.set(|settings| settings.caller_session = "i-0123456789abcdef0".to_owned());
    let parts = ["i-0123456789abcdef0", "eks.amazonaws.com/role-arn"];
    case.report().expect_warning("identity", "IAM021", &parts);
}

/// IAM015.
#[test]
fn metadata_that_does_not_answer_in_a_container_is_told() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let case = Case::without_key();
    let case =
        case.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let found = case.report();
    let parts = ["takes connections and does not answer", "http-put-response-hop-limit"];
    found.expect_failure_with_token("credentials", "IAM015", &parts);
}

#[test]
fn an_instance_without_a_role_is_told() {
    let case = Case::without_key();
    let settings = CredentialSettings { role_name: String::new(), ..Default::default() };
    let endpoint = case.sim.credentials(settings);
    let case = case.env("AWS_EC2_METADATA_DISABLED", "false").env_all(endpoint.imds_environment());
    case.report().expect_failure_with_token("credentials", "IAM002", &["without a role (instance profile)"]);
}

/// IAM016.
#[test]
fn a_role_that_may_not_be_assumed_is_named() {
    let case = Case::new();
    case.sts.set(|settings| settings.deny = true);
    let line = format!("{} aws_role_arn={ROLE}", case.line);
    let found = case.line(line).report();
    found.expect_failure_with_token("credentials", "IAM016", &[ROLE, "trust policy"]);
}

#[test]
fn a_container_that_is_named_and_does_not_answer_is_told_by_name() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let case = Case::without_key()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/credentials")
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let parts = ["127.0.0.1:1 (AWS_CONTAINER_CREDENTIALS_FULL_URI)"];
    case.report().expect_failure_with_token("credentials", "IAM015", &parts);
}
