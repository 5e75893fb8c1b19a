//! Outages and garbage answers of the sources of credentials and secrets: what clients receive meanwhile,
//! which clients are unaffected, and that no answer is quoted in the log.

use crate::support::bouncer::Start;
use crate::support::raw::Message;
use crate::support::sim::Sim;
use crate::support::{Bouncer, Client, eventually, postgres};
use rds_sim::{CredentialServer, CredentialSettings};

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const ROLE: &str = "/latest/meta-data/iam/security-credentials/rds-sim-role";
const ORDERS: &str = "arn:aws:iam::123456789012:role/orders";
const SECRET_ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/app-AbCdEf";
const HTML: &str = "text/html";
const JSON: &str = "application/json";
const XML: &str = "text/xml";
/// Part of every bad answer, and of nothing else.
const MARK: &str = "portal-of-the-landlord";
/// Limit in bytes of a log line about an answer.
const MAX_LINE_BYTES: usize = 4096;
/// Far more than any valid answer.
const HUGE_BYTES: usize = 10 << 20;
/// Memory limit in KiB of a pooler that has read such an answer: its usual memory and a few copies.
const MAX_MEMORY_KIB: u64 = 128 << 10;

fn with_variables<'a>(start: Start<'a>, variables: Vec<(&'static str, String)>) -> Start<'a> {
    variables.into_iter().fold(start, |start, (key, value)| start.env(key, &value))
}

/// A pod with a service account.
fn pod<'a>(sim: &Sim, endpoint: &CredentialServer, line: &'a str) -> Start<'a> {
    let service_account = sim.dir().join("service-account");
    std::fs::write(&service_account, "a token of the cluster").unwrap();
    with_variables(sim.keyless(line), endpoint.web_identity_environment(&service_account))
}

#[test]
fn clients_get_an_error_while_sts_is_unreachable_at_startup_and_are_served_afterwards() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sim.credentials(CredentialSettings::default());
    endpoint.set(|settings| settings.fail_with = Some(500));
    let line = sim.database();
    let bouncer = pod(&sim, &endpoint, &line).set("query_wait_timeout = 5").start();
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000", "{text}");
    assert!(
        text.starts_with(
            "no IAM token for user \"app\": AWS credentials of identity default could not be fetched: "
        ),
        "{text}"
    );
    // Advice appears in the hint only.
    assert!(!text.contains("Check the network path"), "{text}");
    assert!(hint.starts_with("Check the network path") && hint.ends_with("[IAM015]"), "{hint}");
    assert_eq!(sim.simulator.log().attempts(), []);

    endpoint.set(|settings| settings.fail_with = None);
    // Backoff after the failures may delay the next request by a few seconds.
    eventually("the next client is served", || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.read().is_some_and(|Message { tag, .. }| tag == b'R')
    });
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
    assert_eq!(endpoint.calls().assume_role_with_web_identity, 1);
}

#[test]
fn a_client_that_waits_while_sts_is_unreachable_is_served_when_it_returns() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sim.credentials(CredentialSettings::default());
    endpoint.set(|settings| settings.fail_with = Some(500));
    let line = sim.database();
    let bouncer = pod(&sim, &endpoint, &line).set("query_wait_timeout = 30").start();
    let mut waiting = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    bouncer.wait_for_line("cause=\"IAM015\"");
    assert!(!waiting.has_pending_input());
    endpoint.set(|settings| settings.fail_with = None);
    waiting.until_ready();
    assert_eq!(waiting.value("SELECT 'served'"), "served");
}

#[test]
fn new_logins_and_new_tokens_work_while_sts_is_unreachable() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sim.credentials(CredentialSettings::default());
    let line = sim.database();
    let bouncer = pod(&sim, &endpoint, &line).start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let signed_at = sim.signed_at()[0];
    endpoint.set(|settings| settings.fail_with = Some(500));
    // This token is no longer accepted; a new one needs a later second.
    sim.simulator.faults().set(|faults| faults.expire_signed_until = Some(signed_at));
    eventually("the clock advances", || sim.now() > signed_at);
    bouncer.console().query("RECONNECT app");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    assert!(sim.signed_at()[1] > signed_at, "{:?}", sim.signed_at());
    assert_eq!(endpoint.calls().assume_role_with_web_identity, 1);
    assert!(!bouncer.log().contains("ERROR"), "{}", bouncer.log());
}

/// A bad answer and its description.
struct Bad {
    what: &'static str,
    path: Option<&'static str>,
    status: u16,
    content_type: &'static str,
    body: String,
}

fn bad(what: &'static str, content_type: &'static str, body: &str) -> Bad {
    Bad { what, path: None, status: 200, content_type, body: body.to_owned() }
}

fn page() -> Bad {
    bad("a page", HTML, &format!("<html><title>{MARK}</title>log in</html>"))
}

fn error_page(status: u16) -> Bad {
    Bad { what: "a page with an error", status, ..page() }
}

fn huge(content_type: &'static str) -> Bad {
    let filler = "x".repeat(HUGE_BYTES);
    bad("a huge answer", content_type, &format!("{{\"{MARK}\": \"{filler}\"}}"))
}

/// Starts a pooler per answer, all at the same time: a client is refused with this cause, and neither the
/// client nor the log receives the content of the answer.
fn expect_cause(
    cause: &str,
    part: &str,
    answers: Vec<Bad>,
    start: impl Fn(&Sim, &CredentialServer) -> Bouncer + Sync,
) {
    let start = &start;
    std::thread::scope(|scope| {
        let cases = answers.into_iter().map(|bad| {
            let (what, path) = (bad.what, bad.path.unwrap_or("all paths"));
            let case = scope.spawn(move || {
                let sim = Sim::in_front_of(postgres());
                let endpoint = sim.credentials(CredentialSettings::default());
                endpoint.set(|settings| {
                    settings.answer_at = bad.path;
                    settings.answer_with = Some((bad.status, bad.content_type, bad.body));
                });
                expect_cause_at(&start(&sim, &endpoint), cause, part);
            });
            (what, path, case)
        });
        for (what, path, case) in cases.collect::<Vec<_>>() {
            assert!(case.join().is_ok(), "{what} at {path}");
        }
    });
}

fn expect_cause_at(bouncer: &Bouncer, cause: &str, part: &str) {
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000", "{text}");
    assert!(hint.ends_with(&format!("[{cause}]")), "{text} / {hint}");
    // A client receives the beginning of the error chain; the log has all of it.
    let line = bouncer.wait_for_line(&format!("cause=\"{cause}\""));
    assert!(line.contains(part), "{line}");
    for (place, shown) in [("log", bouncer.log()), ("client", text + &hint)] {
        assert!(!shown.contains(MARK), "{place}: {shown}");
        assert!(shown.lines().all(|line| line.len() < MAX_LINE_BYTES), "{place}: {shown}");
    }
    let peak = peak_memory_kib(bouncer);
    assert!(peak < MAX_MEMORY_KIB, "{peak} KiB");
}

fn peak_memory_kib(bouncer: &Bouncer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bouncer.pid().as_raw_nonzero())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_metadata_service_that_answers_garbage_is_named_and_not_quoted() {
    let half = format!("{{\"Code\": \"Success\", \"AccessKeyId\": \"{MARK}");
    let names = [page(), huge("text/plain")].map(|bad| Bad { path: Some(ROLES), ..bad });
    let documents = [
        page(),
        bad("half a document", JSON, &half),
        bad("an empty document", JSON, ""),
        bad("a document of another kind", JSON, &format!("[\"{MARK}\"]")),
        huge(JSON),
    ]
    .map(|bad| Bad { path: Some(ROLE), ..bad });
    let answers = names.into_iter().chain(documents).collect();
    expect_cause("IAM015", "could not be fetched", answers, |sim, endpoint| {
        let line = sim.database();
        let start = with_variables(sim.keyless(&line), endpoint.imds_environment());
        start.env("AWS_EC2_METADATA_DISABLED", "false").set("query_wait_timeout = 5").start()
    });
}

#[test]
fn an_sts_that_answers_garbage_is_named_and_not_quoted() {
    let answers = vec![
        bad("garbage", XML, &format!("<AssumeRoleResponse><{MARK}")),
        bad("another document", XML, &format!("<Answer>{MARK}</Answer>")),
        bad("nothing", XML, ""),
        page(),
        error_page(403),
        huge(XML),
    ];
    expect_cause(
        "IAM015",
        &format!("identity role={ORDERS} could not be fetched"),
        answers,
        |sim, endpoint| {
            let line = format!("{} aws_role_arn={ORDERS}", sim.database());
            let start = with_variables(sim.start(&line), endpoint.sts_environment());
            start.set("query_wait_timeout = 5").start()
        },
    );
}

#[test]
fn a_role_that_sts_denies_is_reported_as_refused_and_not_as_unreachable() {
    let sim = Sim::in_front_of(postgres());
    let endpoint = sim.credentials(CredentialSettings { deny: true, ..CredentialSettings::default() });
    let line = format!("{} aws_role_arn={ORDERS}", sim.database());
    let start = with_variables(sim.start(&line), endpoint.sts_environment());
    expect_cause_at(&start.set("query_wait_timeout = 3").start(), "IAM016", "AccessDenied");
}

/// A pooler that fetches its password from this endpoint.
fn with_a_secret(sim: &Sim, endpoint: &CredentialServer) -> Bouncer {
    let line = format!("app = host=127.0.0.1 port={} dbname=app secret_arn={SECRET_ARN}", postgres().port());
    let url = format!("http://{}", endpoint.address());
    let start = with_variables(sim.start(&line), vec![("AWS_ENDPOINT_URL_SECRETS_MANAGER", url)]);
    start.set("query_wait_timeout = 5").start()
}

#[test]
fn a_secrets_manager_that_answers_garbage_is_named_and_not_quoted() {
    let answers = vec![
        bad("garbage", JSON, &format!("{{\"SecretString\": \"{MARK}")),
        bad("another document", JSON, &format!("{{\"{MARK}\": 1}}")),
        bad("nothing", JSON, ""),
        page(),
        error_page(503),
        huge(JSON),
    ];
    expect_cause("IAM029", "the request to Secrets Manager", answers, with_a_secret);
}

#[test]
fn a_secret_that_is_not_json_is_not_quoted() {
    let secret = serde_json::json!({ "ARN": SECRET_ARN, "SecretString": format!("{MARK}:password") });
    let answers = vec![bad("a secret of another kind", JSON, &secret.to_string())];
    expect_cause("IAM028", "not a JSON object", answers, with_a_secret);
}
