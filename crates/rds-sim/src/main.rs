//! `rds-sim`: the simulator as a program.
//!
//! Owns: the command line, and one `key=value` line on standard output for each listening endpoint.
//! Never: contains logic of its own; see the library.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use rds_sim::{
    AccessKey, Backend, Certificates, ControlServer, CredentialServer, CredentialSettings, IamFrontend,
    IamFrontendOptions, PamEndpoint, Simulator, TokenTarget,
};

/// A simulated RDS in front of a real PostgreSQL, for development without AWS. Not for real data.
#[derive(Debug, Parser)]
#[command(version)]
struct SimArguments {
    /// The PostgreSQL behind it: HOST:PORT, or the directory of its socket as /DIR[:PORT]. It must trust IAM users.
    #[arg(long)]
    postgres: String,
    /// Address that the door listens on; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Endpoint name that tokens are made for and that the certificate contains. May be given several times.
    #[arg(long, required = true)]
    host: Vec<String>,
    /// Port that tokens are made for; default: the port listened on.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Region that tokens are made for.
    #[arg(long)]
    region: String,
    /// A user who logs in with tokens. May be given several times.
    #[arg(long = "iam-user", required = true)]
    iam_users: Vec<String>,
    /// Refuse other users, too, if they connect without TLS.
    #[arg(long)]
    force_ssl: bool,
    /// Write the CA certificate to this file.
    #[arg(long, value_name = "FILE")]
    ca_out: Option<PathBuf>,
    /// A static access key as ID:SECRET[:SESSION_TOKEN]. May be given several times.
    #[arg(long = "static-key", value_name = "ID:SECRET[:TOKEN]", hide_env_values = true)]
    static_keys: Vec<String>,
    /// Serve the control API on this address; loopback only.
    #[arg(long, value_name = "ADDRESS")]
    control: Option<SocketAddr>,
    /// Serve IMDS, container endpoint and STS on this address.
    #[arg(long, value_name = "ADDRESS")]
    credentials: Option<SocketAddr>,
    /// Lifetime of issued credentials, in seconds.
    #[arg(long, default_value_t = 3600)]
    credential_life: u64,
    /// Length of the session tokens of issued credentials, in bytes.
    #[arg(long, default_value_t = 700)]
    session_token_bytes: usize,
    /// Serve the endpoint of the PAM module on this address.
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
        // The text contains a secret, so it is not part of the message.
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
    let door = IamFrontend::open(
        &simulator,
        IamFrontendOptions {
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
    let _endpoints = Endpoints::start(&arguments, &simulator, door.target()).await?;
    println!("door={}", door.address());
    println!("token_port={}", door.target().port);
    // Scripts wait for this line.
    println!("ready=true");
    wait_for_signal().await
}

/// The endpoints besides the door, open until dropped.
struct Endpoints {
    _control: Option<ControlServer>,
    _credentials: Option<CredentialServer>,
    _pam: Option<PamEndpoint>,
}

impl Endpoints {
    async fn start(arguments: &SimArguments, simulator: &Simulator, target: &TokenTarget) -> Result<Self> {
        let mut endpoints = Self { _control: None, _credentials: None, _pam: None };
        if let Some(listen) = arguments.control {
            let control =
                ControlServer::start(simulator, listen).await.context("opening the control endpoint")?;
            println!("control={}", control.address());
            endpoints._control = Some(control);
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
            endpoints._credentials = Some(server);
        }
        if let Some(listen) = arguments.pam {
            let endpoint = PamEndpoint::start(simulator, listen, target.clone())
                .await
                .context("opening the PAM endpoint")?;
            println!("pam={}", endpoint.address());
            endpoints._pam = Some(endpoint);
        }
        Ok(endpoints)
    }
}

async fn wait_for_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for Ctrl-C"),
        _ = terminate.recv() => Ok(()),
    }
}
