//! Shutdown of each worker. Owns what each phase waits for; a client is never disconnected before the end of the phase
//! that waits for it.

use super::drain;
use crate::client_error;
use crate::clients::ClientState;
use crate::lifecycle::Phase;
use crate::limits::Permit;
use crate::service_manager;
use crate::worker::{self, either, executor, timers};
use crate::worker_state::Worker;
use std::rc::Rc;
use std::time::Duration;

/// How long shutdown waits for logins that were in progress when it began.
const LOGIN_GRACE: Duration = Duration::from_secs(5);
/// Time after which a worker looks again: messages of other workers are lost if a mailbox is full.
const RECHECK_PERIOD: Duration = Duration::from_secs(1);
/// How long a drain waits at its end for statements to be canceled.
const CANCEL_GRACE: Duration = Duration::from_secs(2);
/// How long clients may take to read the final message.
const FINAL_MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns when the worker may stop. The permit is in the count of workers whose servers may be in use.
pub(super) async fn wait(worker: &Rc<Worker>, serving: Option<Permit>) {
    let mut serving = serving;
    let lifecycle = &worker.lifecycle;
    let limits = &worker.context.process.limits;
    let mut announced = Phase::Running;
    let mut is_drain = false;
    let mut began = worker::now();
    loop {
        let phase = lifecycle.phase();
        if phase != announced {
            if matches!(announced, Phase::Running | Phase::DrainAnnounced(_)) {
                began = worker::now();
            }
            is_drain |= phase.is_drain();
            announce(worker, phase, announced);
            announced = phase;
        }
        let grace = LOGIN_GRACE.saturating_sub(worker::now() - began);
        let done = match phase {
            Phase::Running | Phase::DrainAnnounced(_) => false,
            Phase::WaitForClients | Phase::Draining(_) => clients_have_left(worker, grace),
            Phase::WaitForServers => {
                if worker.directory.busy_servers() == 0 && serving.take().is_some() {
                    worker.workers.run_on_others(|worker| worker.lifecycle.changed.notify_all());
                }
                // Those of all workers: until then a console here is useful.
                limits.serving.taken() == 0
            }
            Phase::Now => true,
        };
        if done {
            break;
        }
        let event = match phase {
            Phase::WaitForServers => &*worker.directory.changed,
            _ => &worker.directory.client_left,
        };
        let waiting = either(lifecycle.changed.wait(), event.wait());
        match phase {
            Phase::WaitForClients | Phase::Draining(_) => {
                let limit = if grace.is_zero() { RECHECK_PERIOD } else { grace.min(RECHECK_PERIOD) };
                timers::timeout(limit, waiting).await;
            }
            _ => {
                waiting.await;
            }
        }
    }
    // The UNIX socket closes now.
    if worker.context.worker.index() == 0 {
        worker.console.advance(Phase::Now);
    } else {
        lifecycle.advance(Phase::Now);
        // The last server may have been released here; the other workers wait for that too.
        worker.workers.run_on_others(|worker| worker.lifecycle.changed.notify_all());
    }
    close_clients(worker).await;
    if is_drain {
        wait_for_cancels(worker).await;
    }
    if worker.context.worker.index() == 0 {
        // Signals and the console's final output are handled here, so this worker stops last.
        while limits.running.taken() > 1 {
            if timers::timeout(RECHECK_PERIOD, lifecycle.changed.wait()).await.is_none() {
                worker.console.advance(Phase::Now);
            }
        }
        tracing::info!("shut down");
    }
}

/// True at the first worker when the sessions of all workers have ended: until then a console at any worker is useful, and
/// a server may be needed elsewhere. The first worker decides for all, since it accepts connections: no worker may stop
/// while it can be given one.
fn clients_have_left(worker: &Rc<Worker>, grace: Duration) -> bool {
    let process = &worker.context.process;
    let have_left =
        process.limits.sessions.taken() == 0 && (grace.is_zero() || process.pending_logins.len() == 0);
    let decides = worker.context.worker.index() == 0;
    if have_left && !decides {
        // If its mailbox is full, it looks again by itself.
        let _ = worker.workers.run_on(0, |worker| worker.lifecycle.changed.notify_all());
    }
    have_left && decides
}

fn announce(worker: &Rc<Worker>, phase: Phase, before: Phase) {
    worker.context.process.health.drain();
    if worker.context.worker.index() == 0 {
        service_manager::stopping();
        match phase {
            Phase::Running => {}
            Phase::DrainAnnounced(since) => {
                announce_drain(worker);
                executor::spawn(drain::close_listeners_in_time(worker.clone(), since));
            }
            // Announced before, unless clients were being waited for.
            Phase::Draining(_) if before.is_drain() => {}
            Phase::Draining(_) => announce_drain(worker),
            Phase::WaitForClients => {
                tracing::info!(
                    event = "shutdown",
                    "no new clients; waiting for {} clients to disconnect",
                    worker.context.process.limits.clients.taken()
                );
            }
            Phase::WaitForServers => {
                tracing::info!(event = "shutdown", "no new clients; waiting for servers to be released");
            }
            Phase::Now => tracing::info!(event = "shutdown", "shutting down immediately"),
        }
    }
    if let Phase::Draining(since) = phase {
        executor::spawn(drain::close_clients(worker.clone(), since));
    }
    if phase == Phase::WaitForServers {
        // The janitor closes the clients that wait.
        worker.directory.set_paused(None, true);
    }
}

fn announce_drain(worker: &Worker) {
    let Some(period) = worker.context.config().settings.drain_period() else { return };
    tracing::info!(
        event = "shutdown",
        "draining: not ready any more; new clients are accepted for {} s, then the connected ones ({} now) are closed between \
         transactions; the process ends within {} s",
        period.min.as_secs_f64(),
        worker.context.process.limits.sessions.taken(),
        period.max.as_secs_f64()
    );
}

async fn close_clients(worker: &Worker) {
    for client in worker.clients.list() {
        client.kill(client_error::shutting_down());
    }
    timers::timeout(FINAL_MESSAGE_TIMEOUT, async {
        while !worker.clients.is_empty()
            && worker.clients.list().iter().any(|c| c.state.get() != ClientState::Login)
        {
            worker.directory.client_left.wait().await;
        }
    })
    .await;
}

/// Waits until the statements of clients that were closed in a transaction have been canceled.
async fn wait_for_cancels(worker: &Worker) {
    timers::timeout(CANCEL_GRACE, async {
        while worker.directory.lingering_servers() > 0 {
            worker.directory.changed.wait().await;
        }
    })
    .await;
}
