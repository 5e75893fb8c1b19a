//! Databases with identities of their own: each login is signed by the line's identity and no other, and each
//! source of credentials is read once, however many logins there are.

use crate::support::sim::{KEY_ID, Sim};
use crate::support::{Bouncer, Client, eventually, postgres};
use rds_sim::{AccessKey, CredentialServer, CredentialSettings, LoginOutcome};
use std::collections::BTreeSet;

const ROLE: &str = "arn:aws:iam::210987654321:role/reports";
const TENANT: &str = "tenant-7";
const LINES: [&str; 4] = ["plain", "keys", "process", "role"];

/// Four lines with four identities: the environment's, a profile with keys, a profile with a program, and a
/// role.
struct Site {
    sim: Sim,
    sts: CredentialServer,
    bouncer: Bouncer,
}

impl Site {
    fn start(external_id: &str) -> Self {
        let sim = Sim::in_front_of(postgres());
        for key in ["AKIDKEYS:one", "AKIDPROCESS:two"] {
            sim.simulator.keys().add(AccessKey::parse(key).unwrap());
        }
        let settings =
            CredentialSettings { external_id: Some(TENANT.to_owned()), ..CredentialSettings::default() };
        let sts = sim.credentials(settings);
        let file = |name: &str, text: &str| {
            let path = sim.dir().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let runs = sim.dir().join("runs").display().to_string();
        let answer = r#"{"Version":1,"AccessKeyId":"AKIDPROCESS","SecretAccessKey":"two"}"#;
        let script = file("process.sh", &format!("echo run >> {runs}\necho '{answer}'\n"));
        let config = file("config", &format!("[profile tool]\ncredential_process = sh {script}\n"));
        let keys = "[work]\naws_access_key_id = AKIDKEYS\naws_secret_access_key = one\n";
        let credentials = file("credentials", keys);

        let with = |name: &str, identity: &str| {
            format!("{} {identity}\n", sim.database().replacen("app =", &format!("{name} ="), 1))
        };
        let role =
            format!("aws_role_arn={ROLE} aws_external_id={external_id} aws_role_session_name=pooler@reports");
        let lines = [
            with("plain", ""),
            with("keys", "aws_profile=work"),
            with("process", "aws_profile=tool"),
            with("role", &role),
        ];
        let lines = lines.concat();
        let mut start = sim
            .start(&lines)
            .env("PATH", "/usr/bin:/bin")
            .env("AWS_CONFIG_FILE", &config)
            .env("AWS_SHARED_CREDENTIALS_FILE", &credentials);
        for (key, value) in sts.sts_environment() {
            start = start.env(key, &value);
        }
        let bouncer = start.start();
        Self { sim, sts, bouncer }
    }

    /// Makes a new login to a server and returns the access key that signed it.
    fn signer(&self, line: &str) -> String {
        let log = self.sim.simulator.log();
        self.bouncer.console().query(&format!("RECONNECT {line}"));
        log.clear();
        assert_eq!(Client::log_in(self.bouncer.port, "app", line).value("SELECT current_user"), "app");
        let signers: BTreeSet<String> =
            log.attempts().into_iter().map(|attempt| signer_of(attempt.outcome)).collect();
        assert_eq!(signers.len(), 1, "{line}: {signers:?}");
        signers.into_iter().next().unwrap()
    }
}

fn signer_of(outcome: LoginOutcome) -> String {
    match outcome {
        LoginOutcome::Accepted { access_key_id, .. } => access_key_id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_line_signs_with_its_own_identity_and_each_source_is_read_once() {
    let site = Site::start(TENANT);
    let first = LINES.map(|line| site.signer(line));
    assert_eq!(first[..3], [KEY_ID, "AKIDKEYS", "AKIDPROCESS"]);
    assert!(first[3].starts_with("ASIA"), "{first:?}");
    // In another order, repeatedly: no identity is used in place of another.
    for _ in 0..3 {
        for (line, expected) in LINES.iter().zip(&first).rev() {
            assert_eq!(site.signer(line), *expected, "{line}");
        }
    }
    let runs = std::fs::read_to_string(site.sim.dir().join("runs")).unwrap();
    assert_eq!(runs.lines().count(), 1);
    assert_eq!(site.sts.calls().assume_role, 1);
    assert_eq!(site.sts.role_sessions(), ["reports/pooler@reports"]);
}

#[test]
fn each_identity_is_shown_with_its_provider() {
    let site = Site::start(TENANT);
    for line in LINES {
        site.signer(line);
    }
    let columns = ["identity", "provider", "access_key_id"].map(|name| site.bouncer.show("TOKENS", name));
    let mut rows: Vec<[&str; 3]> =
        (0..LINES.len()).map(|at| columns.each_ref().map(|all| &*all[at])).collect();
    rows.sort_unstable();
    let role = format!("role={ROLE}");
    let issued = site.sim.last_key().access_key_id;
    let expected = [
        ["default", "environment", KEY_ID],
        ["profile=tool", "process, profile", "AKIDPROCESS"],
        ["profile=work", "profile", "AKIDKEYS"],
        [&role, "assumed role", &issued],
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_refused_role_affects_its_own_line_only() {
    let site = Site::start("another-tenant");
    let (code, text, hint) = site.bouncer.refused_login("app", "role");
    assert_eq!(code, "28000", "{text}");
    assert!(text.contains(ROLE) && hint.ends_with("[IAM016]"), "{text} / {hint}");
    for (line, key) in [("plain", KEY_ID), ("keys", "AKIDKEYS"), ("process", "AKIDPROCESS")] {
        assert_eq!(site.signer(line), key);
    }
    assert_eq!(site.sts.role_sessions(), Vec::<String>::new());
    // Correct the trust policy.
    site.sts.set(|settings| settings.external_id = None);
    eventually("the role is assumed again", || {
        let mut client = Client::start(site.bouncer.port, &[("user", "app"), ("database", "role")]);
        client.read().is_some_and(|message| message.tag == b'R')
    });
    assert!(site.sim.last_key().access_key_id.starts_with("ASIA"));
}
