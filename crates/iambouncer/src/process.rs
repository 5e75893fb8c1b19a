//! State shared by all threads of the process: AWS credentials and tokens, limits, counters and health. Owns one
//! allocation that every worker and the control thread reference; nothing in it belongs to a single worker.

use crate::auth::iam::proof_verifiers::ProofVerifiers;
use crate::auth::lookups::Lookups;
use crate::auth::scram::derived::DerivedKeys;
use crate::cancel_requests::CancelRequests;
use crate::config::{Config, MAX_PEER_ID};
use crate::health_state::{FirstLogin, HealthState};
use crate::host_names::{FreshAddresses, HostNames};
use crate::identities::Identities;
use crate::limits::Limits;
use crate::log_limit::LogLimit;
use crate::net::Endpoint;
use crate::peer_pools::{PeerKey, PeerPools};
use crate::pending_logins::PendingLogins;
use crate::placement::{LoadLimits, Placement};
use crate::server_roles::ServerRoles;
use crate::session_functions::FunctionRegistry;
use crate::stats::client_counters::ClientCounters;
use crate::stats::history::History;
use crate::stats::logins::LoginCounters;
use crate::stats::session_counters::SessionCounters;
use crate::stats::trace_counters::TraceCounters;
#[cfg(feature = "otlp")]
use crate::traces::TraceQueue;
use rds_iam::secrets::{AwsSecrets, SecretCache, SecretKey};
use rds_iam::{LoginLimiter, Resolver, SystemClock, TokenEngine};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// Maximum number of concurrent logins of clients by LDAP.
const MAX_LDAP_LOGINS: usize = 16;
/// Maximum number of concurrent logins of clients by PAM, each on a thread of its own.
#[cfg(feature = "pam")]
const MAX_PAM_LOGINS: usize = 8;

/// Shared by all threads of the process.
pub struct Process {
    /// Runtime for AWS calls, DNS and key derivation.
    pub control: Handle,
    /// Signs and caches IAM tokens.
    pub tokens: TokenEngine,
    /// Caches secrets of Secrets Manager.
    pub secrets: SecretCache,
    /// The AWS identities that sign tokens.
    pub identities: Identities,
    /// Resolves host names with aliases; `None` if DNS is not configured.
    pub resolver: Option<Resolver>,
    /// Addresses of host names.
    pub host_names: HostNames,
    /// Limits the rate of IAM logins.
    pub login_rate: LoginLimiter,
    /// Results of checks of clients' AWS proofs.
    pub proofs: ProofVerifiers,
    /// Look-ups of passwords on servers.
    pub lookups: Lookups,
    /// Permits for logins of clients that LDAP servers verify.
    pub ldap_logins: Arc<Semaphore>,
    /// Permits for logins of clients that PAM verifies.
    #[cfg(feature = "pam")]
    pub pam_logins: Arc<Semaphore>,
    /// Connections that have not logged in yet.
    pub pending_logins: PendingLogins,
    /// Number of this process among its peers; 0 if it has none.
    pub peer_id: u16,
    /// Addresses of `peer_host`.
    pub peer_addresses: FreshAddresses,
    /// Cancel requests to other processes.
    pub peer_pools: PeerPools,
    /// Wrong keys in cancel requests.
    pub cancel_requests: CancelRequests,
    /// Limits log lines about unauthenticated connections.
    pub log_limit: LogLimit,
    /// The addresses of this process's listeners, to detect a server that is the pooler itself.
    pub own_endpoints: Vec<Endpoint>,
    /// A random key for the lifetime of the process.
    pub key: [u8; 32],
    /// Keys of passwords.
    pub derived_keys: DerivedKeys,
    /// Process-wide counters and limits.
    pub limits: Limits,
    /// Which workers serve clients.
    pub placement: Placement,
    /// Counters of logins to servers.
    pub logins: LoginCounters,
    /// The last minutes of all pools.
    pub history: History,
    /// Counters of clients.
    pub client_counters: ClientCounters,
    /// Counters of session state.
    pub session_counters: SessionCounters,
    /// Functions that change the session of their caller.
    pub session_functions: FunctionRegistry,
    /// Which hosts accept writes.
    pub server_roles: ServerRoles,
    /// Counters of traces.
    pub trace_counters: Arc<TraceCounters>,
    /// Traces on the way to the exporter.
    #[cfg(feature = "otlp")]
    pub traces: TraceQueue,
    /// State reported by probes.
    pub health: HealthState,
}

/// Parts of a [`Process`].
pub struct ProcessParts {
    /// The control runtime.
    pub control: Handle,
    /// Signs and caches IAM tokens.
    pub tokens: TokenEngine,
    /// Resolves host names with aliases.
    pub resolver: Option<Resolver>,
    /// The addresses of this process's listeners.
    pub own_endpoints: Vec<Endpoint>,
    /// Number of workers.
    pub workers: usize,
    /// Whether readiness must wait for the first login to a server.
    pub first_login: FirstLogin,
}

impl Process {
    /// The state of a process starting now.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new(config: &Config, parts: ProcessParts) -> io::Result<Arc<Self>> {
        let settings = &config.settings;
        let ProcessParts { control, tokens, resolver, own_endpoints, workers, first_login } = parts;
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("could not generate random numbers"))?;
        let peer_id = peer_id_of(config)?;
        let began = Instant::now();
        let secrets =
            SecretCache::new(AwsSecrets::shared(tokens.credential_cache().clone()), Arc::new(SystemClock));
        secrets.set_times(settings.secret_refresh, settings.secret_grace);
        Ok(Arc::new(Self {
            identities: Identities::new(tokens.clone(), control.clone()),
            control,
            tokens,
            secrets,
            resolver,
            host_names: HostNames::default(),
            login_rate: LoginLimiter::new(settings.iam_login_rate),
            proofs: ProofVerifiers::default(),
            lookups: Lookups::default(),
            ldap_logins: Arc::new(Semaphore::new(MAX_LDAP_LOGINS)),
            #[cfg(feature = "pam")]
            pam_logins: Arc::new(Semaphore::new(MAX_PAM_LOGINS)),
            pending_logins: PendingLogins::default(),
            peer_id,
            peer_addresses: FreshAddresses::default(),
            peer_pools: PeerPools::default(),
            cancel_requests: CancelRequests::default(),
            log_limit: LogLimit::default(),
            own_endpoints,
            key,
            derived_keys: DerivedKeys::new(key),
            limits: Limits::new(began),
            placement: Placement::new(
                settings.workers.at_least().min(workers),
                workers,
                load_limits(),
                began,
            ),
            logins: LoginCounters::new(began),
            history: History::new(began),
            client_counters: ClientCounters::default(),
            session_counters: SessionCounters::default(),
            server_roles: ServerRoles::default(),
            session_functions: FunctionRegistry::default(),
            trace_counters: Arc::default(),
            #[cfg(feature = "otlp")]
            traces: TraceQueue::default(),
            health: HealthState::new(workers, began, first_login),
        }))
    }

    /// Applies an activated configuration.
    pub fn configure(&self, config: &Config, secrets: &HashSet<SecretKey>) {
        self.login_rate.set_rate(config.settings.iam_login_rate);
        self.secrets.set_times(config.settings.secret_refresh, config.settings.secret_grace);
        self.secrets.keep_only(secrets);
        // With another endpoint or database, a proof may have another result.
        self.proofs.tokens.forget();
        self.proofs.passwords.forget();
        self.lookups.forget();
        self.peer_pools.keep_only(|key| match key {
            PeerKey::Id(id) => config.peers.contains_key(id),
            PeerKey::Address(_) => true,
        });
        self.host_names.forget_failures();
        #[cfg(feature = "otlp")]
        self.traces.configure(&config.settings);
    }
}

/// The loads at which workers join and leave.
fn load_limits() -> LoadLimits {
    #[cfg(debug_assertions)]
    if let Some(busy) = std::env::var("TEST_BUSY_LOAD").ok().and_then(|text| text.parse().ok()) {
        return LoadLimits::from_busy(busy);
    }
    LoadLimits::DEFAULT
}

/// The configured `peer_id`; with `peer_host` alone a random one. Another process may have the same: requests are sent to
/// all, and the key has enough other bits. Those of listed peers are not chosen, since these are asked directly.
fn peer_id_of(config: &Config) -> io::Result<u16> {
    let settings = &config.settings;
    if settings.peer_id > 0 || settings.peer_host.is_empty() {
        return Ok(settings.peer_id);
    }
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("could not generate random numbers"))?;
    let first = u16::try_from(u32::from_be_bytes(random) % u32::from(MAX_PEER_ID)).unwrap_or_default();
    let mut candidates = (first..MAX_PEER_ID).chain(0..first).map(|from_zero| from_zero + 1);
    let free = candidates.find(|id| !config.peers.contains_key(id));
    free.ok_or_else(|| io::Error::other("[peers] lists every possible peer_id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Peer, Settings};

    #[test]
    fn a_number_is_chosen_with_peer_host_alone() {
        let with = |peer_host: &str, peer_id: u16| Config {
            settings: Settings { peer_host: peer_host.to_owned(), peer_id, ..Settings::default() },
            ..Config::default()
        };
        assert_eq!(peer_id_of(&with("", 0)).unwrap(), 0);
        assert_eq!(peer_id_of(&with("", 5)).unwrap(), 5);
        assert_eq!(peer_id_of(&with("peers", 5)).unwrap(), 5);
        let chosen: Vec<u16> = (0..100).map(|_| peer_id_of(&with("peers", 0)).unwrap()).collect();
        assert!(chosen.iter().all(|id| (1..=MAX_PEER_ID).contains(id)));
        assert!(chosen.iter().any(|id| *id != chosen[0]));
    }

    #[test]
    fn the_number_of_a_listed_peer_is_not_chosen() {
        let mut config = Config::default();
        config.settings.peer_host = "peers".to_owned();
        let peer = Peer { host: None, port: 6432, pool_size: None };
        config.peers = (1..=MAX_PEER_ID).filter(|id| *id != 77).map(|id| (id, peer.clone())).collect();
        assert_eq!(peer_id_of(&config).unwrap(), 77);
        config.peers.insert(77, peer);
        assert!(peer_id_of(&config).is_err());
    }
}
