//! The examples of rds-iam against the look-alike of RDS: TLS with the name checked, a real PostgreSQL, tokens verified,
//! and a clock that moves beyond the end of the first token.
//!
//! Owns: what each pool has to show. No engine here has a refresher, and no pool is made twice. Never: AWS.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test
#![allow(clippy::duplicate_mod)] // each example brings its `support`

mod support;

#[allow(dead_code)] // their `main`
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
use support::{BEYOND_LIFE_SECONDS, Stage, run_program};

/// Who is logged in.
const WHO: &str = "select current_user::text";

/// The database and its roots, as an example reads them.
macro_rules! endpoint {
    ($example:ident, $stage:expr) => {
        $example::support::Endpoint::read(|name| $stage.variable(name)).unwrap()
    };
}

async fn who(client: &tokio_postgres::Client) -> String {
    client.query_one(WHO, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn tokio_postgres_has_a_fresh_token_for_each_connection() {
    let stage = Stage::new().await;
    let endpoint = endpoint!(with_tokio_postgres, stage);
    let connector = with_tokio_postgres::Connector::new(&endpoint, stage.engine()).unwrap();
    let first = connector.connect().await.unwrap();

    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let second = connector.connect().await.unwrap();
    assert_eq!([who(&first).await, who(&second).await], ["app", "app"]);
    stage.assert_fresh_logins(2);

    stage.refuse_once();
    let third = connector.connect().await.unwrap();
    assert_eq!(who(&third).await, "app");
    stage.assert_one_refusal();
}

#[tokio::test]
async fn deadpool_has_a_fresh_token_for_each_connection() {
    let stage = Stage::new().await;
    let endpoint = endpoint!(with_deadpool_postgres, stage);
    let pool = with_deadpool_postgres::pool(&endpoint, stage.engine()).unwrap();
    let first = pool.get().await.unwrap();

    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let second = pool.get().await.unwrap();
    let statement = second.prepare_cached(WHO).await.unwrap();
    let user: String = second.query_one(&statement, &[]).await.unwrap().get(0);
    assert_eq!([who(&first).await, user], ["app", "app"]);
    stage.assert_fresh_logins(2);

    // Lost connections are replaced by the same pool.
    drop((first, second));
    stage.cut_all();
    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    stage.refuse_once();
    stage.eventually(async || pool.get().await.unwrap().simple_query(WHO).await.is_ok()).await;
    stage.assert_one_refusal();
}

#[tokio::test]
async fn bb8_has_a_fresh_token_for_each_connection() {
    let stage = Stage::new().await;
    let pool = with_bb8::pool(&endpoint!(with_bb8, stage), stage.engine()).unwrap();
    let first = pool.get().await.unwrap();

    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let second = pool.get().await.unwrap();
    assert_eq!([who(&first).await, who(&second).await], ["app", "app"]);
    stage.assert_fresh_logins(2);

    // bb8 tests a connection before it hands it out, and replaces lost ones in the background.
    drop((first, second));
    stage.cut_all();
    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    stage.refuse_once();
    let third = pool.get().await.unwrap();
    assert_eq!(who(&third).await, "app");
    stage.assert_one_refusal();
}

#[tokio::test]
async fn sqlx_has_a_fresh_token_for_each_connection() {
    let stage = Stage::new().await;
    let pool = with_sqlx::RdsPool::new(&endpoint!(with_sqlx, stage), stage.engine());
    let mut first = pool.acquire().await.unwrap();

    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let mut second = pool.begin().await.unwrap();
    for connection in [&mut *first, &mut *second] {
        assert_eq!(sqlx::query_scalar::<_, String>(WHO).fetch_one(connection).await.unwrap(), "app");
    }
    stage.assert_fresh_logins(2);

    // sqlx tests a connection before it hands it out: the lost ones are replaced by the same pool.
    second.rollback().await.unwrap();
    drop(first);
    stage.cut_all();
    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    stage.refuse_once();
    pool.acquire().await.unwrap().ping().await.unwrap();
    stage.assert_one_refusal();
}

/// What the examples are there for: this is what happens without them.
#[tokio::test]
async fn a_pool_that_keeps_the_token_of_its_start_is_refused() {
    let stage = Stage::new().await;
    let endpoint = endpoint!(with_sqlx, stage);
    let token = stage.engine().token(&endpoint.key).await.unwrap();
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

    stage.simulator.clock().advance(BEYOND_LIFE_SECONDS);
    let error = pool.acquire().await.unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "28000");
    assert!(stage.refusals()[0].starts_with("expired: "), "{:?}", stage.refusals());
}

#[tokio::test]
async fn nobody_gets_a_token_without_the_right_certificate() {
    let stage = Stage::new().await;
    let variable = |name: &str| if name == "PGSSLROOTCERT" { None } else { stage.variable(name) };
    let endpoint = with_tokio_postgres::support::Endpoint::read(variable).unwrap();
    let connector = with_tokio_postgres::Connector::new(&endpoint, stage.engine()).unwrap();
    let error = connector.connect().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");

    let endpoint = with_sqlx::support::Endpoint::read(variable).unwrap();
    let error = with_sqlx::RdsPool::new(&endpoint, stage.engine()).acquire().await.unwrap_err();
    assert!(format!("{error:?}").contains("UnknownIssuer"), "{error:?}");
    assert_eq!(stage.simulator.log().attempts().len(), 0);
}

#[tokio::test]
async fn they_run_as_programs_with_the_keys_of_the_environment() {
    let stage = Stage::new().await;
    for example in ["with_tokio_postgres", "with_deadpool_postgres", "with_bb8", "with_sqlx"] {
        let said = run_program(&stage, example).await;
        assert_eq!(said, "connection 1: app\nconnection 2: app\n", "{example}");
    }
    assert_eq!(stage.simulator.log().accepted_and_refused(), (8, 0));
}
