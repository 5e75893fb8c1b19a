//! Causes on AWS's side: credentials, identities and clocks.

use super::{Case, ROLE};
use crate::support::sim::REGION;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rds_sim::CredentialSettings;
use std::net::TcpListener;
use std::time::Duration;

/// IAM002.
#[test]
fn missing_credentials_are_reported_with_the_reason() {
    let report = Case::without_key().report();
    report.expect_failure_with_token("credentials", "IAM002", &["no AWS credentials", "AWS_ACCESS_KEY_ID"]);
    let file =
        Case::without_key().env("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token").env("AWS_ROLE_ARN", ROLE);
    let report = file.env("AWS_REGION", REGION).report();
    report.expect_failure_with_token("credentials", "IAM002", &["/nowhere/token", "cannot be read"]);
    // A service account token that was not renewed.
    let case = Case::without_key();
    case.sts.set(|settings| settings.web_identity_token = Some("another".to_owned()));
    let expired = URL_SAFE_NO_PAD.encode(br#"{"exp":1700000000}"#);
    let path = case.sim.dir().join("service-account");
    std::fs::write(&path, format!("head.{expired}.signature")).unwrap();
    let case = case.env("AWS_WEB_IDENTITY_TOKEN_FILE", path.to_str().unwrap()).env("AWS_ROLE_ARN", ROLE);
    case.report().expect_failure_with_token("credentials", "IAM016", &["service-account", "ended "]);
}

/// IAM021.
#[test]
fn an_unintended_identity_is_noticed() {
    let case = Case::new().env("AWS_ROLE_ARN", ROLE);
    case.report().expect_warning("identity", "IAM021", &[ROLE, "by role rds-sim-role"]);
}

/// IAM009.
#[test]
fn credentials_about_to_expire_are_reported() {
    let case = Case::without_key();
    let life = Duration::from_secs(300);
    let endpoint = case.sim.credentials(CredentialSettings { life, ..Default::default() });
    let file = case.sim.dir().join("authorization");
    std::fs::write(&file, CredentialSettings::default().authorization).unwrap();
    let case = case.env_all(endpoint.container_environment(&file));
    let report = case.report();
    report.expect_warning("credentials", "IAM009", &["from container", "expire in 2", "expires with them"]);
    endpoint.set(|settings| settings.life = Duration::from_secs(20));
    case.report().expect_warning("credentials", "IAM009", &["expires with them"]);
}

#[test]
fn expired_credentials_of_an_instance_are_reported() {
    let case = Case::without_key();
    let issue_ended = Some(Duration::from_secs(600));
    let endpoint =
        case.sim.credentials(CredentialSettings { issue_ended, reissue: false, ..Default::default() });
    let case = case.env("AWS_EC2_METADATA_DISABLED", "false").env_all(endpoint.imds_environment());
    case.report().expect_failure_with_token("credentials", "IAM009", &["instance metadata", "expired"]);
}

/// IAM013.
#[test]
fn a_clock_that_is_an_hour_off_is_diagnosed() {
    for (seconds, words) in [(3600, "behind AWS's"), (-3600, "ahead of AWS's")] {
        let case = Case::new();
        case.sim.simulator.clock().advance(seconds);
        let report = case.report();
        assert_eq!(report.ids("failure"), ["clock", "login"], "{:#}", report.value);
        for check in ["clock", "login"] {
            report.expect_words(check, "IAM013", &[words, "Synchronise the clock"]);
        }
    }
}

/// IAM021, in Kubernetes.
#[test]
fn the_identity_of_the_node_instead_of_the_pod_is_noticed() {
    let case = Case::new().env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    case.sts.set(|settings| settings.caller_session = "i-0123456789abcdef0".to_owned());
    let parts = ["i-0123456789abcdef0", "eks.amazonaws.com/role-arn"];
    case.report().expect_warning("identity", "IAM021", &parts);
}

/// IAM015.
#[test]
fn an_unresponsive_metadata_service_in_a_container_is_reported() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let case = Case::without_key();
    let case =
        case.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let report = case.report();
    let parts = ["takes connections and does not answer", "http-put-response-hop-limit"];
    report.expect_failure_with_token("credentials", "IAM015", &parts);
}

#[test]
fn an_instance_without_a_role_is_reported() {
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
    let report = case.line(line).report();
    report.expect_failure_with_token("credentials", "IAM016", &[ROLE, "trust policy"]);
}

#[test]
fn an_unreachable_container_endpoint_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let case = Case::without_key()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/credentials")
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let parts = ["127.0.0.1:1 (AWS_CONTAINER_CREDENTIALS_FULL_URI)"];
    case.report().expect_failure_with_token("credentials", "IAM015", &parts);
}
