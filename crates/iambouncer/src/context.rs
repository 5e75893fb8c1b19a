//! What every part of a worker may look at: the configuration in force, users, TLS, tokens, the control thread.
//! Owns the swap at RELOAD; decides nothing.

use crate::auth::iam::proof_verifiers::ProofVerifiers;
use crate::auth::ident::IdentMap;
use crate::auth::mock::Forms;
use crate::client_identity::ClientIdentities;
use crate::config::{Config, Settings, UserList};
use crate::host_names::{HostNames, Sources};
use crate::identities::Identities;
use crate::log_limit::LogLimit;
use crate::net::Endpoint;
use crate::net::tcp_options::TcpOptions;
use crate::net::verified::ServerTls;
use crate::parameters::Parameters;
use crate::pending_logins::PendingLogins;
use crate::pool::shared::Registry;
use crate::prepared::{Interner, UnnamedTexts};
use crate::server::target::secret_of;
use crate::worker::workers::Workers;
use rds_iam::secrets::{AwsSecrets, SecretCache};
use rds_iam::{LoginLimiter, Resolver, SystemClock, TokenEngine};
use rustls::ServerConfig;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// The parts of the configuration that are files: read at start and at RELOAD, all or nothing.
#[derive(Clone)]
pub struct ConfigFiles {
    /// Validated settings.
    pub config: Arc<Config>,
    /// `auth_file`.
    pub users: Arc<UserList>,
    /// `auth_ident_file`.
    pub ident: Arc<IdentMap>,
    /// TLS towards servers; `None` when off.
    pub server_tls: Option<ServerTls>,
    /// TLS towards clients; `None` when off.
    pub client_tls: Option<Arc<ServerConfig>>,
}

/// What all workers start from.
#[derive(Clone)]
pub struct Common {
    /// First configuration.
    pub loaded: ConfigFiles,
    /// The control thread.
    pub control: tokio::runtime::Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Passwords of Secrets Manager.
    pub secrets: SecretCache,
    /// Who AWS takes us for.
    pub identities: Identities,
    /// Names with their aliases; `None` where DNS is not set up.
    pub resolver: Option<Resolver>,
    /// Addresses of host names.
    pub host_names: HostNames,
    /// How many IAM logins may begin.
    pub login_rate: LoginLimiter,
    /// Clients' proofs of AWS identities.
    pub proofs: ProofVerifiers,
    /// Connections that have not logged in yet.
    pub pending_logins: PendingLogins,
    /// Bounds log lines about them.
    pub log_limit: LogLimit,
    /// What the workers count together.
    pub registry: Arc<Registry>,
    /// Where we listen.
    pub own_endpoints: Vec<Endpoint>,
    /// Random for the life of the process.
    pub process_key: [u8; 32],
}

/// The secrets that a configuration names, read with the credentials that tokens are signed with.
pub fn secrets_for(tokens: &TokenEngine, settings: &Settings) -> SecretCache {
    let source = AwsSecrets::shared(tokens.credential_cache().clone());
    let secrets = SecretCache::new(source, Arc::new(SystemClock));
    secrets.set_times(settings.secret_refresh, settings.secret_grace);
    secrets
}

/// Shared by all tasks of a worker.
pub struct Context {
    loaded: RefCell<Rc<ConfigFiles>>,
    /// Where slow work runs: AWS calls, DNS, key derivation.
    pub control: tokio::runtime::Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Passwords of Secrets Manager.
    pub secrets: SecretCache,
    /// Who AWS takes us for.
    pub identities: Identities,
    /// Names with their aliases; `None` where DNS is not set up.
    pub resolver: Option<Resolver>,
    /// Addresses of host names, for all workers.
    pub host_names: HostNames,
    /// How many IAM logins may begin.
    pub login_rate: LoginLimiter,
    /// Clients' proofs of AWS identities.
    pub proofs: ProofVerifiers,
    /// Connections that have not logged in yet, of all workers.
    pub pending_logins: PendingLogins,
    /// Bounds log lines about them.
    pub log_limit: LogLimit,
    /// All workers.
    pub workers: Workers,
    /// What they count together.
    pub registry: Arc<Registry>,
    /// Session parameters that follow clients.
    pub parameters: Parameters,
    /// Who clients say they are.
    pub client_identities: ClientIdentities,
    /// Texts of prepared statements.
    pub statements: Interner,
    /// Texts of unnamed statements.
    pub unnamed: UnnamedTexts,
    /// Where we listen, to recognise ourselves as an upstream.
    pub own_endpoints: Vec<Endpoint>,
    /// Random for the life of the process; keys what unknown users are held against.
    pub process_key: [u8; 32],
    /// Of the `auth_file` in force; made when it is needed first.
    forms: RefCell<Option<Rc<Forms>>>,
}

impl Context {
    /// A context around a first configuration, for one worker.
    pub fn new(common: Common, workers: Workers) -> Self {
        let Common {
            loaded,
            control,
            tokens,
            secrets,
            identities,
            resolver,
            host_names,
            login_rate,
            proofs,
            pending_logins,
            log_limit,
            registry,
            own_endpoints,
            process_key,
        } = common;
        let extra: Vec<String> = crate::config::split_list(&loaded.config.settings.track_extra_parameters)
            .map(str::to_owned)
            .collect();
        Self {
            loaded: RefCell::new(Rc::new(loaded)),
            control,
            tokens,
            secrets,
            identities,
            resolver,
            host_names,
            login_rate,
            proofs,
            pending_logins,
            log_limit,
            workers,
            registry,
            parameters: Parameters::new(extra),
            client_identities: ClientIdentities::default(),
            statements: Interner::default(),
            unnamed: UnnamedTexts::default(),
            own_endpoints,
            process_key,
            forms: RefCell::default(),
        }
    }

    /// In which forms the `auth_file` in force stores passwords.
    pub fn forms(&self) -> Rc<Forms> {
        let mut forms = self.forms.borrow_mut();
        let forms = forms.get_or_insert_with(|| {
            let users = self.loaded.borrow().users.clone();
            Rc::new(Forms::sample(users.iter().map(|(user, entry)| (user.as_str(), entry.password.expose()))))
        });
        forms.clone()
    }

    /// What is in force now.
    pub fn loaded(&self) -> Rc<ConfigFiles> {
        self.loaded.borrow().clone()
    }

    /// The configuration in force now.
    pub fn config(&self) -> Arc<Config> {
        self.loaded.borrow().config.clone()
    }

    /// Puts another configuration in force.
    pub fn replace(&self, loaded: ConfigFiles) {
        *self.loaded.borrow_mut() = Rc::new(loaded);
        self.forms.take();
        let config = self.config();
        self.login_rate.set_rate(config.settings.iam_login_rate);
        self.secrets.set_times(config.settings.secret_refresh, config.settings.secret_grace);
        self.secrets.keep_only(&config.all_databases().filter_map(secret_of).collect());
        // Another endpoint, another database: what was asked before may have another answer.
        self.proofs.tokens.forget();
    }

    /// Who may be asked for the addresses of host names.
    pub fn name_sources(&self) -> Sources {
        let is_dns_only = self.loaded.borrow().config.settings.names_dns_servers();
        Sources { resolver: self.resolver.clone(), is_dns_only }
    }

    /// TCP settings in force.
    pub fn tcp_options(&self) -> TcpOptions {
        TcpOptions::of(&self.loaded.borrow().config.settings)
    }

    /// Runs `future` on the control thread and waits for it here. `None` if it panicked or the thread is gone.
    pub async fn on_control<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.control.spawn(future).await.ok()
    }

    /// Runs slow arithmetic or a blocking call beside the control thread and waits for it here.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.control.spawn_blocking(work).await.ok()
    }
}
