//! rds-iam with `bb8`: a manager whose `connect` requests a token.
//!
//! Owns: the manager. Never: changes the pool, runs a timer or rebuilds anything.
//!
//! `bb8_postgres::PostgresConnectionManager` supports only a fixed password, so the example has its own manager.
//! bb8 also opens connections in the background (`min_idle`); these go through `connect` like all others.
//!
//! ```console
//! $ export PGHOST=orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com PGUSER=app
//! $ cargo run -p rds-iam-examples --example with_bb8
//! ```

pub(crate) mod support;

use std::sync::Arc;

use bb8::{ManageConnection, Pool};
use rds_iam::{AwsCredentials, IamLoginError, Token, TokenEngine, TokenKey, is_refusal};
use support::Endpoint;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Maximum number of connections.
const MAX_CONNECTIONS: u32 = 4;

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

    async fn attempt(&self, token: Arc<Token>) -> Result<Client, Error> {
        let mut config = self.config.clone();
        let (client, connection) = config.password(token.expose()).connect(self.tls.clone()).await?;
        // Runs the connection; ends when the client is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection lost: {error}");
            }
        });
        Ok(client)
    }
}

impl ManageConnection for RdsManager {
    type Connection = Client;
    type Error = IamLoginError<Error>;

    /// The pool calls this for each new connection.
    async fn connect(&self) -> Result<Client, IamLoginError<Error>> {
        let is_refused = |error: &Error| error.code().is_some_and(|state| is_refusal(state.code()));
        self.engine.log_in(&self.key, |token| self.attempt(token), is_refused).await
    }

    async fn is_valid(&self, client: &mut Client) -> Result<(), IamLoginError<Error>> {
        client.check_connection().await.map_err(IamLoginError::Driver)
    }

    fn has_broken(&self, client: &mut Client) -> bool {
        client.is_closed()
    }
}

/// A pool that connects on first use.
pub(crate) fn pool(endpoint: &Endpoint, engine: TokenEngine) -> anyhow::Result<Pool<RdsManager>> {
    Ok(Pool::builder().max_size(MAX_CONNECTIONS).build_unchecked(RdsManager::new(endpoint, engine)?))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoint = Endpoint::read(|name| std::env::var(name).ok())?;
    let pool = pool(&endpoint, TokenEngine::new(AwsCredentials::shared()))?;
    let (first, second) = (pool.get().await?, pool.get().await?);
    for (number, client) in [(1, &first), (2, &second)] {
        let row = client.query_one("select current_user::text", &[]).await?;
        println!("connection {number}: {}", row.try_get::<_, String>(0)?);
    }
    Ok(())
}
