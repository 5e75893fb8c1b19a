//! Servers whose clients have gone in the middle of something. Owns their way out: what they still do is cancelled, and
//! they keep their places in the limits until PostgreSQL has closed the connection, so that limits count what the
//! database does. Nobody is given such a server again.

use super::acquire::Pool;
use crate::context::Context;
use crate::net::{Inbound, Stream};
use crate::server::{self, Activity, Server, ServerInfo};
use crate::worker::{self, either, executor, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Longest time a server is waited for. Then its connection is closed and its places are given back, whatever it does.
const MAX_LINGERING: Duration = Duration::from_secs(10);
/// Longest time for one cancel request. A server that does not take it by then is out of reach: nothing is known of what it
/// does, and clients are not held up by it. Such are the connections to a host that has failed.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);
/// Time before a server is asked once more to cancel: the next statement of a pipeline demands a request of its own. Each
/// further one waits twice as long.
const FIRST_CANCEL_PAUSE: Duration = Duration::from_millis(250);

/// What a server was in the middle of when its client went.
#[derive(Debug, Clone, Copy)]
pub struct UnfinishedWork {
    /// It owes answers, so it may be at work.
    pub owes_answers: bool,
    /// No message to it is half sent, so another can follow.
    pub between_messages: bool,
}

impl Pool {
    /// Ends a server that nobody must use again and that may still be at work.
    pub fn abandon(self: &Rc<Self>, mut server: Box<Server>, unfinished: UnfinishedWork) {
        let info = server.info.clone();
        info.client_id.set(0);
        info.touched_at.set(worker::now());
        info.close_needed.set(true);
        info.activity.set(Activity::Ending);
        let place = self.shared.lingering.take(None);
        self.lingering.set(self.lingering.get() + 1);
        let pool = self.clone();
        executor::spawn(async move {
            let ended = end(&pool.context, &info, &mut server.stream, unfinished);
            if timers::timeout(MAX_LINGERING, ended).await.is_none() {
                tracing::warn!(
                    database = %pool.database.name,
                    user = %pool.user,
                    pid = info.pid,
                    "a server did not end after its client had gone; its statement may still be running"
                );
            }
            // In this order: whoever counts servers without those that linger must not count one too many.
            drop(server);
            drop(place);
            pool.context.process.limits.note_closed(worker::now());
            pool.lingering.set(pool.lingering.get() - 1);
            pool.changed.notify_all();
            pool.shared_limits.relieve();
            pool.connect_for_waiters();
        });
    }
}

/// Says goodbye, cancels, and reads until the server closes or cannot be reached any more.
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
    // Some servers have no key to cancel with.
    let cancels =
        async { if info.cancel_key.is_empty() { std::future::pending().await } else { cancels.await } };
    either(until_closed(stream), cancels).await;
}

/// Closes our direction and reads until the other is closed. What comes is nobody's any more.
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
