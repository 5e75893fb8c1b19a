//! Shutdown of each worker. Owns what each phase waits for; a client is never disconnected before the end of the phase
//! that waits for it.

use crate::client::ClientServices;
use crate::client_error;
use crate::clients::ClientState;
use crate::lifecycle::{Lifecycle, Phase};
use crate::worker::{either, home, timers};
use std::time::Duration;

/// How long clients may take to read the final message.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns when the worker may stop.
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
            // Counts the sessions of all workers: until then a console here is useful, and a server may be needed
            // elsewhere.
            Phase::WaitForClients => services.context.process.limits.sessions.taken() == 0,
            Phase::WaitForServers => services.directory.busy_servers() == 0,
            Phase::Now => true,
        };
        if done {
            break;
        }
        let event = match phase {
            Phase::WaitForServers => &*services.directory.changed,
            _ => &services.directory.client_left,
        };
        either(lifecycle.changed.wait(), event.wait()).await;
    }
    // The last client may have left here; the other workers wait for that too.
    services.context.workers.run_on_others(|| {
        if let Some(lifecycle) = home::get::<Lifecycle>() {
            lifecycle.changed.notify_all();
        }
    });
    close_clients(services).await;
    let limits = &services.context.process.limits;
    if services.context.workers.index() == 0 {
        // Signals and the console's final output are handled here, so this worker stops last.
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
                    "no new clients; waiting for {} clients to disconnect",
                    services.context.process.limits.clients.taken()
                );
            }
            Phase::WaitForServers => tracing::info!("no new clients; waiting for servers to be released"),
            Phase::Now => tracing::info!("shutting down immediately"),
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

async fn close_clients(services: &ClientServices) {
    for client in services.clients.list() {
        client.kill(client_error::shutting_down());
    }
    timers::timeout(FINAL_MESSAGE_TIMEOUT, async {
        while !services.clients.is_empty()
            && services.clients.list().iter().any(|c| c.state.get() != ClientState::Login)
        {
            services.directory.client_left.wait().await;
        }
    })
    .await;
}
