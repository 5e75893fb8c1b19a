//! rds-iam with `deadpool-postgres`: a manager whose `create` requests a token.
//!
//! Owns: the manager. Never: changes the pool, runs a timer or rebuilds anything.
//!
//! The example has its own manager. `deadpool_postgres::Manager` has a hook, the trait `Connect`, but its error
//! type is that of `tokio-postgres`, which cannot report a missing token. The pool holds deadpool-postgres'
//! `ClientWrapper`, so cached statements and transactions work as usual.
//!
//! ```console
//! $ export PGHOST=orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com PGUSER=app
//! $ cargo run -p rds-iam-examples --example with_deadpool_postgres
//! ```

pub(crate) mod support;

use std::sync::Arc;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use rds_iam::{AwsCredentials, IamLoginError, Token, TokenEngine, TokenKey, is_refusal};
use support::Endpoint;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Maximum number of connections.
const MAX_CONNECTIONS: usize = 4;

/// A pool of connections, each opened with a token valid at that time.
pub(crate) type Pool = managed::Pool<RdsManager>;

/// Opens and checks connections to one database as one user.
pub(crate) struct RdsManager {
    engine: TokenEngine,
    key: TokenKey,
    /// Everything except the password.
    config: Config,
    tls: MakeRustlsConnect,
}

impl RdsManager {
    /// A manager for this database, with tokens of `engine`. Does not connect yet.
    pub(crate) fn new(endpoint: &Endpoint, engine: TokenEngine) -> anyhow::Result<Self> {
        let key = endpoint.key.clone();
        let mut config = Config::new();
        config.host(&key.host).port(key.port).user(&key.user).dbname(&endpoint.database);
        // `Prefer`, the default, would send the token unencrypted to any server that claims not to support TLS.
        config.ssl_mode(SslMode::Require);
        Ok(Self { engine, key, config, tls: MakeRustlsConnect::new(endpoint.tls()?) })
    }

    async fn attempt(&self, token: Arc<Token>) -> Result<ClientWrapper, Error> {
        let mut config = self.config.clone();
        let (client, connection) = config.password(token.expose()).connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection lost: {error}");
            }
        });
        Ok(ClientWrapper::new(client, task))
    }
}

impl managed::Manager for RdsManager {
    type Type = ClientWrapper;
    type Error = IamLoginError<Error>;

    /// The pool calls this for each new connection.
    async fn create(&self) -> Result<ClientWrapper, IamLoginError<Error>> {
        let is_refused = |error: &Error| error.code().is_some_and(|state| is_refusal(state.code()));
        self.engine.log_in(&self.key, |token| self.attempt(token), is_refused).await
    }

    async fn recycle(&self, client: &mut ClientWrapper, _: &Metrics) -> RecycleResult<IamLoginError<Error>> {
        if client.is_closed() {
            return Err(RecycleError::message("the connection is closed"));
        }
        Ok(())
    }
}

/// A pool that connects on first use.
pub(crate) fn pool(endpoint: &Endpoint, engine: TokenEngine) -> anyhow::Result<Pool> {
    Ok(Pool::builder(RdsManager::new(endpoint, engine)?).max_size(MAX_CONNECTIONS).build()?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoint = Endpoint::read(|name| std::env::var(name).ok())?;
    let pool = pool(&endpoint, TokenEngine::new(AwsCredentials::shared()))?;
    let (first, second) = (pool.get().await?, pool.get().await?);
    for (number, client) in [(1, &first), (2, &second)] {
        let statement = client.prepare_cached("select current_user::text").await?;
        let row = client.query_one(&statement, &[]).await?;
        println!("connection {number}: {}", row.try_get::<_, String>(0)?);
    }
    Ok(())
}
