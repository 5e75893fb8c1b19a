//! The real AWS SDK, through rds-iam's engine, against every endpoint that issues credentials.
//!
//! The SDK reads the process environment, so each case runs in a child process: this test program again,
//! which a variable makes sign and print tokens.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rds_iam::{AwsCredentials, Identity, TokenEngine, TokenKey};
use rds_sim::{
    AccessKey, CredentialCalls, CredentialServer, CredentialSettings, Simulator, TokenTarget, verify,
};
use support::{HOST, KEY_ID, REGION, SECRET};

/// Set in the child: the identity to use, as `profile|role|external id|session name`.
const CHILD_VARIABLE: &str = "RDS_SIM_TEST_IDENTITY";
const ROLE_ARN: &str = "arn:aws:iam::123456789012:role/app-db";
const PORT: u16 = 5432;
/// The users for which the child requests tokens, twice each.
const USERS: [&str; 3] = ["app", "report", "odd user&DBUser=admin"];

struct Case {
    simulator: Simulator,
    server: CredentialServer,
    dir: tempfile::TempDir,
}

impl Case {
    async fn new(settings: CredentialSettings) -> Self {
        Self::at("127.0.0.1:0", settings).await
    }

    async fn at(listen: &str, settings: CredentialSettings) -> Self {
        let simulator = Simulator::default();
        simulator.keys().add(AccessKey::parse(&format!("{KEY_ID}:{SECRET}")).unwrap());
        let server = CredentialServer::start(&simulator, listen.parse().unwrap(), settings).await.unwrap();
        Self { simulator, server, dir: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The output of the child: lines of `token=` or `error=`.
    async fn run_child(&self, identity: &str, environment: Vec<(&'static str, String)>) -> Vec<String> {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "child", "--nocapture"]).kill_on_drop(true);
        child
            .env_clear()
            .env(CHILD_VARIABLE, identity)
            .env("AWS_CONFIG_FILE", self.dir.path().join("config"));
        child.env("AWS_SHARED_CREDENTIALS_FILE", self.dir.path().join("credentials")).envs(environment);
        let output = tokio::time::timeout(Duration::from_secs(60), child.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text.lines()
            .filter(|line| line.starts_with("token=") || line.starts_with("error="))
            .map(Into::into)
            .collect()
    }

    /// Expects valid tokens only, all signed by one key, which is returned.
    async fn expect_valid_tokens(&self, identity: &str, environment: Vec<(&'static str, String)>) -> String {
        let lines = self.run_child(identity, environment).await;
        assert_eq!(lines.len(), USERS.len(), "{lines:?}");
        let target = TokenTarget { hosts: vec![HOST.to_owned()], port: PORT, region: REGION.to_owned() };
        let mut signers: Vec<String> = lines
            .iter()
            .zip(USERS)
            .map(|(line, user)| {
                let token = line.strip_prefix("token=").unwrap_or_else(|| panic!("{line}"));
                let now = self.simulator.clock().now();
                verify(token, user, &target, self.simulator.keys(), now).unwrap().access_key_id
            })
            .collect();
        signers.dedup();
        assert_eq!(signers.len(), 1, "one provider for all keys of an identity");
        signers.remove(0)
    }
}

/// Not a test by itself: the code of the child.
#[tokio::test]
async fn child() {
    let Ok(identity) = std::env::var(CHILD_VARIABLE) else {
        return;
    };
    let fields: Vec<Option<String>> =
        identity.split('|').map(|text| (!text.is_empty()).then(|| text.to_owned())).collect();
    let identity = Identity {
        profile: fields[0].clone(),
        role_arn: fields[1].clone(),
        external_id: fields[2].clone(),
        session_name: fields.get(3).cloned().flatten(),
        ..Identity::default()
    };
    let engine = TokenEngine::new(AwsCredentials::shared());
    println!();
    for user in USERS {
        let key = TokenKey::new(HOST, PORT, user, None, identity.clone()).unwrap();
        // Concurrent requests must share one fetch.
        let (first, second) = tokio::join!(engine.token(&key), engine.token(&key));
        match (first, second) {
            (Ok(first), Ok(second)) => {
                assert_eq!(first.expose(), second.expose());
                println!("token={}", first.expose());
            }
            (Err(error), _) | (_, Err(error)) => println!("error={} {error}", error.label()),
        }
    }
}

fn static_keys() -> Vec<(&'static str, String)> {
    vec![("AWS_ACCESS_KEY_ID", KEY_ID.to_owned()), ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned())]
}

fn no_metadata() -> (&'static str, String) {
    ("AWS_EC2_METADATA_DISABLED", "true".to_owned())
}

#[tokio::test]
async fn environment() {
    let case = Case::new(CredentialSettings::default()).await;
    let mut environment = static_keys();
    environment.push(no_metadata());
    assert_eq!(case.expect_valid_tokens("||", environment).await, KEY_ID);
    assert_eq!(case.server.calls(), CredentialCalls::default());
}

#[tokio::test]
async fn instance_metadata() {
    let case = Case::new(CredentialSettings::default()).await;
    case.expect_valid_tokens("||", case.server.imds_environment()).await;
    let calls = case.server.calls();
    assert_eq!((calls.imds_role, calls.imds_credentials, calls.refused), (1, 1, 0), "{calls:?}");
}

#[tokio::test]
async fn stale_instance_metadata_is_rejected() {
    // The SDK returns credentials that expired a minute ago with an expiry in the future; the database would
    // refuse them.
    let issue_ended = Some(Duration::from_secs(60));
    let settings = CredentialSettings { issue_ended, reissue: false, ..CredentialSettings::default() };
    let case = Case::new(settings).await;
    let lines = case.run_child("||", case.server.imds_environment()).await;
    assert!(lines[0].starts_with("error=expired_credentials"), "{lines:?}");
    assert!(lines[0].contains("instance metadata that no longer refreshes"), "{lines:?}");
}

#[tokio::test]
async fn instance_metadata_that_is_renewed_late_is_accepted() {
    // An expiry in the range into which the SDK would move it.
    let life = Duration::from_secs(750);
    let settings = CredentialSettings { life, reissue: false, ..CredentialSettings::default() };
    let case = Case::new(settings).await;
    case.expect_valid_tokens("||", case.server.imds_environment()).await;
    let calls = case.server.calls();
    assert_eq!((calls.imds_role, calls.imds_credentials), (2, 2), "metadata is read twice: {calls:?}");
}

#[tokio::test]
async fn container_endpoint_with_a_long_session_token() {
    let settings = CredentialSettings { session_token_bytes: 4096, ..CredentialSettings::default() };
    let case = Case::new(settings).await;
    let authorization = case.file("authorization", &CredentialSettings::default().authorization);
    let environment = case.server.container_environment(&authorization);
    case.expect_valid_tokens("||", environment).await;
    assert_eq!(case.server.calls(), CredentialCalls { container: 1, ..CredentialCalls::default() });
}

#[tokio::test]
async fn a_container_endpoint_that_refuses_is_an_error() {
    let case = Case::new(CredentialSettings::default()).await;
    let authorization = case.file("authorization", "wrong");
    let environment = case.server.container_environment(&authorization);
    let lines = case.run_child("||", environment).await;
    assert!(lines[0].starts_with("error="), "{lines:?}");
    // Six tokens were requested within the backoff after the first failure.
    assert_eq!(lines.len(), 3);
    assert_eq!(case.server.calls().container, 0);
}

#[tokio::test]
async fn web_identity() {
    let settings = CredentialSettings {
        web_identity_token: Some("a.jwt.token".to_owned()),
        ..CredentialSettings::default()
    };
    let case = Case::new(settings).await;
    let token = case.file("token", "a.jwt.token");
    let environment = case.server.web_identity_environment(&token);
    case.expect_valid_tokens("||", environment).await;
    let expected = CredentialCalls { assume_role_with_web_identity: 1, ..CredentialCalls::default() };
    assert_eq!(case.server.calls(), expected);
}

#[tokio::test]
async fn assumed_role_with_external_id() {
    let settings =
        CredentialSettings { external_id: Some("tenant-7".to_owned()), ..CredentialSettings::default() };
    let case = Case::new(settings).await;
    let mut environment = case.server.sts_environment();
    environment.extend(static_keys());
    let signer = case.expect_valid_tokens(&format!("|{ROLE_ARN}|tenant-7"), environment.clone()).await;
    assert!(signer.starts_with("ASIA"));
    assert_eq!(case.server.calls(), CredentialCalls { assume_role: 1, ..CredentialCalls::default() });

    let lines = case.run_child(&format!("|{ROLE_ARN}|"), environment).await;
    assert!(lines[0].starts_with("error=refused") && lines[0].contains("trust policy"), "{lines:?}");
    assert_eq!(case.server.calls().refused, 1, "a refused request is not repeated at once");
}

#[tokio::test]
async fn a_named_profile_wins_over_the_environment() {
    let case = Case::new(CredentialSettings::default()).await;
    case.simulator.keys().add(AccessKey::parse("AKIDPROFILE:other").unwrap());
    case.file("credentials", "[work]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = other\n");
    case.file(
        "config",
        &format!("[profile via-role]\nrole_arn = {ROLE_ARN}\nsource_profile = work\nregion = eu-west-1\n"),
    );
    let mut environment = case.server.sts_environment();
    environment.extend(static_keys());
    assert_eq!(case.expect_valid_tokens("work||", environment.clone()).await, "AKIDPROFILE");
    let signer = case.expect_valid_tokens("via-role||", environment.clone()).await;
    assert!(signer.starts_with("ASIA"));
    assert_eq!(case.server.calls().assume_role, 1);

    let lines = case.run_child("no-such-profile||", environment).await;
    assert!(lines[0].starts_with("error=") && lines[0].contains("no-such-profile"), "{lines:?}");
}

#[tokio::test]
async fn credential_process() {
    let case = Case::new(CredentialSettings::default()).await;
    let script = case.file("process.sh", &process_script(case.dir.path()));
    case.file("config", &format!("[default]\ncredential_process = sh {}\n", script.display()));
    let environment = vec![no_metadata(), ("PATH", "/usr/bin:/bin".to_owned())];
    assert_eq!(case.expect_valid_tokens("||", environment).await, KEY_ID);
    let runs = std::fs::read_to_string(case.dir.path().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 1);
}

fn process_script(dir: &Path) -> String {
    let runs = dir.join("runs");
    format!(
        "echo run >> {}\necho '{{\"Version\":1,\"AccessKeyId\":\"{KEY_ID}\",\"SecretAccessKey\":\"{SECRET}\"}}'\n",
        runs.display()
    )
}

/// A role assumed with the credentials of another role, which is assumed with the keys of a third profile:
/// two requests, whatever the number of logins.
#[tokio::test]
async fn a_chain_of_profiles() {
    let case = Case::new(CredentialSettings::default()).await;
    case.file(
        "credentials",
        &format!("[keys]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"),
    );
    let first = "[profile first]\nrole_arn = arn:aws:iam::123456789012:role/first\nsource_profile = keys\n";
    let second = format!(
        "[profile second]\nrole_arn = {ROLE_ARN}\nsource_profile = first\nrole_session_name = chained\nregion = eu-west-1\n"
    );
    case.file("config", &format!("{first}{second}"));
    let signer = case.expect_valid_tokens("second||", case.server.sts_environment()).await;
    assert!(signer.starts_with("ASIA"));
    assert_eq!(case.server.calls(), CredentialCalls { assume_role: 2, ..CredentialCalls::default() });
    assert_eq!(case.server.role_sessions()[1], "app-db/chained");
}

/// The setup of a central pooler in Kubernetes: the pod's own role, and a role of the database's account
/// assumed with it.
#[tokio::test]
async fn a_role_on_top_of_a_web_identity() {
    let case = Case::new(CredentialSettings::default()).await;
    let token = case.file("token", "a.jwt.token");
    let environment = case.server.web_identity_environment(&token);
    case.expect_valid_tokens(&format!("|{ROLE_ARN}||pooler@prod"), environment).await;
    let expected =
        CredentialCalls { assume_role_with_web_identity: 1, assume_role: 1, ..CredentialCalls::default() };
    assert_eq!(case.server.calls(), expected);
    assert_eq!(case.server.role_sessions()[1], "app-db/pooler@prod");
}

/// Set in a process with its own network namespace.
const NAMESPACE_VARIABLE: &str = "RDS_SIM_TEST_AT_HOME";
/// The metadata of EC2, the credentials of ECS and those of EKS Pod Identity: well-known addresses.
const METADATA: &str = "169.254.169.254";
const ECS: &str = "169.254.170.2";
const POD_IDENTITY: &str = "169.254.170.23";

/// ECS gives tasks only a path, and EC2 nothing, so these sources can be tested only at their own addresses,
/// in a network namespace that has them.
#[tokio::test]
async fn the_fixed_addresses_of_ec2_ecs_and_eks_are_used() {
    let addresses =
        [METADATA, ECS, POD_IDENTITY].map(|address| format!("ip address add {address}/32 dev lo && "));
    let script =
        format!("ip link set lo up && {}exec \"$0\" --exact in_namespace --nocapture", addresses.concat());
    let mut command = tokio::process::Command::new("sh");
    // Without root, use a user namespace.
    let unshare = "[ \"$(id -u)\" = 0 ] || user=\"--user --map-root-user\"; exec unshare $user --net sh -c \"$0\" \"$1\"";
    command.args(["-c", unshare, &script]);
    command.arg(std::env::current_exe().unwrap()).kill_on_drop(true);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env(NAMESPACE_VARIABLE, "yes");
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "needs namespaces and ip(8): {text}{stderr}"
    );
}

/// Not a test by itself: the code that runs in that namespace.
#[tokio::test]
async fn in_namespace() {
    if std::env::var_os(NAMESPACE_VARIABLE).is_none() {
        return;
    }
    let case = Case::at("0.0.0.0:80", CredentialSettings::default()).await;
    let authorization = CredentialSettings::default().authorization;

    case.expect_valid_tokens("||", Vec::new()).await;
    let calls = case.server.calls();
    assert_eq!((calls.imds_role, calls.imds_credentials, calls.refused), (1, 1, 0), "{calls:?}");

    let path = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/container-credentials".to_owned());
    let proof = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", authorization.clone());
    case.expect_valid_tokens("||", vec![path, proof, no_metadata()]).await;
    assert_eq!(case.server.calls(), CredentialCalls { container: 1, ..calls });

    let url = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{POD_IDENTITY}/container-credentials"));
    let file = case.file("authorization", &authorization).display().to_string();
    case.expect_valid_tokens(
        "||",
        vec![url, ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file), no_metadata()],
    )
    .await;
    assert_eq!(case.server.calls(), CredentialCalls { container: 2, ..calls });
}

/// The file in which the SDK expects the output of `aws sso login`: named after the SHA-1 of the start URL or
/// of the session's name.
const SSO_URL: (&str, &str) =
    ("https://rds-sim.awsapps.com/start", ".aws/sso/cache/df7e95a797b1a10da50cf7540949ff4cfb2f3cdd.json");
const SSO_SESSION: (&str, &str) = ("rds-sim", ".aws/sso/cache/4142b5ed8af1d913390246560c5ce94f61cee12a.json");
const SSO_ROLE: &str = "sso_account_id = 123456789012\nsso_role_name = DbConnect\nregion = eu-west-1\n";

#[tokio::test]
async fn sso_with_a_start_url() {
    let case = Case::new(CredentialSettings::default()).await;
    let (url, cache) = SSO_URL;
    case.file("config", &format!("[default]\nsso_start_url = {url}\nsso_region = eu-west-1\n{SSO_ROLE}"));
    let mut environment = case.server.sso_environment();
    environment.push(("HOME", case.dir.path().display().to_string()));

    let lines = case.run_child("||", environment.clone()).await;
    assert!(lines[0].starts_with("error=no_credentials") && lines[0].contains("aws sso login"), "{lines:?}");

    std::fs::create_dir_all(case.dir.path().join(cache).parent().unwrap()).unwrap();
    let access_token = CredentialSettings::default().sso_access_token;
    let token = serde_json::json!({
        "startUrl": url, "region": "eu-west-1", "accessToken": access_token, "expiresAt": "2099-01-01T00:00:00Z",
    });
    case.file(cache, &token.to_string());
    case.expect_valid_tokens("||", environment.clone()).await;
    assert_eq!(case.server.calls(), CredentialCalls { sso_credentials: 1, ..CredentialCalls::default() });

    case.file(cache, &token.to_string().replace(&access_token, "revoked"));
    let lines = case.run_child("||", environment).await;
    assert!(lines[0].starts_with("error=no_credentials") && lines[0].contains("aws sso login"), "{lines:?}");
}

#[tokio::test]
async fn sso_with_a_session_that_is_refreshed() {
    let case = Case::new(CredentialSettings::default()).await;
    let ((name, cache), (url, _)) = (SSO_SESSION, SSO_URL);
    let session = format!("[sso-session {name}]\nsso_start_url = {url}\nsso_region = eu-west-1\n");
    case.file("config", &format!("{session}[profile dev]\nsso_session = {name}\n{SSO_ROLE}"));
    std::fs::create_dir_all(case.dir.path().join(cache).parent().unwrap()).unwrap();
    let token = serde_json::json!({
        "startUrl": url, "region": "eu-west-1", "accessToken": "old", "expiresAt": "2020-01-01T00:00:00Z",
        "clientId": "client", "clientSecret": "client-secret", "refreshToken": "refresh-token",
        "registrationExpiresAt": "2099-01-01T00:00:00Z",
    });
    case.file(cache, &token.to_string());
    let mut environment = case.server.sso_environment();
    environment.push(("HOME", case.dir.path().display().to_string()));
    case.expect_valid_tokens("dev||", environment).await;
    let expected = CredentialCalls { sso_refresh: 1, sso_credentials: 1, ..CredentialCalls::default() };
    assert_eq!(case.server.calls(), expected);
}

#[tokio::test]
async fn without_any_source_there_are_no_credentials() {
    let case = Case::new(CredentialSettings::default()).await;
    let lines = case.run_child("||", vec![no_metadata()]).await;
    assert!(lines[0].starts_with("error=no_credentials") && lines[0].contains("role"), "{lines:?}");
}
