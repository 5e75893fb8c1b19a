//! rds-iam with `sqlx`: a thin wrapper around `PgPool` that sets a valid token before each acquire.
//!
//! Owns: the pool, so that all connections go through the wrapper. Never: runs a timer or rebuilds the pool.
//!
//! sqlx 0.9 has no hook before a connection is opened: `before_acquire` is called for idle connections only,
//! and `after_connect` is too late. It has `PgPool::set_connect_options`, which applies to all connections
//! opened afterwards. The wrapper therefore sets the token there first, which is correct under three
//! conditions:
//!
//! - All connections go through [`RdsPool`]. It exposes neither the pool nor an executor on it.
//! - `min_connections` is 0. Otherwise connections are opened in the background, with the last token,
//!   whatever its age.
//! - `acquire_timeout` is below [`rds_iam::MIN_TOKEN_LEFT`]. A token may wait that long before it is used.
//!
//! A pool with such a hook can also hold sqlx's connections: bb8 or deadpool, where opening one is
//! `options.clone().password(token.expose()).connect()`. Then none of the three conditions is needed.
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

/// Maximum number of connections.
const MAX_CONNECTIONS: u32 = 4;
/// Time limit for a connection: below the minimum remaining life of a token, so that none is used after its
/// expiry.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(15);
const _: () = assert!(ACQUIRE_TIMEOUT.as_secs() < rds_iam::MIN_TOKEN_LEFT.as_secs());

/// A pool of connections, each opened with a token valid at that time.
pub(crate) struct RdsPool {
    engine: TokenEngine,
    key: TokenKey,
    pool: PgPool,
    /// Everything except the password. Do not print it with a password: its `Debug` output contains it.
    options: PgConnectOptions,
    /// The token in the pool's options.
    current: Mutex<Option<Arc<Token>>>,
}

impl RdsPool {
    /// A pool for this database, with tokens of `engine`. Connects on first use.
    pub(crate) fn new(endpoint: &Endpoint, engine: TokenEngine) -> Self {
        let key = endpoint.key.clone();
        let options = PgConnectOptions::new_without_pgpass()
            .host(&key.host)
            .port(key.port)
            .username(&key.user)
            .database(&endpoint.database)
            // sqlx additionally trusts the web PKI roots.
            .ssl_root_cert_from_pem(endpoint.roots_pem.clone().into_bytes())
            .ssl_mode(PgSslMode::VerifyFull);
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .min_connections(0)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.clone());
        Self { engine, key, pool, options, current: Mutex::new(None) }
    }

    /// An idle connection, or a new one.
    pub(crate) async fn acquire(&self) -> Result<PoolConnection<Postgres>, IamLoginError<Error>> {
        let attempt = async |token| {
            self.set_token(token);
            self.pool.acquire().await
        };
        self.engine.log_in(&self.key, attempt, is_refused).await
    }

    /// Like `acquire`, in a transaction.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Postgres>, IamLoginError<Error>> {
        let attempt = async |token| {
            self.set_token(token);
            self.pool.begin().await
        };
        self.engine.log_in(&self.key, attempt, is_refused).await
    }

    /// Sets the token for connections opened from now on. Cheap while the token is unchanged, which it is for
    /// ten minutes.
    fn set_token(&self, token: Arc<Token>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Another task may have been refused meanwhile and have set a newer token.
        if current.as_ref().is_none_or(|last| last.expires_at() < token.expires_at()) {
            self.pool.set_connect_options(self.options.clone().password(token.expose()));
            *current = Some(token);
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
