//! The process as a whole: workers, listeners, janitor, signals, and the way down. Owns the main task of the first
//! worker; what a client or a pool does is theirs.

mod announce;
mod engine;
mod first_login;
mod heartbeat;
mod janitor;
mod members;
mod memory;
mod shutdown;
pub mod signals;

use crate::client::Door;
use crate::context::{Common, Loaded, secrets_for};
use crate::http;
use crate::identities::Identities;
use crate::lifecycle::Phase;
use crate::net::listener::{Bound, Listener};
use crate::pool::shared::Registry;
use crate::worker::team::Team;
use crate::worker::{self, either, executor, timers};
use rds_iam::{LoginLimiter, Resolver, TokenEngine};
use signals::Signal;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Connections beyond `max_client_conn` that may be logging in, cancelling or about to be turned away.
const UNAUTHENTICATED_SPARE: u32 = 100;
/// Connections accepted before everybody else on the first worker gets a turn.
const MAX_ACCEPTED_PER_TURN: u32 = 64;
/// Pause after accept(2) failed, which means that files or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything the workers need to start.
pub struct Plan {
    /// First configuration.
    pub loaded: Loaded,
    /// Bound sockets.
    pub bound: Vec<Bound>,
    /// Reads the configuration again.
    pub reloader: crate::admin::Reloader,
    /// The control thread.
    pub control: tokio::runtime::Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Names with their aliases; `None` where DNS is not set up.
    pub resolver: Option<Resolver>,
    /// Bound sockets for probes and metrics; none, if nobody wants them.
    pub http: Vec<Bound>,
    /// What the process is told by signals.
    pub signals: mpsc::Receiver<Signal>,
}

/// Runs the pooler until it is told to end, on this thread and one more for each further worker.
///
/// # Errors
/// The kernel refuses what a worker needs, or no randomness is to be had.
pub fn run(plan: Plan) -> io::Result<()> {
    let Plan { loaded, bound, reloader, control, tokens, resolver, http, signals } = plan;
    let login_rate = loaded.config.settings.iam_login_rate;
    let mut process_key = [0; 32];
    aws_lc_rs::rand::fill(&mut process_key).map_err(|_| io::Error::other("no random numbers available"))?;
    let settings = &loaded.config.settings;
    let engine = engine::choose(settings.io_engine)?;
    let mut teams = Team::assemble(settings.workers.count())?.into_iter();
    let Some(first) = teams.next() else { return Err(io::Error::other("no worker")) };
    tracing::info!("workers = {}", first.len());
    let identities = Identities::new(tokens.clone(), control.clone());
    announce::endpoints(&loaded.config, &identities, resolver.as_ref(), &control);
    let registry = Arc::new(Registry::new(first.len(), !http.is_empty()));
    let secrets = secrets_for(&tokens, settings);
    http::serve(&control, http, first.outside(), registry.clone(), identities.clone(), secrets.clone())?;
    let common = Common {
        loaded,
        control,
        tokens,
        secrets,
        identities,
        resolver,
        login_rate: LoginLimiter::new(login_rate),
        proofs: Default::default(),
        registry,
        own_endpoints: bound.iter().map(|bound| bound.endpoint.clone()).collect(),
        process_key,
    };
    let _running = common.registry.running.take(None);
    let mut others = Vec::new();
    for team in teams {
        others.push(members::start(engine, team, common.clone(), reloader.clone())?);
    }
    let started = first.clone();
    let outcome = worker::run(engine, &started, async move {
        let door = members::open_door(common, first, reloader);
        if let Err(error) = serve(door, bound, signals).await {
            tracing::error!(%error, "cannot start");
        }
    });
    outcome.and_then(|()| others.into_iter().try_for_each(members::Member::join))
}

/// The first worker's part: it listens, hears signals, and goes last.
async fn serve(door: Rc<Door>, bound: Vec<Bound>, signals: mpsc::Receiver<Signal>) -> io::Result<()> {
    let lifecycle = door.console.lifecycle.clone();
    let mut listening = Vec::new();
    for bound in bound {
        let listener = Listener::new(bound)?;
        listening.push(listener.endpoint().to_string());
        executor::spawn(accept(door.clone(), listener));
    }
    executor::spawn(signals::obey(door.console.clone(), signals));
    door.context.registry.vitals.start();
    tracing::info!("ready: accepting connections on {}", listening.join(", "));
    shutdown::wait(&door, &lifecycle).await;
    Ok(())
}

async fn accept(door: Rc<Door>, listener: Listener) {
    let lifecycle = door.console.lifecycle.clone();
    let mut accepted_in_turn = 0;
    while lifecycle.phase() == Phase::Running {
        let accepted = listener.accept(door.context.tcp_options());
        let Some(accepted) = either(accepted, lifecycle.changed.wait()).await else { continue };
        match accepted {
            Ok((socket, remote)) => {
                let limit =
                    door.context.config().settings.max_client_conn.saturating_add(UNAUTHENTICATED_SPARE);
                if door.context.registry.clients.taken() >= limit {
                    tracing::warn!(client = %remote, "connection dropped: too many are open already");
                    continue;
                }
                members::give_client(&door, socket, remote, listener.endpoint().clone());
                accepted_in_turn += 1;
                if accepted_in_turn == MAX_ACCEPTED_PER_TURN {
                    accepted_in_turn = 0;
                    executor::yield_now().await;
                }
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                timers::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
