//! What a start says about AWS: for each database the endpoint and region that tokens are made for, or the secret that
//! holds its password, and who asks. Owns these lines; it runs beside the start and holds nothing up.

use crate::config::{Config, ServerAuth};
use crate::identities::Identities;
use crate::server::signing::Signing;
use crate::server::target::secret_of;
use rds_iam::Resolver;
use rds_iam::secrets::SecretKey;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Logs the lines and asks AWS about every identity.
pub(super) fn endpoints(
    config: &Arc<Config>,
    identities: &Identities,
    resolver: Option<&Resolver>,
    control: &Handle,
) {
    let (config, identities, resolver) = (config.clone(), identities.clone(), resolver.cloned());
    for line in config.all_databases() {
        if let Some(SecretKey { arn, identity }) = secret_of(line) {
            let database = &line.name;
            tracing::info!(database, secret = %arn, %identity, "user and password come from Secrets Manager");
            identities.look_up(&identity);
        }
    }
    control.spawn(async move {
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
                        tracing::info!(database, user, endpoint, %region, %identity, "IAM tokens are made for");
                        identities.look_up(&key.identity);
                    }
                    Err(error) => tracing::warn!(database, "no IAM token can be made: {error}"),
                }
            }
        }
    });
}
