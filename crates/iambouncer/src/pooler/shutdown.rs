//! The way down, at each worker. Owns what each phase waits for; nobody is cut off who was promised to be waited for.

use crate::client::Door;
use crate::clients::ClientState;
use crate::faults;
use crate::lifecycle::{Lifecycle, Phase};
use crate::worker::{either, home, timers};
use std::time::Duration;

/// How long clients may take to read that we are going.
const FAREWELL: Duration = Duration::from_secs(2);

/// Returns when the process may end.
pub(super) async fn wait(door: &Door, lifecycle: &Lifecycle) {
    let mut announced = Phase::Running;
    loop {
        let phase = lifecycle.phase();
        if phase != announced {
            announced = phase;
            announce(door, phase);
        }
        let done = match phase {
            Phase::Running => false,
            // Of all workers: until then a console here is of use, and a server may be needed elsewhere.
            Phase::WaitForClients => door.context.registry.sessions.taken() == 0,
            Phase::WaitForServers => door.directory.busy_servers() == 0,
            Phase::Now => true,
        };
        if done {
            break;
        }
        let news = match phase {
            Phase::WaitForServers => &*door.directory.changed,
            _ => &door.directory.client_left,
        };
        either(lifecycle.changed.wait(), news.wait()).await;
    }
    // The last client may have left here, and the others wait for that too.
    door.context.team.tell_others(|| {
        if let Some(lifecycle) = home::get::<Lifecycle>() {
            lifecycle.changed.notify_all();
        }
    });
    dismiss(door).await;
    let registry = &door.context.registry;
    if door.context.team.me() == 0 {
        // Signals and the console's last words arrive here: this worker goes last.
        while registry.running.taken() > 1 {
            lifecycle.changed.wait().await;
        }
        tracing::info!("shut down");
    }
}

fn announce(door: &Door, phase: Phase) {
    door.closing.set(phase != Phase::Running);
    door.context.registry.vitals.drain();
    if door.context.team.me() == 0 {
        match phase {
            Phase::Running => {}
            Phase::WaitForClients => {
                tracing::info!(
                    "no new clients; waiting for {} to leave",
                    door.context.registry.clients.taken()
                );
            }
            Phase::WaitForServers => tracing::info!("no new clients; waiting for servers to become free"),
            Phase::Now => tracing::info!("ending now"),
        }
    }
    match phase {
        Phase::WaitForServers => {
            door.directory.set_paused(None, true);
            for client in door.clients.list() {
                if client.state.get() == ClientState::Waiting {
                    client.kill(faults::shutting_down());
                }
            }
        }
        Phase::Running | Phase::WaitForClients | Phase::Now => {}
    }
}

async fn dismiss(door: &Door) {
    for client in door.clients.list() {
        client.kill(faults::shutting_down());
    }
    timers::timeout(FAREWELL, async {
        while !door.clients.is_empty()
            && door.clients.list().iter().any(|c| c.state.get() != ClientState::Login)
        {
            door.directory.client_left.wait().await;
        }
    })
    .await;
}
