//! One cause for each fault of AWS credentials: the log, the client's HINT and `doctor` name the same, and nothing that
//! is said besides contradicts it.

use super::{Case, ROLE, Report};
use crate::support::bouncer::Start;
use crate::support::sim::REGION;
use crate::support::{Bouncer, eventually};
use rds_sim::CredentialSettings;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// This machine's clock is 70 minutes ahead.
const AHEAD_SECONDS: i64 = 4200;
const METADATA: [(&str, &str); 1] = [("AWS_EC2_METADATA_DISABLED", "false")];
/// What is said about a hop limit, and by nothing else.
const HOP_LIMIT: &str = "hop";
/// What is said about a missing policy, and by nothing else.
const POLICY: &str = "rds-db:connect";

impl Case {
    /// A pooler with the same configuration and environment.
    fn pooler(&self) -> Bouncer {
        let settings = self.settings.iter().fold(Start::databases(&self.line), |start, line| start.set(line));
        let variables = self.variables.iter().fold(settings, |start, (key, value)| start.env(key, value));
        variables.set("query_wait_timeout = 8").start()
    }

    fn env_pairs(self, variables: &[(&str, &str)]) -> Self {
        variables.iter().fold(self, |case, (key, value)| case.env(key, value))
    }

    /// A metadata service that is asked, takes connections and does not answer, as in a container behind a hop limit.
    fn silent_metadata(self, silent: &TcpListener) -> Self {
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        self.env_pairs(&METADATA).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint)
    }

    /// A pod whose service account's token is in `file`.
    fn web_identity(self, file: &Path) -> Self {
        let file = file.to_str().unwrap().to_owned();
        self.env_pairs(&[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", &file),
            ("AWS_ROLE_ARN", ROLE),
            ("AWS_REGION", REGION),
        ])
    }

    fn service_account(&self) -> std::path::PathBuf {
        let file = self.sim.dir().join("service-account");
        std::fs::write(&file, "a token of the cluster").unwrap();
        file
    }
}

fn silent_listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// The ids of all causes in a log.
fn causes_in(log: &str) -> Vec<&str> {
    log.split("cause=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

/// Log, HINT and `doctor` name this cause only, in words that hold `parts` and nothing of `never`.
#[track_caller]
fn expect_one_cause(case: &Case, cause: &str, parts: &[&str], never: &[&str]) -> Report {
    let bouncer = case.pooler();
    let (_, text, hint) = bouncer.refused_login("app", "app");
    let line = bouncer.wait_for_line("cause=");
    let log = bouncer.log();
    let found = case.report();
    let report = format!("{:#}", found.value);
    for (place, reported) in [("log", &line), ("client", &format!("{text} {hint}")), ("doctor", &report)] {
        assert!(reported.contains(cause), "{place}: {cause}: {reported}");
        for part in parts {
            assert!(reported.contains(part), "{place}: {part}: {reported}");
        }
    }
    assert!(causes_in(&log).iter().all(|logged| *logged == cause), "{log}");
    for check in found.checks() {
        assert!(check["cause"].is_null() || check["cause"]["id"] == cause, "{check:#}");
    }
    for (place, reported) in [("log", &log), ("client", &(text + &hint)), ("doctor", &report)] {
        for word in never {
            assert!(!reported.contains(word), "{place}: {word}: {reported}");
        }
    }
    found
}

/// The same where no credentials come: `doctor` repeats the HINT word for word.
#[track_caller]
fn expect_no_credentials(case: &Case, cause: &str, parts: &[&str], never: &[&str]) {
    let found = expect_one_cause(case, cause, parts, &[never, &[POLICY]].concat());
    let hint_of = |check: &str| found.check(check)["cause"]["hint"].clone();
    assert_eq!(hint_of("credentials"), hint_of("token"));
    assert_eq!(found.check("token")["status"], "failure", "{:#}", found.value);
}

#[test]
fn a_missing_web_identity_file_is_the_cause_and_not_a_hop_limit() {
    let silent = silent_listener();
    let missing = Path::new("/nowhere/token");
    let case = Case::without_key().web_identity(missing).silent_metadata(&silent);
    let parts = ["AWS_WEB_IDENTITY_TOKEN_FILE names /nowhere/token", "cannot be read"];
    expect_no_credentials(&case, "IAM002", &parts, &[HOP_LIMIT, "IAM015", "Give the pod"]);
    // A directory is there, and no file.
    let case = Case::without_key();
    let directory = case.sim.dir();
    let case = case.web_identity(&directory).silent_metadata(&silent);
    let path = directory.display().to_string();
    expect_no_credentials(&case, "IAM002", &[&path, "cannot be read"], &[HOP_LIMIT, "IAM015"]);
}

#[test]
fn a_missing_file_of_a_pod_identity_is_the_cause_and_not_a_hop_limit() {
    let silent = silent_listener();
    let case = Case::without_key().silent_metadata(&silent).env_pairs(&[
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/v1/credentials"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nowhere/eks-pod-identity-token"),
    ]);
    let parts = ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names /nowhere/eks-pod-identity-token"];
    expect_no_credentials(&case, "IAM002", &parts, &[HOP_LIMIT, "IAM015"]);
}

#[test]
fn a_container_endpoint_that_does_not_answer_is_the_cause_and_not_a_hop_limit() {
    let silent = silent_listener();
    let uri = "http://127.0.0.1:1/credentials";
    let case = Case::without_key().silent_metadata(&silent).env("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri);
    let parts = ["127.0.0.1:1 (AWS_CONTAINER_CREDENTIALS_FULL_URI)", "Check the network path"];
    expect_no_credentials(&case, "IAM015", &parts, &[HOP_LIMIT, "metadata service"]);
}

#[test]
fn an_sts_that_does_not_answer_is_the_cause_and_not_a_hop_limit() {
    let silent = silent_listener();
    let of_a_pod = Case::without_key().silent_metadata(&silent);
    let file = of_a_pod.service_account();
    let of_a_pod = of_a_pod.web_identity(&file);
    // Keys are there, and a role is assumed with them.
    let of_a_role = Case::new().silent_metadata(&silent);
    let line = format!("{} aws_role_arn={ROLE}", of_a_role.line);
    for case in [of_a_pod, of_a_role.line(line)] {
        case.sts.set(|settings| settings.fail_with = Some(500));
        expect_no_credentials(&case, "IAM015", &["could not be fetched"], &[HOP_LIMIT, "metadata service"]);
    }
}

#[test]
fn a_hop_limit_is_the_cause_and_not_a_missing_role() {
    let silent = silent_listener();
    let case = Case::without_key().silent_metadata(&silent);
    let parts = ["takes connections and does not answer", "http-put-response-hop-limit"];
    expect_no_credentials(&case, "IAM015", &parts[1..], &["Give the pod", "IAM002"]);
    let line = format!("{} aws_role_arn={ROLE}", case.line);
    expect_no_credentials(&case.line(line), "IAM015", &parts[1..], &["Give the pod", "IAM002"]);
}

#[test]
fn an_instance_without_a_role_is_the_cause_for_all() {
    let case = Case::without_key();
    let settings = CredentialSettings { role_name: String::new(), ..Default::default() };
    let endpoint = case.sim.credentials(settings);
    let case = case.env_all(endpoint.imds_environment()).env_pairs(&METADATA);
    expect_no_credentials(&case, "IAM002", &["without a role (instance profile)"], &[HOP_LIMIT]);
}

/// Each source of temporary credentials, with a clock 70 minutes ahead of theirs.
fn cases_ahead() -> Vec<(&'static str, Case)> {
    let metadata = Case::without_key();
    let instance = metadata.sim.credentials(CredentialSettings::default());
    let metadata = metadata.env_all(instance.imds_environment()).env_pairs(&METADATA);
    // AWS hands out the same key for hours.
    let same_key = Case::without_key();
    let steady = same_key.sim.credentials(CredentialSettings { reissue: false, ..Default::default() });
    let same_key = same_key.env_all(steady.imds_environment()).env_pairs(&METADATA);
    let container = Case::without_key();
    let pod = container.sim.credentials(CredentialSettings::default());
    let file = container.sim.dir().join("authorization");
    std::fs::write(&file, CredentialSettings::default().authorization).unwrap();
    let container = container.env_all(pod.container_environment(&file));
    let web_identity = Case::without_key();
    let file = web_identity.service_account();
    let web_identity = web_identity.web_identity(&file);
    let role = Case::new();
    let line = format!("{} aws_role_arn={ROLE}", role.line);
    let role = role.line(line);
    // The SDK does not correct what it signs.
    let refused = Case::new();
    let line = format!("{} aws_role_arn={ROLE}", refused.line);
    let refused = refused.line(line).env("AWS_DISABLE_CLOCK_SKEW_CORRECTION", "true");
    let cases = vec![
        ("metadata", metadata.keep(instance)),
        ("metadata, the same key", same_key.keep(steady)),
        ("container", container.keep(pod)),
        ("web identity", web_identity),
        ("role", role),
        ("refused signature", refused),
    ];
    for (_, case) in &cases {
        case.sim.simulator.clock().advance(-AHEAD_SECONDS);
    }
    cases
}

#[test]
fn a_clock_seventy_minutes_ahead_is_the_cause_and_not_the_source_of_credentials() {
    let never = ["IAM009", "IAM015", "IAM016", "Check the network path", "trust policy"];
    std::thread::scope(|scope| {
        for (what, case) in cases_ahead() {
            scope.spawn(move || {
                println!("{what}");
                expect_no_credentials(&case, "IAM013", &["ahead of AWS's", "Synchronise the clock"], &never);
                let found = case.report();
                assert_eq!(found.ids("failure"), ["credentials", "clock", "token"], "{:#}", found.value);
            });
        }
    });
}

#[test]
fn a_request_that_aws_calls_expired_is_a_matter_of_the_clock() {
    let case = Case::new();
    let line = format!("{} aws_role_arn={ROLE}", case.line);
    let case = case.line(line);
    let body = "<ErrorResponse><Error><Code>RequestExpired</Code><Message>Request has expired.</Message></Error>\
                </ErrorResponse>";
    case.sts.set(|settings| settings.answer_with = Some((400, "text/xml", body.to_owned())));
    case.sim.simulator.clock().advance(-AHEAD_SECONDS);
    expect_no_credentials(
        &case,
        "IAM013",
        &["ahead of AWS's"],
        &["IAM015", "IAM016", "Check the network path"],
    );
}

#[test]
fn keys_that_aws_does_not_accept_are_the_cause_and_not_a_missing_policy() {
    let case = Case::new();
    case.sim.simulator.keys().revoke(crate::support::sim::KEY_ID);
    // AWS answers later than the server refuses: the first client receives the same as all others.
    case.sts.set(|settings| settings.delay = Duration::from_millis(100));
    let parts = ["AWS does not accept the credentials of key"];
    let found = expect_one_cause(&case, "IAM002", &parts, &[POLICY, "IAM003"]);
    assert_eq!(found.ids("failure"), ["identity", "login"], "{:#}", found.value);
}

#[test]
fn a_token_refused_after_the_source_has_no_credentials_any_more_lacks_no_policy() {
    let case = Case::without_key();
    let file = case.service_account();
    let case = case.web_identity(&file);
    // Few seconds left: the source is asked again and again.
    case.sts.set(|settings| settings.life = Duration::from_secs(25));
    let bouncer = case.pooler();
    let mut client = bouncer.client();
    client.value("SELECT 1");
    std::fs::remove_file(&file).unwrap();
    eventually("the source has no credentials", || {
        bouncer.console().query("RECONNECT app");
        client.value("SELECT 1");
        bouncer.log().contains("AWS credentials not refreshed")
    });
    case.sts.set(|settings| settings.deny = true);
    case.sim.simulator.faults().set(|faults| faults.refuse_next = u32::MAX);
    bouncer.console().query("RECONNECT app");
    client.send_query("SELECT 1");
    let line = bouncer.wait_for_line("cause=");
    assert!(line.contains("cause=\"IAM002\"") && line.contains(&file.display().to_string()), "{line}");
    assert!(!bouncer.log().contains(POLICY), "{}", bouncer.log());
}
