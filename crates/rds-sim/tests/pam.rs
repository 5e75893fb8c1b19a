//! A real PostgreSQL with RDS's lines in `pg_hba.conf` and the PAM module.
//!
//! Requires root, to write one file in /etc/pam.d; otherwise it prints a message and passes.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rds_iam::Credentials;
use rds_sim::postgres::{Postgres, PostgresOptions};
use rds_sim::{AccessKey, Certificates, PamEndpoint, Simulator, TokenTarget, hba_lines, pam_service};
use support::{HOST, KEY_ID, REGION, SECRET, connect, connect_plain, refusal, token};

/// The port that tokens are made for; PostgreSQL's own is not known before it starts.
const TOKEN_PORT: u16 = 5432;

/// A file in /etc/pam.d, removed when this is dropped.
struct PamService {
    path: PathBuf,
    name: String,
}

impl PamService {
    fn install(module: &Path, port: u16) -> Option<Self> {
        let name = format!("rds-sim-test-{}", std::process::id());
        let path = Path::new("/etc/pam.d").join(&name);
        std::fs::write(&path, pam_service(module, port)).ok()?;
        Some(Self { path, name })
    }
}

impl Drop for PamService {
    fn drop(&mut self) {
        let _removed = std::fs::remove_file(&self.path);
    }
}

/// Builds the module in the target directory of this test, and copies it to where any account can read it.
fn module(dir: &Path) -> PathBuf {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "rds-sim-pam"])
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .unwrap();
    assert!(status.success());
    let copy = dir.join("librds_sim_pam.so");
    std::fs::copy(target.join("debug/librds_sim_pam.so"), &copy).unwrap();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[tokio::test]
async fn a_real_postgresql_sends_the_same_errors() {
    let dir = tempfile::tempdir().unwrap();
    let simulator = Simulator::default();
    simulator.keys().add(AccessKey::parse(&format!("{KEY_ID}:{SECRET}")).unwrap());
    let target = TokenTarget { hosts: vec![HOST.to_owned()], port: TOKEN_PORT, region: REGION.to_owned() };
    let listen = "127.0.0.1:0".parse().unwrap();
    let endpoint = PamEndpoint::start(&simulator, listen, target).await.unwrap();
    let module = module(dir.path());
    let Some(service) = PamService::install(&module, endpoint.address().port()) else {
        println!("skipped: writing /etc/pam.d requires root");
        return;
    };
    let certificates = Certificates::generate(&[HOST.to_owned()]).unwrap();
    let options = PostgresOptions {
        hba: Some(hba_lines(&service.name)),
        tls: Some(certificates.for_postgres()),
        ..PostgresOptions::default()
    };
    let postgres = tokio::task::spawn_blocking(move || {
        let postgres = Postgres::start(&options).unwrap();
        postgres
            .sql("create role rds_iam; create role app login in role rds_iam; create role plain login password 'pw'")
            .unwrap();
        postgres
    })
    .await
    .unwrap();
    let address = format!("127.0.0.1:{}", postgres.port()).parse().unwrap();
    let ca_pem = certificates.ca_pem();
    let now = simulator.clock().now();

    // A valid token, a very long one, and an invalid one.
    let short = Credentials::new(KEY_ID, SECRET, None, None, "test");
    let right = token(&short, "app", TOKEN_PORT, now);
    let app = connect(address, ca_pem, "app", &right).await.unwrap();
    app.client.query_one("select 1", &[]).await.unwrap();
    let key = simulator.keys().issue(now, Duration::from_secs(600), 16_000);
    let session_token = key.session_token.as_ref().map(|token| token.to_string());
    let long = Credentials::new(&key.access_key_id, key.secret.as_str(), session_token, key.ends_at, "test");
    connect(address, ca_pem, "app", &token(&long, "app", TOKEN_PORT, now)).await.unwrap();
    let refused = refusal(connect(address, ca_pem, "app", &token(&short, "other", TOKEN_PORT, now)).await);
    let expected = ("28000".to_owned(), "PAM authentication failed for user \"app\"".to_owned());
    assert_eq!(refused, expected);

    // The texts that the door imitates.
    let plain = refusal(connect_plain(address, "app", &right).await);
    let rejected = "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"app\", database \"postgres\", \
                    no encryption";
    assert_eq!(plain, ("28000".to_owned(), rejected.to_owned()));
    let wrong = refusal(connect(address, ca_pem, "plain", &right).await);
    let expected = ("28P01".to_owned(), "password authentication failed for user \"plain\"".to_owned());
    assert_eq!(wrong, expected);
    assert_eq!(simulator.log().accepted_and_refused(), (2, 1));
}
