//! What every part of a worker can read: the configuration in force, users, TLS, and what the process shares. Owns the
//! replacement of the configuration at RELOAD; decides nothing.

use crate::auth::ident::{self, IdentMap};
use crate::auth::mock::Forms;
use crate::client_identity::ClientIdentities;
use crate::config::{Config, UserList, load_user_list};
use crate::host_names::NameSources;
use crate::net::tcp_options::TcpOptions;
use crate::net::tls_config;
use crate::net::verified::ServerTls;
use crate::parameters::Parameters;
use crate::prepared::{Interner, UnnamedTexts};
use crate::process::Process;
use crate::worker::workers::Workers;
use rustls::ServerConfig;
use std::cell::RefCell;
use std::path::Path;
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

impl ConfigFiles {
    /// Reads the files that a configuration names: users, identity maps and certificates. Blocks.
    ///
    /// # Errors
    /// A file cannot be used; the text is for the operator.
    pub fn read(config: Config) -> Result<Self, String> {
        let settings = &config.settings;
        let users = match settings.auth_file.as_str() {
            "" => UserList::default(),
            path => load_user_list(Path::new(path)).map_err(|report| report.to_string())?,
        };
        let ident = read_ident_map(&settings.auth_ident_file)?;
        let tls = |error: tls_config::TlsConfigError| format!("error: {error}");
        Ok(Self {
            server_tls: tls_config::for_servers(settings).map_err(tls)?,
            client_tls: tls_config::for_clients(settings).map_err(tls)?,
            users: Arc::new(users),
            ident: Arc::new(ident),
            config: Arc::new(config),
        })
    }
}

fn read_ident_map(path: &str) -> Result<IdentMap, String> {
    if path.is_empty() {
        return Ok(IdentMap::default());
    }
    let wrong = |reason: String| format!("error: auth_ident_file {path}: {reason}");
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > ident::MAX_FILE_BYTES as u64 {
        return Err(wrong(format!("longer than {} bytes", ident::MAX_FILE_BYTES)));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    IdentMap::parse(&text).map_err(|error| wrong(error.to_string()))
}

/// Shared by all tasks of a worker.
pub struct Context {
    loaded: RefCell<Rc<ConfigFiles>>,
    /// What all threads share.
    pub process: Arc<Process>,
    /// All workers.
    pub workers: Workers,
    /// Session parameters that follow clients.
    pub parameters: Parameters,
    /// Who clients say they are.
    pub client_identities: ClientIdentities,
    /// Texts of prepared statements.
    pub statements: Interner,
    /// Texts of unnamed statements.
    pub unnamed: UnnamedTexts,
    /// Of the `auth_file` in force; made when it is needed first.
    forms: RefCell<Option<Rc<Forms>>>,
}

impl Context {
    /// A context around a first configuration, for one worker.
    pub fn new(process: Arc<Process>, loaded: ConfigFiles, workers: Workers) -> Self {
        let extra: Vec<String> = crate::config::split_list(&loaded.config.settings.track_extra_parameters)
            .map(str::to_owned)
            .collect();
        Self {
            loaded: RefCell::new(Rc::new(loaded)),
            process,
            workers,
            parameters: Parameters::new(extra),
            client_identities: ClientIdentities::default(),
            statements: Interner::default(),
            unnamed: UnnamedTexts::default(),
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
        self.process.configure(&config);
    }

    /// Who may be asked for the addresses of host names.
    pub fn name_sources(&self) -> NameSources {
        let is_dns_only = self.loaded.borrow().config.settings.names_dns_servers();
        NameSources { resolver: self.process.resolver.clone(), is_dns_only }
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
        self.process.control.spawn(future).await.ok()
    }

    /// Runs slow arithmetic or a blocking call beside the control thread and waits for it here.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        self.process.control.spawn_blocking(work).await.ok()
    }
}
