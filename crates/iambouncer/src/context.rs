//! State available to all tasks of a worker: the active configuration, users, TLS, and what the process shares. Owns
//! the replacement of the configuration by RELOAD; makes no decisions.

use crate::auth::hba::{self, HbaFile, HbaRules};
use crate::auth::ident::{self, IdentMap};
use crate::auth::mock::Forms;
use crate::auth_connections::AuthConnections;
use crate::client_identity::ClientIdentities;
use crate::config::{
    AuthType, Config, Database, Environment, FileStamp, LdapTransport, ProcessEnvironment, Settings, TlsMode,
    UserList, load_user_list, read_text, users_with_tokens,
};
use crate::host_names::{CacheTimes, NameSources};
use crate::net::interfaces::interface_addresses;
use crate::net::ldap_trust::LdapTrust;
use crate::net::tcp_options::TcpOptions;
use crate::net::tls_config::{self, ListenerTls, TlsConfigError};
use crate::net::verified::ServerTls;
use crate::parameters::Parameters;
use crate::placement::Moves;
use crate::prepared::{Interner, UnnamedTexts};
use crate::process::Process;
use crate::stats::load::LoadMeter;
#[cfg(feature = "otlp")]
use crate::traces::Sampler;
use crate::worker::reactor::EngineKind;
use crate::worker::{self, workers::WorkerIndex};
use rds_iam::secrets::SecretKey;
use rustls::ClientConfig;
use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// The configuration and the files it names: read at start and by RELOAD, all or nothing.
#[derive(Clone)]
pub struct ConfigFiles {
    /// Validated settings.
    pub config: Arc<Config>,
    /// `auth_file`.
    pub users: Arc<UserList>,
    /// The state of `auth_file` before it was read.
    pub users_stamp: Option<FileStamp>,
    /// `auth_ident_file`.
    pub ident: Arc<IdentMap>,
    /// `auth_hba_file`; empty unless `auth_type = hba`.
    pub hba: Arc<HbaRules>,
    /// TLS with LDAP servers; `None` if no options need it.
    pub ldap_tls: Option<Arc<ClientConfig>>,
    /// TLS with servers; `None` if disabled.
    pub server_tls: Option<ServerTls>,
    /// TLS with clients; `None` if disabled.
    pub client_tls: Option<ListenerTls>,
    /// The secrets that lines name.
    pub secrets: Arc<HashSet<SecretKey>>,
}

impl ConfigFiles {
    /// True if both are of the same RELOAD, SET, or change of `auth_file`.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config) && Arc::ptr_eq(&self.users, &other.users)
    }

    /// Reads the files named by a configuration: users, maps, HBA rules and certificates. Blocks.
    ///
    /// # Errors
    /// A file is invalid; the text is for the operator.
    pub fn read(config: Config) -> Result<Self, String> {
        let users = LoadedUsers::read(&config.settings.auth_file)?;
        Self::read_others(config, users, None)
    }

    /// As [`ConfigFiles::read`], for SET, which changes certificate and key one after the other: while they do not
    /// match, the TLS configuration remains.
    ///
    /// # Errors
    /// As [`ConfigFiles::read`].
    pub fn read_changed(&self, config: Config) -> Result<Self, String> {
        let users = LoadedUsers::read(&config.settings.auth_file)?;
        Self::read_others(config, users, Some(self))
    }

    /// The same for RELOAD. If `auth_file` is missing, which may last for a moment while it is replaced, the users of
    /// `running` are kept.
    ///
    /// # Errors
    /// As [`ConfigFiles::read`].
    pub fn read_again(config: Config, running: &Self) -> Result<Self, String> {
        let path = &config.settings.auth_file;
        let is_missing = |path: &str| {
            std::fs::metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        if !path.is_empty() && is_missing(path) {
            tracing::warn!("could not open auth_file {path}: it does not exist; the previous users remain");
            let users = LoadedUsers { users: running.users.clone(), stamp: None };
            return Self::read_others(config, users, None);
        }
        Self::read(config)
    }

    fn read_others(config: Config, users: LoadedUsers, before: Option<&Self>) -> Result<Self, String> {
        let settings = &config.settings;
        let ident = read_ident_map(&settings.auth_ident_file)?;
        let hba = read_hba_rules(settings, &ident)?;
        for warning in hba.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(Self {
            server_tls: unless_unpaired(
                tls_config::for_servers(settings),
                before.map(|files| &files.server_tls),
            )?,
            client_tls: unless_unpaired(
                tls_config::for_clients(settings),
                before.map(|files| &files.client_tls),
            )?,
            ldap_tls: ldap_tls(settings, &hba)?,
            users: users.users,
            users_stamp: users.stamp,
            ident: Arc::new(ident),
            hba: Arc::new(hba),
            secrets: Arc::new(config.all_databases().filter_map(Database::secret_key).collect()),
            config: Arc::new(config),
        })
    }
}

/// `auth_file` as it was at one moment.
pub struct LoadedUsers {
    /// Its users.
    pub users: Arc<UserList>,
    /// Its state before it was read.
    pub stamp: Option<FileStamp>,
}

impl LoadedUsers {
    /// Reads the file; an empty path has no users. Blocks.
    ///
    /// # Errors
    /// The file is missing or faulty.
    pub fn read(path: &str) -> Result<Self, String> {
        if path.is_empty() {
            return Ok(Self { users: Arc::default(), stamp: None });
        }
        let stamp = FileStamp::of(path);
        let users = load_user_list(Path::new(path)).map_err(|report| report.to_string())?;
        let with_tokens = users_with_tokens(&users);
        if let Some(first) = with_tokens.first() {
            tracing::warn!(
                users = with_tokens.len(),
                user = first,
                "auth_file: IAM tokens that are stored as passwords are not used, since they expire after 15 minutes; set \
                 server_auth = iam on the database line instead, and let the pooler make its own"
            );
        }
        Ok(Self { users: Arc::new(users), stamp })
    }
}

/// The result, or what was in force before if a certificate and a key do not match.
fn unless_unpaired<T: Clone>(result: Result<T, TlsConfigError>, before: Option<&T>) -> Result<T, String> {
    match (result, before) {
        (Err(error @ TlsConfigError::Unpaired { .. }), Some(before)) => {
            tracing::warn!("the TLS configuration is unchanged: {error}");
            Ok(before.clone())
        }
        (result, _) => result.map_err(|error| format!("error: {error}")),
    }
}

fn read_ident_map(path: &str) -> Result<IdentMap, String> {
    if path.is_empty() {
        return Ok(IdentMap::default());
    }
    let wrong = |reason: String| format!("error: auth_ident_file {path}: {reason}");
    let text = read_text(Path::new(path), ident::MAX_FILE_BYTES).map_err(wrong)?;
    IdentMap::parse(&text).map_err(|error| wrong(error.to_string()))
}

/// Other methods do not use the file, which need not exist then.
fn read_hba_rules(settings: &Settings, ident: &IdentMap) -> Result<HbaRules, String> {
    let path = settings.auth_hba_file.as_str();
    if settings.auth_type != AuthType::Hba {
        return Ok(HbaRules::default());
    }
    let load = |path: &Path| read_text(path, hba::MAX_FILE_BYTES);
    let text = load(Path::new(path))
        .map_err(|reason| format!("error: could not open hba config file {path}: {reason}"))?;
    let interfaces = || interface_addresses().map_err(|error| error.to_string());
    let mut rules = HbaFile { path, text: &text, ident, load: &load, interfaces: &interfaces }.rules();
    if settings.client_tls_sslmode == TlsMode::Disable || settings.client_tls_ca_file.is_empty() {
        rules.warn_of_certificates();
    }
    rules.warn_of_server_passwords(settings.client_tls_sslmode != TlsMode::Disable);
    Ok(rules)
}

/// TLS with LDAP servers.
fn ldap_tls(settings: &Settings, hba: &HbaRules) -> Result<Option<Arc<ClientConfig>>, String> {
    let common = settings.auth_ldap_options.options().filter(|_| settings.auth_type == AuthType::Ldap);
    let mut all = common.map(|options| &**options).into_iter().chain(hba.ldap_options());
    if all.all(|options| options.transport == LdapTransport::Plain) {
        return Ok(None);
    }
    let trust = LdapTrust::read(|name| ProcessEnvironment.get(name))?;
    let tls =
        tls_config::for_ldap(&trust).map_err(|error| format!("error: TLS with LDAP servers: {error}"))?;
    Ok(Some(tls))
}

/// `trace_sample` in force.
#[cfg(feature = "otlp")]
fn one_in(process: &Process, settings: &Settings) -> u32 {
    if process.traces.is_on() { settings.trace_sample } else { 0 }
}

/// Shared by all tasks of a worker.
pub struct Context {
    loaded: RefCell<Rc<ConfigFiles>>,
    /// State shared by all threads.
    pub process: Arc<Process>,
    /// Which worker this is.
    pub worker: WorkerIndex,
    /// Names and values of tracked session parameters.
    pub parameters: Parameters,
    /// Identities of clients.
    pub client_identities: ClientIdentities,
    /// Texts of prepared statements.
    pub statements: Interner,
    /// Texts of unnamed statements.
    pub unnamed: UnnamedTexts,
    /// How busy the worker's thread is.
    pub load: LoadMeter,
    /// Which of its clients move to another worker.
    pub moves: Moves,
    /// Which transactions are exported as traces.
    #[cfg(feature = "otlp")]
    pub traces: Sampler,
    /// Idle connections of `auth_query`.
    pub auth_connections: AuthConnections,
    /// Forms of the passwords in the current `auth_file`; computed on first use.
    forms: RefCell<Option<Rc<Forms>>>,
}

impl Context {
    /// The context of one worker, with its first configuration.
    pub fn new(process: Arc<Process>, loaded: ConfigFiles, worker: WorkerIndex) -> Self {
        #[cfg(feature = "otlp")]
        let traces = {
            let traces = Sampler::default();
            traces.set(one_in(&process, &loaded.config.settings));
            traces
        };
        let extra: Vec<String> = loaded.config.settings.extra_parameters().map(str::to_owned).collect();
        Self {
            loaded: RefCell::new(Rc::new(loaded)),
            process,
            worker,
            parameters: Parameters::new(extra),
            client_identities: ClientIdentities::default(),
            statements: Interner::default(),
            unnamed: UnnamedTexts::default(),
            load: LoadMeter::default(),
            moves: Moves::default(),
            #[cfg(feature = "otlp")]
            traces,
            auth_connections: AuthConnections::default(),
            forms: RefCell::default(),
        }
    }

    /// The forms of the passwords in the current `auth_file`.
    pub fn forms(&self) -> Rc<Forms> {
        let mut forms = self.forms.borrow_mut();
        let forms = forms.get_or_insert_with(|| {
            let users = self.loaded.borrow().users.clone();
            Rc::new(Forms::sample(users.iter().map(|(user, entry)| (user.as_str(), entry.password.expose()))))
        });
        forms.clone()
    }

    /// The active configuration and its files.
    pub fn loaded(&self) -> Rc<ConfigFiles> {
        self.loaded.borrow().clone()
    }

    /// The active configuration.
    pub fn config(&self) -> Arc<Config> {
        self.loaded.borrow().config.clone()
    }

    /// Activates another configuration.
    pub fn replace(&self, loaded: ConfigFiles) {
        let before = self.loaded.replace(Rc::new(loaded));
        let large = (before.config.clone(), before.users.clone());
        drop(before);
        // To free thousands of lines takes longer than clients should wait.
        self.process.control.spawn_blocking(move || drop(large));
        self.forms.take();
        let loaded = self.loaded();
        let config = &loaded.config;
        self.process.configure(config, &loaded.secrets);
        #[cfg(feature = "otlp")]
        self.traces.set(one_in(&self.process, &config.settings));
    }

    /// Where addresses of host names are looked up.
    pub fn name_sources(&self) -> NameSources {
        let is_dns_only = self.loaded.borrow().config.settings.names_dns_servers();
        NameSources { resolver: self.process.resolver.clone(), is_dns_only }
    }

    /// How long results of lookups are used.
    pub fn cache_times(&self) -> CacheTimes {
        let settings = &self.loaded.borrow().config.settings;
        CacheTimes { max_ttl: settings.dns_max_ttl, failure_ttl: settings.dns_nxdomain_ttl }
    }

    /// The configured TCP options.
    pub fn tcp_options(&self) -> TcpOptions {
        TcpOptions::of(&self.loaded.borrow().config.settings)
    }

    /// Runs `future` on the control thread and waits for it. `None` if it panicked or the runtime has stopped.
    pub async fn on_control<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.process.control.spawn(future).await.ok()
    }

    /// Runs expensive or blocking work on a thread of the control runtime and waits for it.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.process.control.spawn_blocking(work).await.ok()
    }
}
/// Runs `work` on a new worker, on this thread, for commands that serve no clients.
///
/// # Errors
/// The kernel refuses a resource that the worker needs.
pub fn on_own_worker<T, F>(
    process: Arc<Process>,
    loaded: ConfigFiles,
    work: impl FnOnce(Rc<Context>) -> F + 'static,
) -> io::Result<T>
where
    T: 'static,
    F: Future<Output = T>,
{
    let outcome = Rc::new(RefCell::new(None));
    let sink = outcome.clone();
    worker::run(EngineKind::Epoll, async move {
        let done = work(Rc::new(Context::new(process, loaded, WorkerIndex::ONLY))).await;
        sink.replace(Some(done));
    })?;
    outcome.take().ok_or_else(|| io::Error::other("the worker stopped before its work was done"))
}
