//! The way down, at each worker. Owns what each phase waits for; nobody is cut off who was promised to be waited for.

use crate::client::ClientServices;
use crate::client_error;
use crate::clients::ClientState;
use crate::lifecycle::{Lifecycle, Phase};
use crate::worker::{either, home, timers};
use std::time::Duration;

/// How long clients may take to read that we are going.
const FAREWELL: Duration = Duration::from_secs(2);

/// Returns when the process may end.
pub(super) async fn wait(services: &ClientServices, lifecycle: &Lifecycle) {
    let mut announced = Phase::Running;
    loop {
        let phase = lifecycle.phase();
        if phase != announced {
            announced = phase;
            announce(services, phase);
        }
        let done = match phase {
            Phase::Running => false,
            // Of all workers: until then a console here is of use, and a server may be needed elsewhere.
            Phase::WaitForClients => services.context.process.limits.sessions.taken() == 0,
            Phase::WaitForServers => services.directory.busy_servers() == 0,
            Phase::Now => true,
        };
        if done {
            break;
        }
        let news = match phase {
            Phase::WaitForServers => &*services.directory.changed,
            _ => &services.directory.client_left,
        };
        either(lifecycle.changed.wait(), news.wait()).await;
    }
    // The last client may have left here, and the others wait for that too.
    services.context.workers.run_on_others(|| {
        if let Some(lifecycle) = home::get::<Lifecycle>() {
            lifecycle.changed.notify_all();
        }
    });
    dismiss(services).await;
    let limits = &services.context.process.limits;
    if services.context.workers.index() == 0 {
        // Signals and the console's last words arrive here: this worker goes last.
        while limits.running.taken() > 1 {
            lifecycle.changed.wait().await;
        }
        tracing::info!("shut down");
    }
}

fn announce(services: &ClientServices, phase: Phase) {
    services.closing.set(phase != Phase::Running);
    services.context.process.health.drain();
    if services.context.workers.index() == 0 {
        match phase {
            Phase::Running => {}
            Phase::WaitForClients => {
                tracing::info!(
                    "no new clients; waiting for {} to leave",
                    services.context.process.limits.clients.taken()
                );
            }
            Phase::WaitForServers => tracing::info!("no new clients; waiting for servers to become free"),
            Phase::Now => tracing::info!("ending now"),
        }
    }
    match phase {
        Phase::WaitForServers => {
            services.directory.set_paused(None, true);
            for client in services.clients.list() {
                if client.state.get() == ClientState::Waiting {
                    client.kill(client_error::shutting_down());
                }
            }
        }
        Phase::Running | Phase::WaitForClients | Phase::Now => {}
    }
}

async fn dismiss(services: &ClientServices) {
    for client in services.clients.list() {
        client.kill(client_error::shutting_down());
    }
    timers::timeout(FAREWELL, async {
        while !services.clients.is_empty()
            && services.clients.list().iter().any(|c| c.state.get() != ClientState::Login)
        {
            services.directory.client_left.wait().await;
        }
    })
    .await;
}
