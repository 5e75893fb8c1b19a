//! Servers whose clients have gone in the middle of an operation. Owns their shutdown: their work is canceled, and they
//! keep their places in the limits until PostgreSQL has closed the connection, so that the limits match what the
//! database runs. Such a server is never used again.

use super::acquire::Pool;
use super::closing::ServerCloseReason;
use crate::context::Context;
use crate::net::{Inbound, Stream};
use crate::server::{self, Activity, Server, ServerInfo};
use crate::worker::{self, either, executor, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long to wait for a server to close. After that its connection is closed and its places are released.
const MAX_LINGERING: Duration = Duration::from_secs(10);
/// Timeout for one cancel request. A server that does not accept it in time, such as one on a failed host, is
/// unreachable: its state is unknown, and clients do not wait for it.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);
/// Pause before another cancel request: the next statement of a pipeline needs its own request. The pause doubles each
/// time.
const FIRST_CANCEL_PAUSE: Duration = Duration::from_millis(250);

/// The state of a server's connection when its client went.
#[derive(Debug, Clone, Copy)]
pub struct UnfinishedWork {
    /// It owes answers, so it may be working.
    pub owes_answers: bool,
    /// No message to it is incomplete, so another can follow.
    pub between_messages: bool,
}

impl Pool {
    /// Closes a server that must not be used again and may still be working.
    pub(super) fn abandon(self: &Rc<Self>, mut server: Box<Server>, unfinished: UnfinishedWork) {
        let info = server.info.clone();
        self.log_closing(&info, ServerCloseReason::Unclean);
        info.client_id.set(0);
        info.touched_at.set(worker::now());
        info.close_needed.set(true);
        info.activity.set(Activity::Closing);
        let (place, lingering) = (self.shared.lingering.take(None), self.lingering.take(None));
        let pool = self.clone();
        executor::spawn(async move {
            let closing = end(&pool.context, &info, &mut server.stream, unfinished);
            if timers::timeout(MAX_LINGERING, closing).await.is_none() {
                tracing::warn!(
                    event = "lingering_server",
                    database = %pool.database.name,
                    user = %pool.user,
                    server_pid = info.facts.pid,
                    "a server did not close after its client had disconnected; its statement may still be running"
                );
            }
            // In this order, so that a count of servers without the lingering ones is never too high.
            drop(server);
            drop(place);
            pool.context.process.limits.note_closed(worker::now());
            drop(lingering);
            pool.changed.notify_all();
            pool.shared_limits.retry_claims();
            pool.connect_for_waiters();
        });
    }
}

/// Sends Terminate, cancels, and reads until the server closes or is unreachable.
async fn end(context: &Context, info: &Rc<ServerInfo>, stream: &mut Stream, unfinished: UnfinishedWork) {
    if unfinished.between_messages {
        let mut message = Vec::new();
        wire::encode::terminate(&mut message);
        let _ = stream.poll_send(&mut std::task::Context::from_waker(Waker::noop()), &message, &[]);
    }
    let cancels = async {
        let mut pause = FIRST_CANCEL_PAUSE;
        if !unfinished.owes_answers {
            timers::sleep(pause).await;
        }
        while server::cancel::send(context, info.clone(), 0, CANCEL_LIMIT).await {
            timers::sleep(pause).await;
            pause *= 2;
        }
    };
    // Some servers have not sent a cancel key.
    let cancels =
        async { if info.facts.cancel_key.is_empty() { std::future::pending().await } else { cancels.await } };
    either(until_closed(stream), cancels).await;
}

/// Shuts down the sending direction and reads until the server closes; what it sends is discarded.
async fn until_closed(stream: &mut Stream) {
    let mut inbound = Inbound::default();
    let mut is_half_closed = false;
    poll_fn(|cx| {
        loop {
            if !is_half_closed {
                is_half_closed = stream.poll_half_close(cx).is_ready();
            }
            match stream.poll_recv(cx, &mut inbound) {
                Poll::Ready(Ok(n)) if n > 0 => inbound.clear(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}
