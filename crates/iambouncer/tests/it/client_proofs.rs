//! Clients that prove an AWS identity: RDS tokens that the database verifies, and signed STS requests whose
//! identity a map turns into users. A wrong proof is refused for each of its possible faults, at bounded
//! cost.

use crate::support::bouncer::Start;
use crate::support::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{Bouncer, Client, eventually, postgres};
use rds_iam::{CallerProofRequest, Credentials, TokenRequest, sign, sign_caller_proof};
use rds_sim::postgres::Postgres;
use rds_sim::{AccessKey, CredentialServer, CredentialSettings, LoginOutcome};
use std::time::{Duration, SystemTime};

pub(crate) const CLIENT_KEY: &str = "AKIDCLIENT";
pub(crate) const CLIENT_SECRET: &str = "secret/of+the-client";
const ROLE: &str = "arn:aws:iam::123456789012:role/orders";

fn client_credentials() -> Credentials {
    Credentials::new(CLIENT_KEY, CLIENT_SECRET, None, None, "tests")
}

pub(crate) struct Signed<'a> {
    host: &'a str,
    port: u16,
    user: &'a str,
    region: &'a str,
    age: Duration,
}

impl Signed<'_> {
    pub(crate) fn token(&self) -> String {
        let region = self.region.parse().unwrap();
        let request = TokenRequest { host: self.host, port: self.port, user: self.user, region: &region };
        sign(&request, &client_credentials(), SystemTime::now() - self.age).unwrap().expose().to_owned()
    }
}

/// A pooler whose clients authenticate with RDS tokens.
pub(crate) struct Rds {
    pub(crate) sim: Sim,
    pub(crate) side: ClientSide,
    pub(crate) bouncer: Bouncer,
}

impl Rds {
    pub(crate) fn start() -> Self {
        Self::with(|start| start)
    }

    /// With additional settings.
    pub(crate) fn with(change: impl FnOnce(Start<'_>) -> Start<'_>) -> Self {
        Self::start_in_front_of(postgres(), &["app"], str::to_owned, change)
    }

    /// With these database lines instead of the one of `app`.
    pub(crate) fn with_lines(lines: impl FnOnce(&str) -> String) -> Self {
        Self::start_in_front_of(postgres(), &["app"], lines, |start| start)
    }

    /// In front of the test's own server, with these IAM users.
    pub(crate) fn in_front_of(server: &Postgres, users: &[&str]) -> Self {
        Self::start_in_front_of(server, users, str::to_owned, |start| start)
    }

    fn start_in_front_of(
        server: &Postgres,
        users: &[&str],
        lines: impl FnOnce(&str) -> String,
        change: impl FnOnce(Start<'_>) -> Start<'_>,
    ) -> Self {
        let sim = Sim::for_users(server, RDS_HOST, REGION, users);
        sim.simulator.keys().add(AccessKey::parse(&format!("{CLIENT_KEY}:{CLIENT_SECRET}")).unwrap());
        let side = ClientSide::new();
        let lines = lines(&sim.database());
        let start = side.set(sim.start(&lines), "allow").set("auth_type = iam").set("http_port = auto");
        let bouncer = change(start.env("IAMBOUNCER_LOG", "trace")).start();
        Self { sim, side, bouncer }
    }

    /// A valid token of this age.
    pub(crate) fn signed_ago(&self, age: Duration) -> Signed<'_> {
        Signed { age, ..self.signed() }
    }

    fn signed(&self) -> Signed<'_> {
        Signed { host: RDS_HOST, port: self.sim.port(), user: "app", region: REGION, age: Duration::ZERO }
    }

    pub(crate) fn log_in(&self, token: &str) -> Result<TlsClient, (String, String, String)> {
        TlsClient::log_in_with(self.bouncer.port, self.side.config(), "app", "app", token)
    }

    /// The access keys whose tokens were accepted, in order.
    fn accepted(&self) -> Vec<String> {
        let outcomes = self.sim.simulator.log().attempts().into_iter().map(|attempt| attempt.outcome);
        outcomes
            .filter_map(|outcome| match outcome {
                LoginOutcome::Accepted { access_key_id, .. } => Some(access_key_id),
                _ => None,
            })
            .collect()
    }
}

#[test]
fn the_database_verifies_a_clients_token_once_and_pool_logins_use_the_poolers_identity() {
    let rds = Rds::start();
    let token = rds.signed().token();
    let mut clients: Vec<TlsClient> = (0..5).map(|_| rds.log_in(&token).ok().unwrap()).collect();
    for client in &mut clients {
        assert_eq!(client.value("SELECT current_user"), "app");
    }
    assert_eq!(rds.accepted(), [CLIENT_KEY, KEY_ID]);
    // A different token is verified separately.
    let older = Signed { age: Duration::from_secs(300), ..rds.signed() }.token();
    assert_eq!(rds.log_in(&older).ok().unwrap().value("SELECT 1"), "1");
    assert_eq!(rds.accepted(), [CLIENT_KEY, KEY_ID, CLIENT_KEY]);
    assert!(!rds.bouncer.log().contains("X-Amz-Signature"));
}

#[test]
fn a_token_is_never_accepted_without_tls() {
    let rds = Rds::start();
    let (code, text, _) = rds.bouncer.refused_login("app", "app");
    assert_eq!((code.as_str(), text.contains("SSL")), ("28000", true), "{text}");
    assert_eq!(rds.sim.simulator.log().attempts(), []);
}

#[test]
fn a_visibly_wrong_token_never_reaches_the_database() {
    let rds = Rds::start();
    let good = || rds.signed();
    let cases = [
        ("DBUser is admin", Signed { user: "admin", ..good() }.token()),
        (
            "the endpoint in the token",
            Signed { host: "other.c1.eu-west-1.rds.amazonaws.com", ..good() }.token(),
        ),
        ("the port in the token", Signed { port: 1, ..good() }.token()),
        ("the region in the token", Signed { region: "eu-central-1", ..good() }.token()),
        ("it expired", Signed { age: Duration::from_secs(1000), ..good() }.token()),
        ("occurs twice", good().token() + "&dbuser=admin"),
        ("not a valid RDS token", "a password".to_owned()),
        ("not a valid RDS token", String::new()),
    ];
    for (part, token) in cases {
        let (code, text, hint) = rds.log_in(&token).err().expect(part);
        assert_eq!(code, "28000", "{part}");
        assert!(text.contains(part), "{part}: {text}");
        assert!(hint.contains("fresh IAM token"), "{hint}");
        // An unauthenticated client does not learn the expected value.
        assert!(!text.contains(RDS_HOST), "{text}");
    }
    assert_eq!(rds.sim.simulator.log().attempts(), []);
    rds.bouncer.wait_for_line(&format!("not {RDS_HOST}"));
}

#[test]
fn a_refused_token_is_not_sent_to_the_database_again_at_once() {
    let rds = Rds::start();
    let mut token = rds.signed().token();
    let last = token.pop().unwrap();
    token.push(if last == '0' { '1' } else { '0' });
    for _ in 0..3 {
        let (code, text, hint) = rds.log_in(&token).err().unwrap();
        assert_eq!(code, "28000");
        assert!(text.contains("PAM authentication failed") && hint.contains("[IAM003]"), "{text} {hint}");
        // The pooler has no information about the client's credentials.
        assert!(!hint.contains("credentials last"), "{hint}");
    }
    assert_eq!(rds.sim.refusals(), ["wrong signature"]);
    // Other clients are not affected.
    assert_eq!(rds.log_in(&rds.signed().token()).ok().unwrap().value("SELECT 1"), "1");
}

#[test]
fn a_connection_error_to_the_database_is_not_a_refusal_of_the_token() {
    let rds = Rds::start();
    let token = rds.signed().token();
    rds.sim.simulator.faults().set(|faults| faults.drop_next = 1);
    let (code, _, _) = rds.log_in(&token).err().unwrap();
    assert_eq!(code, "08001");
    assert_eq!(rds.log_in(&token).ok().unwrap().value("SELECT 1"), "1");
}

#[test]
fn a_user_outside_rds_iam_is_refused_and_its_token_is_not_sent() {
    let sim = Sim::for_users(postgres(), RDS_HOST, REGION, &["other_user"]);
    let side = ClientSide::new();
    let line = sim.database();
    let bouncer = side.set(sim.start(&line), "require").set("auth_type = iam").start();
    postgres().sql("CREATE ROLE no_iam_user LOGIN PASSWORD 'secret'").unwrap();
    let signed =
        Signed { host: RDS_HOST, port: sim.port(), user: "no_iam_user", region: REGION, age: Duration::ZERO };
    let outcome = TlsClient::log_in_with(bouncer.port, side.config(), "no_iam_user", "app", &signed.token());
    // The server trusts this user and requests no password: a token that was not verified proves nothing.
    let (code, text, _) = outcome.err().unwrap();
    assert_eq!(code, "28000", "{text}");
    assert!(text.contains("no_iam_user"), "{text}");
}

#[test]
fn the_console_requests_a_password_where_clients_use_tokens() {
    let rds = Rds::start();
    let mut client = TlsClient::connect(rds.bouncer.port, rds.side.config()).unwrap();
    let mut packet = Vec::new();
    let who = [("user", "postgres"), ("database", "pgbouncer")];
    wire::encode::startup(&mut packet, wire::startup::Version::V3_0, &who);
    client.send(&packet).unwrap();
    let asked = client.read().unwrap();
    assert_eq!(&asked.bytes[5..9], [0, 0, 0, 10], "SCRAM is asked for");
}

/// A pooler whose clients authenticate with signed STS requests.
pub(crate) struct Sts {
    sim: Sim,
    pub(crate) side: ClientSide,
    pub(crate) endpoint: CredentialServer,
    map: std::path::PathBuf,
    pub(crate) bouncer: Bouncer,
}

impl Sts {
    pub(crate) fn start() -> Self {
        Self::with_map(&format!("iam {ROLE} app\niam {ROLE} postgres\n"))
    }

    fn with_map(text: &str) -> Self {
        Self::with_map_and(text, None)
    }

    /// With another STS endpoint.
    pub(crate) fn with_endpoint(url: &str) -> Self {
        Self::with_map_and(&format!("iam {ROLE} app\n"), Some(url))
    }

    fn with_map_and(text: &str, sts: Option<&str>) -> Self {
        let sim = Sim::in_front_of(postgres());
        sim.simulator.keys().add(AccessKey::parse(&format!("{CLIENT_KEY}:{CLIENT_SECRET}")).unwrap());
        let settings = CredentialSettings {
            account: "123456789012".to_owned(),
            role_name: "orders".to_owned(),
            ..CredentialSettings::default()
        };
        let endpoint = sim.credentials(settings);
        let side = ClientSide::new();
        let map = sim.dir().join("ident.conf");
        std::fs::write(&map, text).unwrap();
        let line = sim.database();
        let mut start = side
            .set(sim.start(&line), "allow")
            .set("auth_type = iam-sts")
            .set("http_port = auto")
            .env("IAMBOUNCER_LOG", "trace")
            .set("iam_sts_audience = tests")
            .set(&format!("auth_ident_file = {}", map.display()));
        for (key, value) in endpoint.sts_environment() {
            start = start.env(key, &value);
        }
        if let Some(url) = sts {
            start = start.env("AWS_ENDPOINT_URL_STS", url);
        }
        let bouncer = start.start();
        Self { sim, side, endpoint, map, bouncer }
    }

    pub(crate) fn log_in_as(&self, user: &str, proof: &str) -> Result<TlsClient, (String, String, String)> {
        TlsClient::log_in_with(self.bouncer.port, self.side.config(), user, "app", proof)
    }

    pub(crate) fn log_in(&self, proof: &str) -> Result<TlsClient, (String, String, String)> {
        self.log_in_as("app", proof)
    }

    pub(crate) fn refused(&self, proof: &str) -> (String, String) {
        let (code, text, _) = self.log_in(proof).err().expect("a refusal");
        (code, text)
    }

    pub(crate) fn sts_requests(&self) -> u64 {
        self.endpoint.calls().presigned
    }
}

fn proof_for(audience: &str, age: Duration, credentials: &Credentials) -> String {
    let region = REGION.parse().unwrap();
    let request = CallerProofRequest { region: &region, audience };
    sign_caller_proof(&request, credentials, SystemTime::now() - age).unwrap().expose().to_owned()
}

/// A valid proof of this age for the tests' pooler.
pub(crate) fn proof_aged(age: Duration) -> String {
    proof_for("tests", age, &client_credentials())
}

fn proof() -> String {
    proof_aged(Duration::ZERO)
}

#[test]
fn a_role_is_mapped_to_users_with_one_sts_request() {
    let sts = Sts::start();
    let proof = proof();
    for _ in 0..5 {
        assert_eq!(sts.log_in(&proof).ok().unwrap().value("SELECT current_user"), "app");
    }
    assert_eq!(sts.sts_requests(), 1);
    let (code, text, hint) = sts.log_in_as("admin", &proof).err().unwrap();
    assert_eq!(code, "28000");
    assert_eq!(text, format!("password authentication failed: {ROLE} may not log in as \"admin\""));
    assert!(hint.contains("auth_ident_file"), "{hint}");
    // The map is checked at each login, so a RELOAD revokes rights at once.
    std::fs::write(&sts.map, format!("iam {ROLE} other\n")).unwrap();
    let mut console =
        TlsClient::log_in_with(sts.bouncer.port, sts.side.config(), "postgres", "pgbouncer", &proof)
            .ok()
            .unwrap();
    console.query("RELOAD");
    assert!(sts.refused(&proof).1.contains("may not log in"));
    assert_eq!(sts.sts_requests(), 1);
    let log = sts.bouncer.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("iambouncer-sts-v1"), "{log}");
}

#[test]
fn the_command_line_makes_proofs() {
    let sts = Sts::start();
    let environment =
        [("AWS_ACCESS_KEY_ID", CLIENT_KEY), ("AWS_SECRET_ACCESS_KEY", CLIENT_SECRET), ("AWS_REGION", REGION)];
    let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let made = crate::support::program::run(&["token", "--sts", "--audience", "tests"], &environment);
    assert_eq!(made.code, Some(0), "{made:?}");
    assert_eq!(sts.log_in(made.stdout.trim_end()).ok().unwrap().value("SELECT current_user"), "app");
}

#[test]
fn a_proof_for_another_audience_is_refused() {
    let sts = Sts::start();
    let (code, text) = sts.refused(&proof_for("another-pooler", Duration::ZERO, &client_credentials()));
    assert_eq!(code, "28000");
    assert!(text.contains("STS refuses the proof"), "{text}");
}

#[test]
fn wrong_keys_and_old_proofs_are_refused() {
    let sts = Sts::start();
    let stranger = Credentials::new(CLIENT_KEY, "another secret", None, None, "tests");
    assert!(sts.refused(&proof_for("tests", Duration::ZERO, &stranger)).1.contains("STS refuses"));
    let asked = sts.endpoint.calls().refused;
    // STS ignores the lifetime in a proof; the pooler checks it.
    let (_, text) = sts.refused(&proof_for("tests", Duration::from_secs(1000), &client_credentials()));
    assert!(text.contains("it expired"), "{text}");
    assert!(sts.refused("a password").1.contains("not a valid proof of an AWS identity"));
    assert_eq!(sts.endpoint.calls().refused, asked, "no request was sent");
}

#[test]
fn a_refused_proof_is_not_sent_to_sts_again_at_once() {
    let sts = Sts::start();
    let stranger = Credentials::new("AKIDNOBODY", "secret", None, None, "tests");
    let proof = proof_for("tests", Duration::ZERO, &stranger);
    for _ in 0..4 {
        assert!(sts.refused(&proof).1.contains("STS refuses"));
    }
    assert_eq!(sts.endpoint.calls().refused, 1);
}

#[test]
fn a_proof_is_never_accepted_without_tls() {
    let sts = Sts::start();
    let mut client = Client::start(sts.bouncer.port, &[("user", "app"), ("database", "app")]);
    assert!(client.read().unwrap().error().1.contains("SSL"));
    assert_eq!(sts.sts_requests(), 0);
}

#[test]
fn an_unexpected_sts_answer_proves_no_identity_and_is_not_a_refusal() {
    let sts = Sts::start();
    let json = "application/json";
    let arn = format!("{{\"Arn\": \"{ROLE}\"}}");
    let nested = |arn: &str| {
        format!(
            "{{\"GetCallerIdentityResponse\": {{\"GetCallerIdentityResult\": \
             {{\"Arn\": \"{arn}\", \"Account\": \"123456789012\", \"UserId\": \"x\"}}}}}}"
        )
    };
    let good = nested("arn:aws:sts::123456789012:assumed-role/orders/x");
    let answers = [
        (200, "text/xml", good.clone()),
        (200, json, arn),
        (200, json, "garbage".to_owned()),
        (200, json, format!("{good}{}", " ".repeat(100_000))),
        (200, json, nested("arn:aws:sts::999999999999:assumed-role/orders/x")),
        (302, json, good.clone()),
        (500, json, good.clone()),
        (429, json, good.clone()),
        (503, json, good),
    ];
    let proof = proof();
    for (status, content_type, body) in answers {
        sts.endpoint.set(|settings| settings.answer_with = Some((status, content_type, body.clone())));
        let (code, text) = sts.refused(&proof);
        assert_eq!(code, "08006", "{status} {content_type} {body}: {text}");
    }
    sts.endpoint.set(|settings| settings.answer_with = None);
    assert_eq!(sts.log_in(&proof).ok().unwrap().value("SELECT 1"), "1");
}

#[test]
fn root_and_federated_users_are_refused() {
    let sts = Sts::with_map("iam /.* app\n");
    for arn in ["arn:aws:iam::123456789012:root", "arn:aws:sts::123456789012:federated-user/x"] {
        let body = format!(
            "{{\"GetCallerIdentityResponse\": {{\"GetCallerIdentityResult\": \
             {{\"Arn\": \"{arn}\", \"Account\": \"123456789012\"}}}}}}"
        );
        sts.endpoint.set(|settings| settings.answer_with = Some((200, "application/json", body.clone())));
        let age = Duration::from_secs(u64::from(arn.contains("root")));
        let (_, text) = sts.refused(&proof_for("tests", age, &client_credentials()));
        assert!(text.contains("neither a role nor a user"), "{text}");
    }
}

#[test]
fn clients_verified_earlier_log_in_while_sts_is_unreachable() {
    let sts = Sts::start();
    let known = proof();
    assert!(sts.log_in(&known).is_ok());
    sts.endpoint.set(|settings| settings.fail_with = Some(500));
    assert!(sts.log_in(&known).is_ok());
    let other = proof_for("tests", Duration::from_secs(500), &client_credentials());
    assert_eq!(sts.refused(&other).0, "08006");
    sts.endpoint.set(|settings| settings.fail_with = None);
    assert!(sts.log_in(&other).is_ok());
    eventually("servers are there", || sts.sim.simulator.log().accepted_and_refused().0 >= 1);
}
