//! The process as a whole: listeners, janitor, signals, and the way down. Owns the main task of the worker; what a
//! client or a pool does is theirs.

mod engine;
mod janitor;
mod shutdown;
pub mod signals;

use crate::admin::Console;
use crate::client::{self, Door};
use crate::clients::ClientTable;
use crate::context::{Context, Loaded};
use crate::lifecycle::{Lifecycle, Phase};
use crate::net::listener::{Bound, Listener};
use crate::pool::Directory;
use crate::worker::{self, either, executor, timers};
use rds_iam::TokenEngine;
use signals::Signal;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Connections beyond `max_client_conn` that may be logging in, cancelling or about to be turned away.
const UNAUTHENTICATED_SPARE: usize = 100;
/// Pause after accept(2) failed, which means that files or memory have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything a worker needs to start.
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
    /// What the process is told by signals.
    pub signals: mpsc::Receiver<Signal>,
}

/// Runs the pooler on this thread until it is told to end.
///
/// # Errors
/// The kernel refuses what a worker needs, or no randomness is to be had.
pub fn run(plan: Plan) -> std::io::Result<()> {
    let mut process_key = [0; 32];
    aws_lc_rs::rand::fill(&mut process_key)
        .map_err(|_| std::io::Error::other("no random numbers available"))?;
    let engine = engine::choose(plan.loaded.config.settings.io_engine)?;
    worker::run(engine, async move {
        if let Err(error) = serve(plan, process_key).await {
            tracing::error!(%error, "cannot start");
        }
    })
}

async fn serve(plan: Plan, process_key: [u8; 32]) -> std::io::Result<()> {
    let Plan { loaded, bound, reloader, control, tokens, signals } = plan;
    let endpoints = bound.iter().map(|bound| bound.endpoint.clone()).collect();
    let context = Rc::new(Context::new(loaded, control, tokens, endpoints, process_key));
    let lifecycle = Rc::new(Lifecycle::default());
    let directory = Directory::new(context.clone());
    let clients: Rc<ClientTable> = Rc::default();
    let console = Rc::new(Console::new(
        context.clone(),
        directory.clone(),
        clients.clone(),
        lifecycle.clone(),
        reloader,
    ));
    let door =
        Rc::new(Door { context, directory, clients, console: console.clone(), closing: Cell::new(false) });
    let mut listening = Vec::new();
    for bound in bound {
        let listener = Listener::new(bound)?;
        listening.push(listener.endpoint().to_string());
        executor::spawn(accept(door.clone(), listener));
    }
    executor::spawn(janitor::run(door.clone(), lifecycle.clone()));
    executor::spawn(signals::obey(console, signals));
    tracing::info!("ready: accepting connections on {}", listening.join(", "));
    shutdown::wait(&door, &lifecycle).await;
    Ok(())
}

async fn accept(door: Rc<Door>, listener: Listener) {
    let lifecycle = door.console.lifecycle.clone();
    while lifecycle.phase() == Phase::Running {
        let accepted = listener.accept(door.context.tcp_options());
        let Some(accepted) = either(accepted, lifecycle.changed.wait()).await else { continue };
        match accepted {
            Ok((socket, remote)) => {
                let limit = door.context.config().settings.max_client_conn as usize + UNAUTHENTICATED_SPARE;
                if door.clients.len() >= limit {
                    tracing::warn!(client = %remote, "connection dropped: too many are open already");
                    continue;
                }
                executor::spawn(client::serve(door.clone(), socket, remote));
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                timers::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
