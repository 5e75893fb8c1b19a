//! rds-iam with `tokio-postgres` alone: a fresh token for each connection.
//!
//! Owns: how a connection is opened. Never: keeps a token or a connection; both are made on request.
//!
//! ```console
//! $ export PGHOST=orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com PGUSER=app
//! $ cargo run -p rds-iam-examples --example with_tokio_postgres
//! ```

pub(crate) mod support;

use std::sync::Arc;

use rds_iam::{AwsCredentials, IamLoginError, Token, TokenEngine, TokenKey, is_refusal};
use support::Endpoint;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Opens connections to one database as one user.
pub(crate) struct Connector {
    engine: TokenEngine,
    key: TokenKey,
    /// Everything except the password.
    config: Config,
    tls: MakeRustlsConnect,
}

impl Connector {
    /// A connector for this database, with tokens of `engine`. Does not connect yet.
    pub(crate) fn new(endpoint: &Endpoint, engine: TokenEngine) -> anyhow::Result<Self> {
        let key = endpoint.key.clone();
        let mut config = Config::new();
        config.host(&key.host).port(key.port).user(&key.user).dbname(&endpoint.database);
        // `Prefer`, the default, would send the token unencrypted to any server that claims not to support TLS.
        config.ssl_mode(SslMode::Require);
        Ok(Self { engine, key, config, tls: MakeRustlsConnect::new(endpoint.tls()?) })
    }

    /// Opens a connection. Its token only has to be valid now; the session may outlive it.
    pub(crate) async fn connect(&self) -> Result<Client, IamLoginError<Error>> {
        let is_refused = |error: &Error| error.code().is_some_and(|state| is_refusal(state.code()));
        self.engine.log_in(&self.key, |token| self.attempt(token), is_refused).await
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

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoint = Endpoint::read(|name| std::env::var(name).ok())?;
    let connector = Connector::new(&endpoint, TokenEngine::new(AwsCredentials::shared()))?;
    for number in 1..=2 {
        let client = connector.connect().await?;
        let row = client.query_one("select current_user::text", &[]).await?;
        println!("connection {number}: {}", row.try_get::<_, String>(0)?);
    }
    Ok(())
}
