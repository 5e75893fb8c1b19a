//! `iambouncer exec -- COMMAND` and `iambouncer connect`: a pooler for the lifetime of one command. Owns the child
//! process: its environment, the signals forwarded to it, and its exit code. The listener is on the loopback
//! interface and requires a password that only the child's environment contains.

use super::Failure;
use super::arguments::{Connect, Exec, ServerArguments};
use super::log::{Log, LogFlags};
use super::run;
use super::run::Sockets;
use crate::admin::Reloader;
use crate::config::{ConfigReport, ProcessEnvironment, Secret, Settings, UserEntry, UserList, zero_config};
use crate::context::ConfigFiles;
use crate::health_state::FirstLogin;
use crate::net::Endpoint;
use crate::net::listener::BoundListener;
use crate::pooler::signals::Signal;
use anyhow::{Context as _, anyhow};
use rds_iam::percent_encode;
use rustix::process::{Pid, kill_process};
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Random bytes in the password.
const PASSWORD_BYTES: usize = 24;
/// The command does not exist or cannot be run; the exit codes of shells.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_NOT_RUNNABLE: u8 = 126;
/// Added to the number of a signal, as in shells.
const EXIT_SIGNAL_BASE: i32 = 128;
/// Maximum number of signals queued for the child.
const MAX_QUEUED: usize = 16;
/// Differences from an ordinary start without a file; `--set` overrides them.
const SETTINGS: [(&str, &str); 5] = [
    ("listen_addr", "127.0.0.1"),
    ("listen_port", "0"),
    ("unix_socket_dir", ""),
    ("auth_type", "scram-sha-256"),
    ("workers", "1"),
];

pub(super) fn exec(options: Exec) -> Result<ExitCode, Failure> {
    with_pooler(options.target.as_deref(), &options.server, options.command)
}

pub(super) fn connect(options: Connect) -> Result<ExitCode, Failure> {
    let mut command = vec![OsString::from("psql")];
    command.extend(options.arguments);
    with_pooler(options.target.as_deref(), &options.server, command)
}

fn with_pooler(
    target: Option<&str>,
    server: &ServerArguments,
    command: Vec<OsString>,
) -> Result<ExitCode, Failure> {
    let mut flags = server.zero_config_flags();
    let own = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    flags.settings = own.chain(flags.settings).collect();
    let resolved = zero_config(target, &flags, &ProcessEnvironment)
        .map_err(|found| Failure::Configuration(ConfigReport::from(found).to_string()))?;
    // The command's output goes to the same terminal: without `verbose`, only warnings are logged.
    let settings = Settings { verbose: resolved.config.settings.verbose, ..Settings::default() };
    Log::start(&settings, LogFlags { warnings_only: settings.verbose == 0, ..LogFlags::default() });
    run::refuse_own_listener(&resolved.config)?;
    let line =
        resolved.config.fallback.clone().ok_or_else(|| Failure::Start(anyhow!("no server is given")))?;
    let user = line.user.clone().unwrap_or_default();
    let database = line.dbname.unwrap_or_else(|| user.clone());
    let password = random_password().map_err(Failure::Start)?;
    let users = UserList::from([(user.clone(), UserEntry { password: password.clone() })]);
    let loaded = ConfigFiles { users: Arc::new(users), ..run::files_of(resolved.config)? };
    let bound = super::sockets::bind(&loaded.config.settings).map_err(Failure::Start)?;
    let address = Address { port: port_of(&bound), user, database, password };
    serve(loaded, bound, command, &address).map_err(Failure::Start)
}

/// The address of the pooler for the child.
struct Address {
    port: u16,
    user: String,
    database: String,
    password: Secret,
}

impl Address {
    fn environment(&self) -> Vec<(&'static str, String)> {
        let Self { port, user, database, password } = self;
        let password = password.expose();
        let url = format!(
            "postgresql://{}:{password}@127.0.0.1:{port}/{}?sslmode=disable",
            percent_encode(user),
            percent_encode(database)
        );
        vec![
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", port.to_string()),
            ("PGUSER", user.clone()),
            ("PGDATABASE", database.clone()),
            ("PGPASSWORD", password.to_owned()),
            ("PGSSLMODE", "disable".to_owned()),
            ("DATABASE_URL", url),
        ]
    }
}

fn serve(
    loaded: ConfigFiles,
    bound: Vec<BoundListener>,
    command: Vec<OsString>,
    address: &Address,
) -> anyhow::Result<ExitCode> {
    let control = run::control_runtime()?;
    let (stop, signals) = mpsc::channel(1);
    let (exited, code) = oneshot::channel();
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program);
    child.args(arguments).envs(address.environment());
    // Variables that would direct libpq to another server or make it require TLS.
    for name in ["PGHOSTADDR", "PGSERVICE", "PGSERVICEFILE", "PGPASSFILE", "PGSSLROOTCERT", "PGREQUIREAUTH"] {
        child.env_remove(name);
    }
    let program = program.to_string_lossy().into_owned();
    control.spawn(async move {
        let code = run_child(child, &program).await;
        // The pooler stops when the command has exited; if it has stopped already, the messages are dropped.
        let _ = exited.send(code);
        let _ = stop.send(Signal::Now).await;
    });
    let sockets = Sockets { clients: bound, http: Vec::new() };
    run::launch(
        loaded,
        sockets,
        Reloader {
            read: Arc::new(|_| Err("there is no file to reload".to_owned())),
            // The log always goes to the terminal of the command.
            log: Arc::new(|_| Ok(())),
        },
        &control,
        FirstLogin::NotNeeded,
        Box::new(|| ()),
        |_| Ok(signals),
    )?;
    let code = control.block_on(code).context("the status of the command was lost")?;
    control.shutdown_background();
    Ok(code)
}

/// Runs the child until it exits and forwards signals to it.
async fn run_child(mut command: Command, program: &str) -> ExitCode {
    let mut signals = match forwarded_signals() {
        Ok(signals) => signals,
        Err(error) => {
            super::complain(&format!("error: cannot catch signals: {error}"));
            return ExitCode::from(super::EXIT_FAILURE);
        }
    };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            super::complain(&format!("error: cannot run {program}: {error}"));
            let is_missing = error.kind() == std::io::ErrorKind::NotFound;
            return ExitCode::from(if is_missing { EXIT_NOT_FOUND } else { EXIT_NOT_RUNNABLE });
        }
    };
    loop {
        tokio::select! {
            ended = child.wait() => return match ended {
                Ok(status) => exit_code(status),
                Err(error) => {
                    super::complain(&format!("error: cannot wait for {program}: {error}"));
                    ExitCode::from(super::EXIT_FAILURE)
                }
            },
            Some(signal) = signals.recv() => {
                // `id` is `None` once the child has been waited for, so the process ID cannot be that of another
                // process.
                let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                if let (Some(pid), Some(signal)) = (pid, rustix::process::Signal::from_named_raw(signal)) {
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

/// Signals to be forwarded to the child. At a terminal, those of the keyboard reach it directly and are only ignored
/// here.
fn forwarded_signals() -> std::io::Result<mpsc::Receiver<i32>> {
    let (sender, receiver) = mpsc::channel(MAX_QUEUED);
    let at_terminal = std::io::stdin().is_terminal();
    let kinds = [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
        SignalKind::quit(),
        SignalKind::user_defined1(),
        SignalKind::user_defined2(),
    ];
    for kind in kinds {
        let mut caught = signal(kind)?;
        let is_to_forward = !(at_terminal && [SignalKind::interrupt(), SignalKind::quit()].contains(&kind));
        let sender = sender.clone();
        tokio::spawn(async move {
            while caught.recv().await.is_some() {
                if is_to_forward && sender.send(kind.as_raw_value()).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(receiver)
}

fn exit_code(status: std::process::ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| EXIT_SIGNAL_BASE + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(super::EXIT_FAILURE))
}

fn port_of(bound: &[BoundListener]) -> u16 {
    let port = |bound: &BoundListener| match &bound.endpoint {
        Endpoint::Tcp(address) => Some(address.port()),
        Endpoint::Unix(_) => None,
    };
    bound.iter().find_map(port).unwrap_or_default()
}

fn random_password() -> anyhow::Result<Secret> {
    let mut bytes = [0; PASSWORD_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("could not generate random numbers"))?;
    Ok(Secret::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}
