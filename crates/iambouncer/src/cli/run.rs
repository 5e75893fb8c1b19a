//! `iambouncer run`: from arguments to a running pooler. Owns the order of startup: read everything, bind everything,
//! then report ready; an error ends it before the first client.

use super::Failure;
use super::arguments::RunArguments;
use super::core_dumps;
use super::logging::Log;
use super::pidfile::PidFile;
use super::rlimit;
use crate::admin::Reloader;
use crate::config::{
    Config, ConfigReport, Host, Origin, ProcessEnvironment, Settings, ZeroConfigFlags, load_file, zero_config,
};
use crate::context::ConfigFiles;
use crate::http;
use crate::net::Endpoint;
use crate::net::listener::{self, BoundListener};
use crate::net::tcp_options::TcpOptions;
use crate::pooler::signals::{self, Signal};
use crate::pooler::{self, StartPlan};
use crate::server::connect::is_own;
use anyhow::Context as _;
use rds_iam::{AwsCredentials, Resolver, TokenEngine};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// The source of the configuration.
#[derive(Clone)]
enum ConfigSource {
    File { path: PathBuf, flags: Vec<(String, String)> },
    Endpoint { config: Box<Config> },
}

/// A configuration with its source.
pub(super) struct FirstRead {
    source: ConfigSource,
    pub(super) config: Config,
    origins: Vec<Origin>,
    pub(super) warnings: String,
}

impl FirstRead {
    /// The file it was read from, if any.
    pub(super) fn file(&self) -> Option<&Path> {
        match &self.source {
            ConfigSource::File { path, .. } => Some(path),
            ConfigSource::Endpoint { .. } => None,
        }
    }
}

pub(super) fn run(arguments: RunArguments) -> Result<(), Failure> {
    let target = arguments.target.as_deref();
    let FirstRead { source, config, origins, warnings } =
        first_read(target, arguments.setting_flags(), &arguments.zero_config_flags())?;
    let log = Log::start(&config.settings, u32::from(arguments.verbose), arguments.quiet)
        .map_err(|text| Failure::Start(anyhow::Error::msg(text)))?;
    for line in warnings.lines() {
        tracing::warn!("{line}");
    }
    for Origin { key, value, source } in &origins {
        tracing::info!("{key} = {value} ({source})");
    }
    let loaded = files_of(config)?;
    start(loaded, source, log).map_err(Failure::Start)
}

/// A target that exists as a file, or looks like one, is a file; anything else is an endpoint.
pub(super) fn first_read(
    target: Option<&str>,
    file_flags: Vec<(String, String)>,
    flags: &ZeroConfigFlags,
) -> Result<FirstRead, Failure> {
    let environment = ProcessEnvironment;
    let wrong = |report: ConfigReport| Failure::Configuration(report.to_string());
    let named_file = target
        .filter(|target| target.ends_with(".ini") || target.contains('/') || Path::new(target).is_file());
    if let Some(file) = named_file {
        let path = PathBuf::from(file);
        let mut read = load_file(&path, &environment, &file_flags).map_err(wrong)?;
        show_path(&mut read.config, &path);
        let warnings = read.warnings.to_string();
        let origins = read.config.origins.clone();
        return Ok(FirstRead {
            source: ConfigSource::File { path, flags: file_flags },
            config: read.config,
            origins,
            warnings,
        });
    }
    let resolved =
        zero_config(target, flags, &environment).map_err(|diagnostics| wrong(diagnostics.into()))?;
    refuse_own_listener(&resolved.config)?;
    Ok(FirstRead {
        source: ConfigSource::Endpoint { config: Box::new(resolved.config.clone()) },
        config: resolved.config,
        origins: resolved.origins,
        warnings: ConfigReport::from(resolved.warnings).to_string(),
    })
}

/// Without a file, the environment may name the pooler itself as the database, since that is what it contains for the
/// application.
pub(super) fn refuse_own_listener(config: &Config) -> Result<(), Failure> {
    let settings = &config.settings;
    let own: Vec<Endpoint> = settings
        .listen_addresses()
        .map(|host| if host == "*" { "0.0.0.0" } else { host })
        .filter_map(|host| (host, settings.listen_port).to_socket_addrs().ok())
        .flatten()
        .map(Endpoint::Tcp)
        .collect();
    for line in config.all_databases() {
        for host in line.host.iter().filter_map(Host::tcp) {
            // A name that does not resolve now may do so later; that does not prevent a start.
            for addr in (host, line.port).to_socket_addrs().into_iter().flatten() {
                let local = addr.ip().is_loopback().then(|| addr.ip());
                if own.iter().any(|own| is_own(own, addr, local)) {
                    return Err(Failure::Configuration(format!(
                        "error: the database {host}:{} is this pooler's own listener {addr}\n  = help: use the \
                         database's own endpoint, as an argument or in RDS_HOST or DB_HOST",
                        line.port
                    )));
                }
            }
        }
    }
    Ok(())
}

/// Reads the files named by a configuration.
pub(super) fn files_of(config: Config) -> Result<ConfigFiles, Failure> {
    ConfigFiles::read(config).map_err(Failure::Configuration)
}

fn start(loaded: ConfigFiles, source: ConfigSource, log: Log) -> anyhow::Result<()> {
    let settings = &loaded.config.settings;
    if settings.core_dumps {
        core_dumps::allow();
    }
    rlimit::raise(&loaded.config);
    let sockets = Sockets { clients: bind(settings)?, http: http::bind(&loaded.config)? };
    let _pidfile = match settings.pidfile.as_str() {
        "" => None,
        path => Some(PidFile::create(Path::new(path))?),
    };
    let control = control_runtime()?;
    let reloader = Reloader {
        read: Arc::new(move |running| reload(&source, running)),
        log: Arc::new(move |settings| log.configure(settings)),
    };
    launch(loaded, sockets, reloader, &control, |_| signals::catch().context("cannot catch signals"))?;
    control.shutdown_background();
    Ok(())
}

/// The runtime for AWS, DNS and HTTP.
pub(super) fn control_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the control thread")
}

/// Listening sockets of a pooler.
pub(super) struct Sockets {
    pub(super) clients: Vec<BoundListener>,
    /// Probes and metrics.
    pub(super) http: Vec<BoundListener>,
}

/// Runs the pooler on this thread until it is stopped.
pub(super) fn launch(
    loaded: ConfigFiles,
    sockets: Sockets,
    reloader: Reloader,
    control: &Runtime,
    signals: impl FnOnce(&Runtime) -> anyhow::Result<mpsc::Receiver<Signal>>,
) -> anyhow::Result<()> {
    let inside = control.enter();
    let tokens = TokenEngine::new(AwsCredentials::shared());
    tokens.spawn_refresher();
    let signals = signals(control)?;
    drop(inside);
    let resolver = resolver(&loaded.config.settings);
    let control = control.handle().clone();
    let Sockets { clients: bound, http } = sockets;
    let plan = StartPlan { loaded, bound, reloader, control, tokens, resolver, http, signals };
    pooler::run(plan).context("cannot run")
}

/// The resolver that follows aliases. Without it, only databases whose host is an alias are affected.
pub(super) fn resolver(settings: &Settings) -> Option<Resolver> {
    let made = match (settings.dns_server_address(), settings.resolv_conf.as_str()) {
        (Some(server), _) => Resolver::from_server(server),
        (None, "") => Resolver::from_system(),
        (None, path) => Resolver::from_file(Path::new(path)),
    };
    made.inspect_err(|error| tracing::warn!(%error, "aliases of RDS endpoints cannot be followed")).ok()
}

/// Has SHOW CONFIG show the file that was read.
fn show_path(config: &mut Config, path: &Path) {
    if config.settings.conffile.is_empty() {
        config.settings.conffile = path.display().to_string();
    }
}

fn reload(source: &ConfigSource, running: &ConfigFiles) -> Result<ConfigFiles, String> {
    let config = match source {
        ConfigSource::File { path, flags } => {
            let mut read =
                load_file(path, &ProcessEnvironment, flags).map_err(|report| report.to_string())?;
            for line in read.warnings.to_string().lines() {
                tracing::warn!("{line}");
            }
            show_path(&mut read.config, path);
            read.config
        }
        ConfigSource::Endpoint { config } => (**config).clone(),
    };
    ConfigFiles::read_again(config, running)
}

pub(super) fn bind(settings: &Settings) -> anyhow::Result<Vec<BoundListener>> {
    let hosts: Vec<String> = settings.listen_addresses().map(str::to_owned).collect();
    let mut bound =
        listener::bind_tcp(&hosts, settings.listen_port, settings.listen_backlog, TcpOptions::of(settings))?;
    if !settings.unix_socket_dir.is_empty() {
        // For port 0 the kernel chooses the port; the UNIX socket then uses the same number.
        let port = bound.iter().find_map(|bound| match &bound.endpoint {
            Endpoint::Tcp(addr) => Some(addr.port()),
            Endpoint::Unix(_) => None,
        });
        bound.push(listener::bind_unix(
            &settings.unix_socket_dir,
            port.unwrap_or(settings.listen_port),
            settings.unix_socket_mode.0,
            settings.listen_backlog,
        )?);
    }
    anyhow::ensure!(!bound.is_empty(), "nothing to listen on: set listen_addr or unix_socket_dir");
    Ok(bound)
}
