//! The process as a whole: workers, listeners, janitor, signals, and the way down. Owns the main task of the first
//! worker; what a client or a pool does is theirs.

mod accept;
mod announce;
mod engine;
mod first_login;
mod heartbeat;
mod janitor;
mod members;
mod memory;
mod shutdown;
pub mod signals;

use crate::client::ClientServices;
use crate::context::{Common, ConfigFiles, secrets_for};
use crate::http;
use crate::identities::Identities;
use crate::net::listener::{BoundListener, Listener};
use crate::pool::shared::Registry;
use crate::worker::executor;
use crate::worker::workers::Workers;
use rds_iam::{LoginLimiter, Resolver, TokenEngine};
use signals::Signal;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Everything the workers need to start.
pub struct StartPlan {
    /// First configuration.
    pub loaded: ConfigFiles,
    /// BoundListener sockets.
    pub bound: Vec<BoundListener>,
    /// Reads the configuration again.
    pub reloader: crate::admin::Reloader,
    /// The control thread.
    pub control: tokio::runtime::Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Names with their aliases; `None` where DNS is not set up.
    pub resolver: Option<Resolver>,
    /// BoundListener sockets for probes and metrics; none, if nobody wants them.
    pub http: Vec<BoundListener>,
    /// What the process is told by signals.
    pub signals: mpsc::Receiver<Signal>,
}

/// Runs the pooler until it is told to end, on this thread and one more for each further worker.
///
/// # Errors
/// The kernel refuses what a worker needs, or no randomness is to be had.
pub fn run(plan: StartPlan) -> io::Result<()> {
    let StartPlan { loaded, bound, reloader, control, tokens, resolver, http, signals } = plan;
    let login_rate = loaded.config.settings.iam_login_rate;
    let mut process_key = [0; 32];
    aws_lc_rs::rand::fill(&mut process_key).map_err(|_| io::Error::other("no random numbers available"))?;
    let settings = &loaded.config.settings;
    let engine = engine::choose(settings.io_engine)?;
    let mut teams = Workers::create(settings.workers.count())?.into_iter();
    let Some(first) = teams.next() else { return Err(io::Error::other("no worker")) };
    tracing::info!("workers = {}", first.len());
    let identities = Identities::new(tokens.clone(), control.clone());
    announce::endpoints(&loaded.config, &identities, resolver.as_ref(), &control);
    let registry = Arc::new(Registry::new(first.len(), !http.is_empty()));
    let secrets = secrets_for(&tokens, settings);
    http::serve(&control, http, first.handles(), registry.clone(), identities.clone(), secrets.clone())?;
    let common = Common {
        loaded,
        control,
        tokens,
        secrets,
        identities,
        resolver,
        host_names: Default::default(),
        login_rate: LoginLimiter::new(login_rate),
        proofs: Default::default(),
        pending_logins: Default::default(),
        log_limit: Default::default(),
        registry,
        own_endpoints: bound.iter().map(|bound| bound.endpoint.clone()).collect(),
        process_key,
    };
    let _running = common.registry.running.take(None);
    let mut others = Vec::new();
    for workers in teams {
        others.push(members::start(engine, workers, common.clone(), reloader.clone())?);
    }
    let started = first.clone();
    let outcome = engine.run(&started, async move {
        let services = members::open_door(common, first, reloader);
        if let Err(error) = serve(services, bound, signals).await {
            tracing::error!(%error, "cannot start");
        }
    });
    outcome.and_then(|()| others.into_iter().try_for_each(members::WorkerThread::join))
}

/// The first worker's part: it listens, hears signals, and goes last.
async fn serve(
    services: Rc<ClientServices>,
    bound: Vec<BoundListener>,
    signals: mpsc::Receiver<Signal>,
) -> io::Result<()> {
    let lifecycle = services.console.lifecycle.clone();
    let mut listening = Vec::new();
    for bound in bound {
        let listener = Listener::new(bound)?;
        listening.push(listener.endpoint().to_string());
        executor::spawn(accept::run(services.clone(), listener));
    }
    executor::spawn(signals::obey(services.console.clone(), signals));
    services.context.registry.health.start();
    tracing::info!("ready: accepting connections on {}", listening.join(", "));
    shutdown::wait(&services, &lifecycle).await;
    Ok(())
}
