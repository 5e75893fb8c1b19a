//! rds-iam with `sqlx`: a thin type around `PgPool` that hands it a valid token before each acquire.
//!
//! Owns: the pool, so that nobody gets a connection from it another way. Never: runs a timer or rebuilds the pool.
//!
//! sqlx 0.9 has no hook before a connection is opened: `before_acquire` sees idle connections only, and `after_connect`
//! comes too late. What it has is `PgPool::set_connect_options`: connections opened from now on use these. So the token
//! is put there first, and what follows is exact as long as three things hold:
//!
//! - All connections come through [`RdsPool`]. It gives out neither the pool nor an executor on it.
//! - `min_connections` is 0. Others are opened in the background, with whatever token was the last.
//! - `acquire_timeout` is below [`rds_iam::MIN_TOKEN_LEFT`]. A token may wait that long before it is used.
//!
//! A pool that has such a hook holds sqlx's connections too: bb8 or deadpool, where opening one is
//! `options.clone().password(token.expose()).connect()`. Then none of the three is needed.
//!
//! ```console
//! $ export PGHOST=orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com PGUSER=app
//! $ cargo run -p rds-iam-examples --example with_sqlx
//! ```

pub(crate) mod support;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rds_iam::{AwsCredentials, IamLoginError, Token, TokenEngine, TokenKey, is_refusal};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{Error, PgPool, Postgres, Transaction};
use support::Endpoint;

/// How many connections the example has at most.
const MAX_CONNECTIONS: u32 = 4;
/// How long to wait for a connection: less than what is left of a token, so that none is used after its end.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
const _: () = assert!(ACQUIRE_TIMEOUT.as_secs() < rds_iam::MIN_TOKEN_LEFT.as_secs());

/// A pool of connections, each opened with a token of its own time.
pub(crate) struct RdsPool {
    engine: TokenEngine,
    key: TokenKey,
    pool: PgPool,
    /// All but the password. Not to be printed with one: its `Debug` shows it.
    options: PgConnectOptions,
    /// The token in the pool's options.
    handed_over: Mutex<Option<Arc<Token>>>,
}

impl RdsPool {
    /// For a database, with tokens of `engine`. Connects when first asked.
    pub(crate) fn new(endpoint: &Endpoint, engine: TokenEngine) -> Self {
        let key = endpoint.key.clone();
        let options = PgConnectOptions::new_without_pgpass()
            .host(&key.host)
            .port(key.port)
            .username(&key.user)
            .database(&endpoint.database)
            // sqlx trusts the roots of browsers besides.
            .ssl_root_cert_from_pem(endpoint.roots_pem.clone().into_bytes())
            .ssl_mode(PgSslMode::VerifyFull);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.clone());
        Self { engine, key, pool, options, handed_over: Mutex::new(None) }
    }

    /// An idle connection, or a new one.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, IamLoginError<Error>> {
        let attempt = async |token| {
            self.hand_over(token);
            self.pool.acquire().await
        };
        self.engine.log_in(&self.key, attempt, is_refused).await
    }

    /// The same, in a transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, IamLoginError<Error>> {
        let attempt = async |token| {
            self.hand_over(token);
            self.pool.begin().await
        };
        self.engine.log_in(&self.key, attempt, is_refused).await
    }

    /// From now on the pool connects with this token. Cheap while it is the same, which it is for ten minutes.
    fn hand_over(&self, token: Arc<Token>) {
        let mut handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        // Others may have been refused meanwhile, and have handed over a newer one.
        if handed_over.as_ref().is_none_or(|last| last.expires_at() < token.expires_at()) {
            self.pool.set_connect_options(self.options.clone().password(token.expose()));
            *handed_over = Some(token);
        }
    }
}

fn is_refused(error: &Error) -> bool {
    let state = error.as_database_error().and_then(|error| error.code());
    state.is_some_and(|state| is_refusal(&state))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoint = Endpoint::read(|name| std::env::var(name).ok())?;
    let pool = RdsPool::new(&endpoint, TokenEngine::new(AwsCredentials::shared()));
    let mut first = pool.acquire().await?;
    let mut second = pool.begin().await?;
    for (number, connection) in [(1, &mut *first), (2, &mut *second)] {
        let user: String = sqlx::query_scalar("select current_user::text").fetch_one(connection).await?;
        println!("connection {number}: {user}");
    }
    second.commit().await?;
    Ok(())
}
