//! State shared by all threads of the process: AWS credentials and tokens, limits, counters and health. Owns one
//! allocation that every worker and the control thread reference; it never contains state of a single worker.

use crate::auth::iam::proof_verifiers::ProofVerifiers;
use crate::config::{Config, Settings};
use crate::health_state::HealthState;
use crate::host_names::HostNames;
use crate::identities::Identities;
use crate::limits::Limits;
use crate::log_limit::LogLimit;
use crate::net::Endpoint;
use crate::pending_logins::PendingLogins;
use crate::stats::logins::LoginCounters;
use rds_iam::secrets::{AwsSecrets, SecretCache};
use rds_iam::{LoginLimiter, Resolver, SystemClock, TokenEngine};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// Shared by all threads of the process.
pub struct Process {
    /// The runtime for slow work: AWS calls, DNS, key derivation.
    pub control: Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Passwords from Secrets Manager.
    pub secrets: SecretCache,
    /// The AWS identities that sign tokens.
    pub identities: Identities,
    /// Resolves host names and their aliases; `None` if DNS is not configured.
    pub resolver: Option<Resolver>,
    /// Addresses of host names.
    pub host_names: HostNames,
    /// Limits the rate of IAM logins.
    pub login_rate: LoginLimiter,
    /// Results of checks of clients' AWS proofs.
    pub proofs: ProofVerifiers,
    /// Connections that have not logged in yet.
    pub pending_logins: PendingLogins,
    /// Limits log lines about connections that have not logged in.
    pub log_limit: LogLimit,
    /// The addresses that this process listens on, so that it can recognize itself as a server.
    pub own_endpoints: Vec<Endpoint>,
    /// Random, constant for the life of the process.
    pub key: [u8; 32],
    /// Counters with limits.
    pub limits: Limits,
    /// Counters of logins to servers.
    pub logins: LoginCounters,
    /// The state that probes report.
    pub health: HealthState,
}

/// The parts of a [`Process`].
pub struct ProcessParts {
    /// The control thread.
    pub control: Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Resolves host names and their aliases.
    pub resolver: Option<Resolver>,
    /// The addresses that this process listens on.
    pub own_endpoints: Vec<Endpoint>,
    /// Number of workers.
    pub workers: usize,
    /// Readiness waits for the first login to a server.
    pub awaits_login: bool,
}

impl Process {
    /// Creates the shared state.
    ///
    /// # Errors
    /// The system provides no random numbers.
    pub fn new(settings: &Settings, parts: ProcessParts) -> io::Result<Arc<Self>> {
        let ProcessParts { control, tokens, resolver, own_endpoints, workers, awaits_login } = parts;
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| io::Error::other("no random numbers available"))?;
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
            pending_logins: PendingLogins::default(),
            log_limit: LogLimit::default(),
            own_endpoints,
            key,
            limits: Limits::new(workers, began),
            logins: LoginCounters::new(began),
            health: HealthState::new(workers, began, awaits_login),
        }))
    }

    /// Applies the settings of a configuration that has come into force.
    pub fn configure(&self, config: &Config) {
        self.login_rate.set_rate(config.settings.iam_login_rate);
        self.secrets.set_times(config.settings.secret_refresh, config.settings.secret_grace);
        self.secrets.keep_only(&config.all_databases().filter_map(|line| line.secret_key()).collect());
        // With another endpoint or database, the same proof may have another result.
        self.proofs.tokens.forget();
    }
}
