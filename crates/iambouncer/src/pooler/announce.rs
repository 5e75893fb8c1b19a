//! AWS information logged at startup: for each database the endpoint and region that tokens are generated for, or the
//! secret with its password, and the signing identity. Owns these log lines; it runs concurrently and does not delay
//! startup.

use crate::config::{Config, ServerAuth};
use crate::process::Process;
use crate::server::signing::Signing;
use rds_iam::secrets::SecretKey;
use std::sync::Arc;

/// Logs the lines and looks up every identity at AWS.
pub(super) fn endpoints(config: &Arc<Config>, process: &Process) {
    let (config, identities, resolver) =
        (config.clone(), process.identities.clone(), process.resolver.clone());
    for line in config.all_databases() {
        if let Some(SecretKey { arn, identity }) = line.secret_key() {
            let database = &line.name;
            tracing::info!(database, secret = %arn, %identity, "user and password are read from Secrets Manager");
            identities.look_up(&identity);
        }
    }
    process.control.spawn(async move {
        for line in config.all_databases().filter(|line| line.server_auth == ServerAuth::Iam) {
            let signing = Signing::of(line);
            let user = line.user.as_deref().unwrap_or("each client's own");
            for host in &line.host {
                let host = host.tcp();
                let rds_name = match (host, &resolver) {
                    (Some(host), Some(resolver)) if signing.follows_aliases(host) => {
                        resolver.resolve(host).await.ok().and_then(|found| found.rds_name)
                    }
                    _ => None,
                };
                let database = &line.name;
                match signing.key(host, line.port, user, rds_name.as_ref()) {
                    Ok(key) => {
                        let endpoint = format!("{}:{}", key.host, key.port);
                        let (region, identity) = (&key.region, &key.identity);
                        tracing::info!(database, user, endpoint, %region, %identity, "IAM tokens are generated for");
                        identities.look_up(&key.identity);
                    }
                    Err(error) => tracing::warn!(database, "cannot generate IAM tokens: {error}"),
                }
            }
        }
    });
}
