//! `iambouncer run`: from arguments to a running pooler. Owns the order of startup: read everything, bind everything,
//! then report ready; an error ends it before the first client.

use super::arguments::RunArguments;
use super::log::{Log, LogFlags};
use super::pidfile::PidFile;
use super::sockets::UnixSocketNeed;
use super::{Failure, account, background, core_dumps, rlimit, sockets};
use crate::admin::Reloader;
use crate::config::{
    CONFIG_VARIABLE, Config, ConfigReport, Environment, Host, Origin, ProcessEnvironment, Settings,
    ZeroConfigFlags, load_file, zero_config,
};
use crate::context::ConfigFiles;
use crate::health_state::FirstLogin;
use crate::http;
use crate::net::Endpoint;
use crate::net::listener::BoundListener;
use crate::pooler::signals::{self, Signal};
use crate::pooler::{self, StartPlan};
use crate::server::connect::is_own;
use anyhow::Context as _;
use rds_iam::{AwsCredentials, Resolver, TokenEngine};
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
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

pub(super) fn run(arguments: RunArguments) -> Result<ExitCode, Failure> {
    if arguments.in_background {
        background::detach();
    }
    let target = arguments.target.as_deref();
    let FirstRead { source, config, origins, warnings } =
        first_read(target, arguments.setting_flags(), &arguments.zero_config_flags())?;
    let is_file = matches!(source, ConfigSource::File { .. });
    refuse_reboot(arguments.reboot)?;
    if arguments.daemon {
        check_daemon(&config.settings)?;
        return background::start();
    }
    let flags = LogFlags {
        verbose: u32::from(arguments.verbose),
        quiet: arguments.quiet,
        warnings_only: false,
        as_pgbouncer: is_file,
    };
    let log = Log::start(&config.settings, flags);
    account::check_root(&config.settings, is_file).map_err(Failure::Start)?;
    let outcome = start(config, source, &log, arguments.in_background, || {
        for line in warnings.lines() {
            tracing::warn!("{line}");
        }
        for Origin { key, value, source } in &origins {
            tracing::info!("{key} = {value} ({source})");
        }
    });
    outcome.map(|()| ExitCode::SUCCESS)
}

/// `-R` handed the sockets of a running process over to a new one.
fn refuse_reboot(is_requested: bool) -> Result<(), Failure> {
    if !is_requested {
        return Ok(());
    }
    let text = "error: -R (--reboot) is not supported; PgBouncer has deprecated it\n  = help: with so_reuseport = 1 start the \
                new process beside the old one, then stop the old one with SIGTERM";
    Err(Failure::Configuration(text.to_owned()))
}

/// What `-d` requires, as in PgBouncer: nothing is written to standard error in the background.
fn check_daemon(settings: &Settings) -> Result<(), Failure> {
    let missing = match (settings.pidfile.as_str(), settings.logfile.as_str(), settings.syslog) {
        ("", ..) => "daemon needs pidfile configured",
        (_, "", false) => "daemon needs logfile or syslog configured",
        _ => return Ok(()),
    };
    Err(Failure::Configuration(format!("error: {missing}")))
}

/// A target that exists as a file, or looks like one, is a file; anything else is an endpoint. Without a target, a variable
/// may name the file.
pub(super) fn first_read(
    target: Option<&str>,
    file_flags: Vec<(String, String)>,
    flags: &ZeroConfigFlags,
) -> Result<FirstRead, Failure> {
    let environment = ProcessEnvironment;
    let wrong = |report: ConfigReport| Failure::Configuration(report.to_string());
    let of_variable = environment.get(CONFIG_VARIABLE).filter(|file| target.is_none() && !file.is_empty());
    let named_file = target
        .filter(|target| target.ends_with(".ini") || target.contains('/') || Path::new(target).is_file());
    if let Some(file) = named_file.map(str::to_owned).or(of_variable) {
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
        .flat_map(|host| settings.listen_port.iter().map(move |port| (host, port)))
        .filter_map(|address| address.to_socket_addrs().ok())
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

/// Starts the pooler, in this order: TCP ports, which may require root; the account; everything that later belongs to
/// that account.
fn start(
    config: Config,
    source: ConfigSource,
    log: &Log,
    in_background: bool,
    report_origins: impl FnOnce(),
) -> Result<(), Failure> {
    let inherited = sockets::inherited(&config.settings).map_err(Failure::Start)?;
    let http = http::bind(&config).map_err(Failure::Start)?;
    let tcp = match &inherited {
        Some(_) => Vec::new(),
        None => sockets::bind_tcp(&config.settings).map_err(Failure::Start)?,
    };
    account::switch(&config.settings).map_err(Failure::Start)?;
    log.configure(&config.settings).map_err(|text| Failure::Start(anyhow::Error::msg(text)))?;
    account::report_root(&config.settings);
    report_origins();
    let loaded = files_of(config)?;
    let settings = &loaded.config.settings;
    if settings.core_dumps {
        core_dumps::allow();
    } else {
        // The kernel may have changed it with the account.
        core_dumps::forbid();
    }
    if settings.job_name != Settings::default().job_name {
        set_process_name(&settings.job_name);
    }
    rlimit::raise(&loaded.config);
    // The default directory may be missing in a container; one that is named must be there.
    let unix_socket_need = match source {
        ConfigSource::File { .. } if loaded.config.is_given("unix_socket_dir") => UnixSocketNeed::Required,
        ConfigSource::File { .. } | ConfigSource::Endpoint { .. } => UnixSocketNeed::Optional,
    };
    let clients = match inherited {
        Some(inherited) => inherited,
        None => sockets::with_unix(tcp, settings, unix_socket_need).map_err(Failure::Start)?,
    };
    let pidfile = match settings.pidfile.as_str() {
        "" => None,
        path => Some(PidFile::create(Path::new(path)).map_err(Failure::Start)?),
    };
    let control = control_runtime().map_err(Failure::Start)?;
    // Without a file, the login at the start shows at once whether the endpoint, the user and the identity are right.
    let first_login = match source {
        ConfigSource::File { .. } => FirstLogin::NotRequested,
        ConfigSource::Endpoint { .. } => FirstLogin::Awaited,
    };
    let reload_log = log.clone();
    let reloader = Reloader {
        read: Arc::new(move |running| reload(&source, running)),
        log: Arc::new(move |settings| reload_log.configure(settings)),
    };
    let log = log.clone();
    let on_ready = move || {
        if in_background {
            background::report_ready();
            log.leave_terminal();
        }
    };
    let sockets = Sockets { clients, http };
    let catch = |_: &Runtime| signals::catch().context("cannot catch signals");
    let served = launch(loaded, sockets, reloader, &control, first_login, Box::new(on_ready), catch);
    control.shutdown_background();
    drop(pidfile);
    served.map_err(Failure::Start)
}

/// `job_name`, as ps and top show it; the kernel keeps 15 bytes.
fn set_process_name(name: &str) {
    let Ok(name) = std::ffi::CString::new(name) else { return };
    if let Err(error) = rustix::thread::set_name(&name) {
        tracing::warn!(%error, "cannot set the name of the process");
    }
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
    first_login: FirstLogin,
    on_ready: Box<dyn FnOnce() + Send>,
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
    let plan = StartPlan {
        loaded,
        bound,
        reloader,
        control,
        tokens,
        resolver,
        http,
        signals,
        first_login,
        on_ready,
    };
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

/// Has SHOW CONFIG show the file that was read, unless that names another one for RELOAD.
fn show_path(config: &mut Config, path: &Path) {
    if config.settings.conffile.is_empty() {
        config.settings.conffile = path.display().to_string();
    }
}

/// Reads the configuration again, from `conffile` if that is set.
fn reload(source: &ConfigSource, running: &ConfigFiles) -> Result<ConfigFiles, String> {
    let conffile = running.config.settings.conffile.as_str();
    let (path, flags) = match source {
        ConfigSource::File { path, flags } if conffile.is_empty() => (path.as_path(), flags.as_slice()),
        ConfigSource::File { flags, .. } => (Path::new(conffile), flags.as_slice()),
        ConfigSource::Endpoint { config } if conffile.is_empty() => {
            return ConfigFiles::read_again((**config).clone(), running);
        }
        ConfigSource::Endpoint { .. } => (Path::new(conffile), &[][..]),
    };
    let mut read = load_file(path, &ProcessEnvironment, flags).map_err(|report| report.to_string())?;
    for line in read.warnings.to_string().lines() {
        tracing::warn!("{line}");
    }
    show_path(&mut read.config, path);
    rlimit::reserve_table(&read.config);
    ConfigFiles::read_again(read.config, running)
}
