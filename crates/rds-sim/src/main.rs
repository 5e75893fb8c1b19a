//! `rds-sim`: the simulator as a program.
//!
//! Owns: the command line, and one `key=value` line on standard output for everything that listens.
//! Never: logic of its own; see the library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rds_sim::{
    AccessKey, Backend, Certificates, ControlServer, CredentialServer, CredentialSettings, Door, DoorOptions,
    PamEndpoint, Simulator, TokenTarget,
};

/// An RDS look-alike in front of a real PostgreSQL, for development without AWS. Not for data that matters.
#[derive(Debug, Parser)]
#[command(version)]
struct SimArguments {
    /// The PostgreSQL behind: HOST:PORT, or the directory of its socket as /DIR[:PORT]. It must trust IAM users.
    #[arg(long)]
    postgres: String,
    /// Where the door listens; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Endpoint name that tokens are made for and that the certificate shows. May be given several times.
    #[arg(long, required = true)]
    host: Vec<String>,
    /// Port that tokens are made for; without it, the one that is listened on.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Region that tokens are made for.
    #[arg(long)]
    region: String,
    /// A user who logs in with tokens. May be given several times.
    #[arg(long = "iam-user", required = true)]
    iam_users: Vec<String>,
    /// Refuse other users, too, when they come without TLS.
    #[arg(long)]
    force_ssl: bool,
    /// Write the certificate of the authority to this file.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// A static access key as ID:SECRET[:SESSION_TOKEN]. May be given several times.
    #[arg(long = "static-key", value_name = "ID:SECRET[:TOKEN]", hide_env_values = true)]
    static_keys: Vec<String>,
    /// Open the remote control here; loopback only.
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// Open IMDS, container endpoint and STS here.
    #[arg(long, value_name = "ADDRESS")]
    credentials: Option<SocketAddr>,
    /// How long issued credentials last, in seconds.
    #[arg(long, default_value_t = 3600)]
    credential_life: u64,
    /// How long the session tokens of issued credentials are, in bytes.
    #[arg(long, default_value_t = 700)]
    session_token_bytes: usize,
    /// Open the endpoint of the PAM module here.
    #[arg(long, value_name = "ADDRESS")]
    pam: Option<SocketAddr>,
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = SimArguments::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting tokio")?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: SimArguments) -> Result<()> {
    let simulator = Simulator::default();
    for text in &arguments.static_keys {
        // The text itself holds a secret and stays out of the message.
        simulator
            .keys()
            .add(AccessKey::parse(text).context("--static-key is not ID:SECRET[:SESSION_TOKEN]")?);
    }
    let certificates = Certificates::generate(&arguments.host)?;
    if let Some(path) = &arguments.ca_out {
        std::fs::write(path, certificates.ca_pem()).with_context(|| format!("writing {}", path.display()))?;
    }
    let target =
        TokenTarget { hosts: arguments.host.clone(), port: arguments.port, region: arguments.region.clone() };
    let door = Door::open(
        &simulator,
        DoorOptions {
            listen: arguments.listen,
            target,
            iam_users: arguments.iam_users.clone(),
            backend: Backend::parse(&arguments.postgres),
            force_ssl: arguments.force_ssl,
            certificates,
        },
    )
    .await
    .context("opening the door")?;
    let _others = Others::start(&arguments, &simulator, door.target()).await?;
    println!("door={}", door.address());
    println!("token_port={}", door.target().port);
    // Scripts wait for this line.
    println!("ready=true");
    wait_for_the_end().await
}

/// What listens besides the door, as long as this is held.
struct Others {
    _control: Option<ControlServer>,
    _credentials: Option<CredentialServer>,
    _pam: Option<PamEndpoint>,
}

impl Others {
    async fn start(arguments: &SimArguments, simulator: &Simulator, target: &TokenTarget) -> Result<Self> {
        let mut others = Self { _control: None, _credentials: None, _pam: None };
        if let Some(listen) = arguments.control {
            let control =
                ControlServer::start(simulator, listen).await.context("opening the control endpoint")?;
            println!("control={}", control.address());
            others._control = Some(control);
        }
        if let Some(listen) = arguments.credentials {
            let settings = CredentialSettings {
                life: Duration::from_secs(arguments.credential_life),
                session_token_bytes: arguments.session_token_bytes,
                region: arguments.region.clone(),
                ..CredentialSettings::default()
            };
            let server = CredentialServer::start(simulator, listen, settings)
                .await
                .context("opening the credential endpoints")?;
            println!("credentials={}", server.address());
            others._credentials = Some(server);
        }
        if let Some(listen) = arguments.pam {
            let endpoint = PamEndpoint::start(simulator, listen, target.clone())
                .await
                .context("opening the PAM endpoint")?;
            println!("pam={}", endpoint.address());
            others._pam = Some(endpoint);
        }
        Ok(others)
    }
}

async fn wait_for_the_end() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}
