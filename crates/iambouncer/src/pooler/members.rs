//! The workers other than the first one. Owns their threads, their state, and the assignment of new clients to
//! workers.

use super::engine::EngineChoice;
use crate::admin::{Console, Reloader};
use crate::client;
use crate::clients::{ClientTable, KeyForm};
use crate::context::{ConfigFiles, Context};
use crate::files::PermittedUse;
use crate::lifecycle::Lifecycle;
use crate::log_limit::warn_unauthenticated;
use crate::net::Endpoint;
use crate::pending_logins::AddressGroup;
use crate::pool::{Directory, SharedPools};
use crate::process::Process;
use crate::worker::executor::Priority;
use crate::worker::workers::WorkerSlot;
use crate::worker::{self, executor};
use crate::worker_state::Worker;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

/// The thread of a worker.
pub(super) struct WorkerThread(JoinHandle<io::Result<()>>);

impl WorkerThread {
    /// Waits until it has finished.
    pub(super) fn join(self) -> io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    }
}

/// Aborts the process when a worker panics: with some workers missing, the pooler would only appear to work.
pub(super) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// The initial state of every worker.
#[derive(Clone)]
pub(super) struct WorkerStart {
    pub(super) process: Arc<Process>,
    /// First configuration.
    pub(super) loaded: ConfigFiles,
    pub(super) shared_pools: Arc<SharedPools>,
    pub(super) reloader: Reloader,
}

/// Starts a worker on a thread of its own.
///
/// # Errors
/// The system refuses a thread.
pub(super) fn start(
    engine: EngineChoice,
    slot: WorkerSlot<Worker>,
    start: WorkerStart,
) -> io::Result<WorkerThread> {
    let running = start.process.limits.running.take(None);
    let serving = start.process.limits.serving.take(None);
    let thread = thread::Builder::new().name(format!("worker-{}", slot.index().index()));
    let handle = thread.spawn(move || {
        let _guard = AbortOnPanic;
        let (index, workers) = (slot.index().index(), slot.workers::<Worker>());
        let outcome = engine.run(async move {
            let worker = open(start, slot);
            super::shutdown::wait(&worker, serving).await;
        });
        drop(running);
        if let Err(error) = &outcome {
            tracing::error!(%error, worker = index, "a worker failed, exiting");
            std::process::exit(1);
        }
        // The first worker waits for this.
        let _ = workers.run_on(0, |first| first.lifecycle.changed.notify_all());
        outcome
    })?;
    Ok(WorkerThread(handle))
}

/// Creates the state of a worker, starts its janitor, and lets it run jobs of the others.
pub(super) fn open(start: WorkerStart, slot: WorkerSlot<Worker>) -> Rc<Worker> {
    let WorkerStart { process, loaded, shared_pools, reloader } = start;
    let key_form = KeyForm::of(process.peer_id, slot.index().count());
    let clients = Rc::new(ClientTable::new(slot.index().index(), key_form));
    let context = Rc::new(Context::new(process, loaded, slot.index()));
    let lifecycle = Rc::new(Lifecycle::default());
    let directory = Directory::new(context.clone(), shared_pools, slot.workers());
    let console = Rc::new(Console::new(
        context.clone(),
        directory.clone(),
        clients.clone(),
        lifecycle.clone(),
        reloader,
        slot.workers(),
    ));
    let workers = slot.workers();
    let worker = Rc::new(Worker { context, directory, clients, lifecycle, console, workers });
    slot.serve(worker.clone());
    executor::spawn(super::heartbeat::run(worker.clone()));
    executor::spawn(super::janitor::run(worker.clone()));
    super::sizing::begin(&worker);
    worker
}

/// Passes a new connection to a worker.
pub(super) fn assign_client(
    worker: &Rc<Worker>,
    socket: OwnedFd,
    permitted: PermittedUse,
    remote: Endpoint,
    listener: Endpoint,
) {
    let process = &worker.context.process;
    let (Some((index, of_worker)), Some(of_process)) =
        (process.placement.assign(worker::now()), process.limits.clients.take(None))
    else {
        return;
    };
    let pending = worker.context.process.pending_logins.add(AddressGroup::of(&remote), index);
    let permit = client::ConnectionPermit { of_worker, of_process, pending, permitted };
    let serve_client = move |worker: &Rc<Worker>| {
        executor::spawn_with(Priority::Low, client::serve(worker.clone(), socket, remote, listener, permit));
    };
    if index == worker.context.worker.index() {
        serve_client(worker);
    } else if worker.workers.run_on(index, serve_client).is_err() {
        warn_unauthenticated!(
            worker.context,
            "worker",
            worker = index,
            "connection dropped: its worker is overloaded"
        );
    }
}
