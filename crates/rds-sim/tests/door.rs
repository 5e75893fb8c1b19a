//! The door in front of a real PostgreSQL, with a real driver.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

mod support;

use std::time::{Duration, Instant};

use rds_iam::Credentials;
use rds_sim::LoginOutcome;
use support::{Fixture, connect_plain, refusal, token};

const PAM_REFUSAL: (&str, &str) = ("28000", "PAM authentication failed for user \"app\"");

fn as_text(refusal: &(String, String)) -> (&str, &str) {
    (&refusal.0, &refusal.1)
}

#[tokio::test]
async fn only_valid_tokens_are_accepted() {
    let fixture = Fixture::new().await;
    let app = fixture.connect("app", &fixture.token("app")).await.unwrap();
    let row = app.client.query_one("select current_user::text, 40 + 2", &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0).as_str(), row.get::<_, i32>(1)), ("app", 42));

    let port = fixture.door.target().port;
    let stranger = Credentials::new("AKIDSTRANGER", support::SECRET, None, None, "test");
    let wrong = [
        "password".to_owned(),
        fixture.token("other"),
        token(&stranger, "app", port, fixture.simulator.clock().now()),
        fixture.token("app").replace(support::HOST, "alias.example.com"),
    ];
    for password in wrong {
        assert_eq!(as_text(&refusal(fixture.connect("app", &password).await)), PAM_REFUSAL);
    }
    assert_eq!(fixture.simulator.log().accepted_and_refused(), (1, 4));
}

#[tokio::test]
async fn session_tokens_of_maximum_length_are_accepted() {
    let fixture = Fixture::new().await;
    let now = fixture.simulator.clock().now();
    for session_token_bytes in [4096, 65_000] {
        let key = fixture.simulator.keys().issue(now, Duration::from_secs(600), session_token_bytes);
        let session_token = key.session_token.as_ref().map(|token| token.to_string());
        let credentials =
            Credentials::new(&key.access_key_id, key.secret.as_str(), session_token, key.ends_at, "test");
        let token = token(&credentials, "app", fixture.door.target().port, now);
        assert!(token.len() > session_token_bytes);
        fixture.connect("app", &token).await.unwrap();
    }
}

#[tokio::test]
async fn without_tls_logins_are_refused_with_the_texts_of_pg_hba() {
    let fixture = Fixture::new().await;
    let app = refusal(connect_plain(fixture.door.address(), "app", &fixture.token("app")).await);
    let rejected = "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"app\", database \"postgres\", \
                    no encryption";
    assert_eq!(as_text(&app), ("28000", rejected));
    let plain = refusal(connect_plain(fixture.door.address(), "plain", "pw").await);
    assert!(plain.1.starts_with("no pg_hba.conf entry for host \"127.0.0.1\", user \"plain\""));
}

#[tokio::test]
async fn other_users_are_authenticated_by_postgresql() {
    let hba = "local all postgres trust\nlocal all app trust\nlocal all all scram-sha-256\n".to_owned();
    let options = rds_sim::postgres::PostgresOptions { hba: Some(hba), ..Default::default() };
    let fixture = Fixture::with(options).await;
    fixture.connect("plain", "pw").await.unwrap();
    let wrong = refusal(fixture.connect("plain", &fixture.token("plain")).await);
    assert_eq!(as_text(&wrong), ("28P01", "password authentication failed for user \"plain\""));
}

#[tokio::test]
async fn tokens_expire_by_the_simulators_clock() {
    let fixture = Fixture::new().await;
    let token = fixture.token("app");
    fixture.connect("app", &token).await.unwrap();
    // A slow machine adds seconds, so the test avoids the exact limit.
    fixture.simulator.clock().advance(840);
    let session = fixture.connect("app", &token).await.unwrap();
    fixture.simulator.clock().advance(80);
    assert_eq!(as_text(&refusal(fixture.connect("app", &token).await)), PAM_REFUSAL);
    // A session continues after its token has expired.
    session.client.query_one("select 1", &[]).await.unwrap();
    fixture.connect("app", &fixture.token("app")).await.unwrap();
    let last = fixture.simulator.log().attempts();
    let LoginOutcome::Refused { reason } = &last[last.len() - 2].outcome else { panic!("{last:?}") };
    let age = reason.strip_prefix("expired: ").and_then(|rest| rest.strip_suffix(" s old"));
    let age_s: u64 = age.unwrap_or_else(|| panic!("{reason}")).parse().unwrap();
    assert!((920..980).contains(&age_s), "{reason}");
}

#[tokio::test]
async fn faults_affect_logins() {
    let fixture = Fixture::new().await;
    let faults = fixture.simulator.faults().clone();

    faults.set(|settings| settings.refuse_next = 1);
    assert_eq!(as_text(&refusal(fixture.connect("app", &fixture.token("app")).await)), PAM_REFUSAL);
    fixture.connect("app", &fixture.token("app")).await.unwrap();

    faults.set(|settings| settings.drop_next = 1);
    let dropped = fixture.connect("app", &fixture.token("app")).await.err().unwrap();
    assert!(dropped.as_db_error().is_none());

    faults.set(|settings| settings.max_logins_per_second = Some(0));
    assert_eq!(as_text(&refusal(fixture.connect("app", &fixture.token("app")).await)), PAM_REFUSAL);
    faults.clear();

    faults.set(|settings| settings.login_delay = Duration::from_millis(300));
    let start = Instant::now();
    fixture.connect("app", &fixture.token("app")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn faults_affect_sessions() {
    let fixture = Fixture::new().await;
    let faults = fixture.simulator.faults().clone();
    let session = fixture.connect("app", &fixture.token("app")).await.unwrap();

    faults.set(|settings| settings.stall = true);
    let query = session.client.query_one("select 1", &[]);
    tokio::pin!(query);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut query).await.is_err());
    faults.clear();
    query.await.unwrap();

    faults.cut_now();
    assert!(session.client.query_one("select 1", &[]).await.is_err());

    faults.set(|settings| settings.cut_after_bytes = Some(5000));
    let session = fixture.connect("app", &fixture.token("app")).await.unwrap();
    session.client.query_one("select 1", &[]).await.unwrap();
    assert!(session.client.query_one("select repeat('x', 9000)", &[]).await.is_err());
}

#[tokio::test]
async fn cancel_requests_are_forwarded() {
    let fixture = Fixture::new().await;
    let session = fixture.connect("app", &fixture.token("app")).await.unwrap();
    let cancel = session.client.cancel_token();
    let (address, tls) = (fixture.door.address(), fixture.tls());
    let query = tokio::spawn(async move { session.client.query_one("select pg_sleep(30)", &[]).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    cancel.cancel_query_raw(stream, tls).await.unwrap();
    let error = query.await.unwrap().unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
}
