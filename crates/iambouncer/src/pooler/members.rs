//! The workers other than the first one. Owns their threads, their services, and the assignment of new clients to
//! workers.

use super::engine::EngineChoice;
use crate::admin::{Console, Reloader};
use crate::client::{self, ClientServices};
use crate::clients::ClientTable;
use crate::context::{ConfigFiles, Context};
use crate::files::PermittedUse;
use crate::lifecycle::Lifecycle;
use crate::log_limit::warn_unauthenticated;
use crate::net::{Endpoint, Socket};
use crate::pending_logins::AddressGroup;
use crate::pool::{Directory, SharedPools};
use crate::process::Process;
use crate::worker::workers::Workers;
use crate::worker::{executor, home};
use std::cell::Cell;
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
struct AbortOnPanic;

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
pub(super) fn start(engine: EngineChoice, workers: Workers, start: WorkerStart) -> io::Result<WorkerThread> {
    let running = start.process.limits.running.take(None);
    let thread = thread::Builder::new().name(format!("worker-{}", workers.index()));
    let handle = thread.spawn(move || {
        let _guard = AbortOnPanic;
        let own_handle = workers.clone();
        let outcome = engine.run(&own_handle, async move {
            let services = open_services(start, workers);
            let lifecycle = services.console.lifecycle.clone();
            super::shutdown::wait(&services, &lifecycle).await;
        });
        drop(running);
        if let Err(error) = &outcome {
            tracing::error!(%error, worker = own_handle.index(), "a worker failed, exiting");
            std::process::exit(1);
        }
        // The first worker waits for this.
        let notify_first_worker = || {
            if let Some(lifecycle) = home::get::<Lifecycle>() {
                lifecycle.changed.notify_all();
            }
        };
        drop(own_handle.run_on(0, Box::new(notify_first_worker)));
        outcome
    })?;
    Ok(WorkerThread(handle))
}

/// Creates the services of a worker and starts its janitor.
pub(super) fn open_services(start: WorkerStart, workers: Workers) -> Rc<ClientServices> {
    let WorkerStart { process, loaded, shared_pools, reloader } = start;
    let clients = Rc::new(ClientTable::new(workers.index()));
    let context = Rc::new(Context::new(process, loaded, workers));
    let lifecycle = Rc::new(Lifecycle::default());
    let directory = Directory::new(context.clone(), shared_pools);
    let console = Rc::new(Console::new(
        context.clone(),
        directory.clone(),
        clients.clone(),
        lifecycle.clone(),
        reloader,
    ));
    let services = Rc::new(ClientServices {
        context,
        directory: directory.clone(),
        clients,
        console: console.clone(),
        closing: Cell::new(false),
    });
    home::put(directory);
    home::put(console);
    home::put(lifecycle.clone());
    home::put(services.clone());
    executor::spawn(super::heartbeat::run(services.context.clone()));
    executor::spawn(super::janitor::run(services.clone(), lifecycle));
    services
}

/// Passes a new connection to the worker with the fewest clients.
pub(super) fn assign_client(
    services: &Rc<ClientServices>,
    socket: OwnedFd,
    remote: Endpoint,
    listener: Endpoint,
) {
    let loads = &services.context.process.limits.loads;
    let Some((worker, load)) = loads.iter().enumerate().min_by_key(|(_, load)| load.taken()) else { return };
    let (Some(worker_place), Some(process_place)) =
        (load.take(None), services.context.process.limits.clients.take(None))
    else {
        return;
    };
    let pending = services.context.process.pending_logins.add(AddressGroup::of(&remote), worker);
    let permitted = PermittedUse::of(&socket);
    let permit =
        client::ConnectionPermit { worker: worker_place, process: process_place, pending, permitted };
    let serve_client = move || {
        let Some(services) = home::get::<ClientServices>() else { return };
        match Socket::new(socket) {
            Ok(socket) => {
                executor::spawn(client::serve(services, socket, remote, listener, permit));
            }
            Err(error) => {
                warn_unauthenticated!(services.context, "attach", client = %remote, %error, "connection dropped");
            }
        }
    };
    if worker == services.context.workers.index() {
        serve_client();
    } else if services.context.workers.run_on(worker, Box::new(serve_client)).is_err() {
        warn_unauthenticated!(
            services.context,
            "worker",
            worker,
            "connection dropped: its worker is overloaded"
        );
    }
}
