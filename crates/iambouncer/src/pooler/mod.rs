//! The process as a whole: workers, listeners, janitor, signals, and shutdown. Owns the main task of the first worker;
//! clients and pools belong to their own modules.

mod accept;
mod announce;
mod drain;
mod engine;
mod first_login;
mod heartbeat;
mod history;
mod janitor;
mod members;
mod memory;
mod shutdown;
pub mod signals;
mod sizing;

use crate::context::ConfigFiles;
pub use crate::health_state::FirstLogin;
use crate::health_state::MAX_SILENCE;
use crate::http;
use crate::limits::Permit;
use crate::net::listener::{BoundListener, Listener};
use crate::pool::SharedPools;
use crate::process::{Process, ProcessParts};
use crate::service_manager;
use crate::worker::executor;
use crate::worker::workers::WorkerSlot;
use crate::worker_state::Worker;
use members::WorkerStart;
use rds_iam::{Resolver, TokenEngine};
use signals::Signal;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc;

/// Everything that the workers need to start.
pub struct StartPlan {
    /// First configuration.
    pub loaded: ConfigFiles,
    /// Listening sockets for clients.
    pub bound: Vec<BoundListener>,
    /// Reads the configuration again.
    pub reloader: crate::admin::Reloader,
    /// The control thread.
    pub control: tokio::runtime::Handle,
    /// IAM tokens.
    pub tokens: TokenEngine,
    /// Resolves names and their aliases; `None` if DNS is not configured.
    pub resolver: Option<Resolver>,
    /// Listening sockets for probes and metrics, if any.
    pub http: Vec<BoundListener>,
    /// Received signals.
    pub signals: mpsc::Receiver<Signal>,
    /// Whether the pooler logs in to a server by itself; not without probes.
    pub first_login: FirstLogin,
    /// Called once, when clients are accepted.
    pub on_ready: Box<dyn FnOnce() + Send>,
}

/// Runs the pooler until shutdown, on this thread and one more for each further worker.
///
/// # Errors
/// The kernel refuses a resource, or no random numbers are available.
pub fn run(plan: StartPlan) -> io::Result<()> {
    let StartPlan {
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
    } = plan;
    memory::merge_at_once();
    let settings = &loaded.config.settings;
    let engine = engine::choose(settings.io_engine)?;
    let mut slots = WorkerSlot::<Worker>::create(settings.workers.count()).into_iter();
    let Some(first) = slots.next() else { return Err(io::Error::other("no worker")) };
    let workers = first.index().count();
    tracing::info!("workers = {workers}");
    let parts = ProcessParts {
        control,
        tokens,
        resolver,
        own_endpoints: bound.iter().map(|bound| bound.endpoint.clone()).collect(),
        workers,
        first_login: if http.is_empty() { FirstLogin::NotNeeded } else { first_login },
    };
    let process = Process::new(&loaded.config, parts)?;
    if process.peer_id != settings.peer_id {
        tracing::info!("peer_id = {} (random, since peer_host is set)", process.peer_id);
    }
    announce::endpoints(&loaded.config, &process);
    #[cfg(feature = "otlp")]
    process.traces.start(&process.control, &loaded.config.settings, &process.trace_counters);
    http::serve(&process, http, first.workers())?;
    let _running = process.limits.running.take(None);
    let serving = process.limits.serving.take(None);
    let shared_pools = Arc::new(SharedPools::new(workers));
    #[cfg(feature = "otlp")]
    let of_traces = process.clone();
    let start = WorkerStart { process, loaded, shared_pools, reloader };
    let mut others = Vec::new();
    for slot in slots {
        others.push(members::start(engine, slot, start.clone())?);
    }
    let _guard = members::AbortOnPanic;
    let outcome = engine.run(async move {
        let worker = members::open(start, first);
        if let Err(error) = serve(worker, serving, bound, signals, on_ready).await {
            tracing::error!(%error, "cannot start");
        }
    });
    let outcome = outcome.and_then(|()| others.into_iter().try_for_each(members::WorkerThread::join));
    #[cfg(feature = "otlp")]
    of_traces.traces.finish(&of_traces.control);
    outcome
}

/// The main task of the first worker: it listens, handles signals, and stops last.
async fn serve(
    worker: Rc<Worker>,
    serving: Option<Permit>,
    bound: Vec<BoundListener>,
    signals: mpsc::Receiver<Signal>,
    on_ready: Box<dyn FnOnce() + Send>,
) -> io::Result<()> {
    let mut listening = Vec::new();
    for bound in bound {
        let listener = Listener::new(bound)?;
        listening.push(listener.endpoint().to_string());
        executor::spawn(accept::run(worker.clone(), listener));
    }
    executor::spawn(signals::handle(worker.console.clone(), signals));
    worker.context.process.health.start();
    tracing::info!(event = "started", "ready: accepting connections on {}", listening.join(", "));
    service_manager::ready();
    let process = worker.context.process.clone();
    let is_alive = move || process.health.silent(Instant::now(), MAX_SILENCE).is_empty();
    service_manager::spawn_watchdog(&worker.context.process.control, is_alive);
    on_ready();
    shutdown::wait(&worker, serving).await;
    Ok(())
}
