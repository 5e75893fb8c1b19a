//! The workers beside the first one. Owns their threads, what each of them has of its own, and which of them gets a new
//! client.

use super::engine::Engine;
use crate::admin::{Console, Reloader};
use crate::client::{self, Door};
use crate::clients::ClientTable;
use crate::context::{Common, Context};
use crate::files::PermittedUse;
use crate::lifecycle::Lifecycle;
use crate::log_limit::warn_unauthenticated;
use crate::net::{Endpoint, Socket};
use crate::pending_logins::Origin;
use crate::pool::Directory;
use crate::worker::team::Team;
use crate::worker::{executor, home};
use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::{self, JoinHandle};

/// The thread of a worker.
pub(super) struct Member(JoinHandle<io::Result<()>>);

impl Member {
    /// Waits until it has ended.
    pub(super) fn join(self) -> io::Result<()> {
        self.0.join().unwrap_or_else(|_| Err(io::Error::other("a worker panicked")))
    }
}

/// Ends the process when a worker panics: half a pooler would look alive and not be.
struct AllOrNothing;

impl Drop for AllOrNothing {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// Starts a worker on a thread of its own.
///
/// # Errors
/// The system refuses a thread.
pub(super) fn start(engine: Engine, team: Team, common: Common, reloader: Reloader) -> io::Result<Member> {
    let running = common.registry.running.take(None);
    let thread = thread::Builder::new().name(format!("worker-{}", team.me()));
    let handle = thread.spawn(move || {
        let _guard = AllOrNothing;
        let me = team.clone();
        let outcome = engine.run(&me, async move {
            let door = open_door(common, team, reloader);
            let lifecycle = door.console.lifecycle.clone();
            super::shutdown::wait(&door, &lifecycle).await;
        });
        drop(running);
        if let Err(error) = &outcome {
            tracing::error!(%error, worker = me.me(), "a worker cannot go on, ending");
            std::process::exit(1);
        }
        // The first worker waits for this.
        let news = || {
            if let Some(lifecycle) = home::get::<Lifecycle>() {
                lifecycle.changed.notify_all();
            }
        };
        drop(me.tell(0, Box::new(news)));
        outcome
    })?;
    Ok(Member(handle))
}

/// Makes what a worker has of its own, and starts its janitor.
pub(super) fn open_door(common: Common, team: Team, reloader: Reloader) -> Rc<Door> {
    let clients = Rc::new(ClientTable::new(team.me()));
    let context = Rc::new(Context::new(common, team));
    let lifecycle = Rc::new(Lifecycle::default());
    let directory = Directory::new(context.clone());
    let console = Rc::new(Console::new(
        context.clone(),
        directory.clone(),
        clients.clone(),
        lifecycle.clone(),
        reloader,
    ));
    let door = Rc::new(Door {
        context,
        directory: directory.clone(),
        clients,
        console: console.clone(),
        closing: Cell::new(false),
    });
    home::put(directory);
    home::put(console);
    home::put(lifecycle.clone());
    home::put(door.clone());
    executor::spawn(super::heartbeat::run(door.context.clone()));
    executor::spawn(super::janitor::run(door.clone(), lifecycle));
    door
}

/// Gives a new connection to the worker with the fewest clients.
pub(super) fn give_client(door: &Rc<Door>, socket: OwnedFd, remote: Endpoint, listener: Endpoint) {
    let loads = &door.context.registry.loads;
    let Some((worker, load)) = loads.iter().enumerate().min_by_key(|(_, load)| load.taken()) else { return };
    let (Some(worker_place), Some(process_place)) =
        (load.take(None), door.context.registry.clients.take(None))
    else {
        return;
    };
    let pending = door.context.pending_logins.add(Origin::of(&remote), worker);
    let permitted = PermittedUse::of(&socket);
    let seat = client::Seat { worker: worker_place, process: process_place, pending, permitted };
    let errand = move || {
        let Some(door) = home::get::<Door>() else { return };
        match Socket::new(socket) {
            Ok(socket) => {
                executor::spawn(client::serve(door, socket, remote, listener, seat));
            }
            Err(error) => {
                warn_unauthenticated!(door.context, "attach", client = %remote, %error, "connection dropped");
            }
        }
    };
    if worker == door.context.team.me() {
        errand();
    } else if door.context.team.tell(worker, Box::new(errand)).is_err() {
        warn_unauthenticated!(
            door.context,
            "worker",
            worker,
            "connection dropped: its worker does not keep up"
        );
    }
}
