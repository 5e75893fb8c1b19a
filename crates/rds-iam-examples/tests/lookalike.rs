//! The examples of rds-iam against the RDS simulator: TLS with name verification, a real PostgreSQL, verified
//! tokens, and a clock that moves past the expiry of the first token.
//!
//! Owns: what each pool must prove. No engine here has a refresher, and no pool is created twice. Never: uses
//! AWS.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test
#![allow(clippy::duplicate_mod)] // each example brings its `support`

mod support;

#[allow(dead_code)] // the examples' `main`
#[path = "../../rds-iam/examples/with_bb8.rs"]
mod with_bb8;
#[allow(dead_code)]
#[path = "../../rds-iam/examples/with_deadpool_postgres.rs"]
mod with_deadpool_postgres;
#[allow(dead_code)]
#[path = "../../rds-iam/examples/with_sqlx.rs"]
mod with_sqlx;
#[allow(dead_code)]
#[path = "../../rds-iam/examples/with_tokio_postgres.rs"]
mod with_tokio_postgres;

use sqlx::Connection;
use support::{BEYOND_LIFE_SECONDS, Fixture, run_program};

/// Returns the user that is logged in.
const USER_QUERY: &str = "select current_user::text";

/// The endpoint and CA certificates, as read by an example.
macro_rules! endpoint {
    ($example:ident, $fixture:expr) => {
        $example::support::Endpoint::read(|name| $fixture.variable(name)).unwrap()
    };
}

async fn user_of(client: &tokio_postgres::Client) -> String {
    client.query_one(USER_QUERY, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn tokio_postgres_uses_a_fresh_token_for_each_connection() {
    let fixture = Fixture::new().await;
    let endpoint = endpoint!(with_tokio_postgres, fixture);
    let connector = with_tokio_postgres::Connector::new(&endpoint, fixture.engine()).unwrap();
    let first = connector.connect().await.unwrap();

    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let second = connector.connect().await.unwrap();
    assert_eq!([user_of(&first).await, user_of(&second).await], ["app", "app"]);
    fixture.assert_fresh_logins(2);

    fixture.refuse_once();
    let third = connector.connect().await.unwrap();
    assert_eq!(user_of(&third).await, "app");
    fixture.assert_one_refusal();
}

#[tokio::test]
async fn deadpool_uses_a_fresh_token_for_each_connection() {
    let fixture = Fixture::new().await;
    let endpoint = endpoint!(with_deadpool_postgres, fixture);
    let pool = with_deadpool_postgres::pool(&endpoint, fixture.engine()).unwrap();
    let first = pool.get().await.unwrap();

    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let second = pool.get().await.unwrap();
    let statement = second.prepare_cached(USER_QUERY).await.unwrap();
    let user: String = second.query_one(&statement, &[]).await.unwrap().get(0);
    assert_eq!([user_of(&first).await, user], ["app", "app"]);
    fixture.assert_fresh_logins(2);

    // The same pool replaces lost connections.
    drop((first, second));
    fixture.cut_all();
    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    fixture.refuse_once();
    fixture.eventually(async || pool.get().await.unwrap().simple_query(USER_QUERY).await.is_ok()).await;
    fixture.assert_one_refusal();
}

#[tokio::test]
async fn bb8_uses_a_fresh_token_for_each_connection() {
    let fixture = Fixture::new().await;
    let pool = with_bb8::pool(&endpoint!(with_bb8, fixture), fixture.engine()).unwrap();
    let first = pool.get().await.unwrap();

    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let second = pool.get().await.unwrap();
    assert_eq!([user_of(&first).await, user_of(&second).await], ["app", "app"]);
    fixture.assert_fresh_logins(2);

    // bb8 checks a connection before it returns it, and replaces lost ones in the background.
    drop((first, second));
    fixture.cut_all();
    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    fixture.refuse_once();
    let third = pool.get().await.unwrap();
    assert_eq!(user_of(&third).await, "app");
    fixture.assert_one_refusal();
}

#[tokio::test]
async fn sqlx_uses_a_fresh_token_for_each_connection() {
    let fixture = Fixture::new().await;
    let pool = with_sqlx::RdsPool::new(&endpoint!(with_sqlx, fixture), fixture.engine());
    let mut first = pool.acquire().await.unwrap();

    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let mut second = pool.begin().await.unwrap();
    for connection in [&mut *first, &mut *second] {
        assert_eq!(sqlx::query_scalar::<_, String>(USER_QUERY).fetch_one(connection).await.unwrap(), "app");
    }
    fixture.assert_fresh_logins(2);

    // sqlx checks a connection before it returns it: the same pool replaces lost ones.
    second.rollback().await.unwrap();
    drop(first);
    fixture.cut_all();
    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    fixture.refuse_once();
    pool.acquire().await.unwrap().ping().await.unwrap();
    fixture.assert_one_refusal();
}

/// The problem that the examples solve.
#[tokio::test]
async fn a_pool_with_a_fixed_token_is_refused_after_its_expiry() {
    let fixture = Fixture::new().await;
    let endpoint = endpoint!(with_sqlx, fixture);
    let token = fixture.engine().token(&endpoint.key).await.unwrap();
    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host(&endpoint.key.host)
        .port(endpoint.key.port)
        .username("app")
        .database("app")
        .ssl_mode(sqlx::postgres::PgSslMode::VerifyFull)
        .ssl_root_cert_from_pem(endpoint.roots_pem.into_bytes())
        .password(token.expose());
    let pool = sqlx::PgPool::connect_with(options).await.unwrap();
    let _held = pool.acquire().await.unwrap();

    fixture.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let error = pool.acquire().await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "28000");
    assert!(fixture.refusals()[0].starts_with("expired: "), "{:?}", fixture.refusals());
}

#[tokio::test]
async fn a_server_without_a_trusted_certificate_receives_no_token() {
    let fixture = Fixture::new().await;
    let variable = |name: &str| if name == "PGSSLROOTCERT" { None } else { fixture.variable(name) };
    let endpoint = with_tokio_postgres::support::Endpoint::read(variable).unwrap();
    let connector = with_tokio_postgres::Connector::new(&endpoint, fixture.engine()).unwrap();
    let error = connector.connect().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");

    let endpoint = with_sqlx::support::Endpoint::read(variable).unwrap();
    let error = with_sqlx::RdsPool::new(&endpoint, fixture.engine()).acquire().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    assert_eq!(fixture.simulator.log().attempts().len(), 0);
}

#[tokio::test]
async fn the_examples_run_as_programs_with_keys_from_the_environment() {
    let fixture = Fixture::new().await;
    for example in ["with_tokio_postgres", "with_deadpool_postgres", "with_bb8", "with_sqlx"] {
        let printed = run_program(&fixture, example).await;
        assert_eq!(printed, "connection 1: app\nconnection 2: app\n", "{example}");
    }
    assert_eq!(fixture.simulator.log().accepted_and_refused(), (8, 0));
}
