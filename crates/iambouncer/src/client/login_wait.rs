//! The waits of a client in its login: for the first server of its pool, whose parameters its startup response has, and in
//! session pooling for the server that it keeps. Owns what happens meanwhile: its disconnect, the NOTICE, time limits.

use super::authenticate::LoginRefusal;
use crate::client_error::{self, ClientError};
use crate::clients::{ClientInfo, ClientState};
use crate::net::{Inbound, Stream};
use crate::pool::{Acquired, Lease, Pool, ServerParameters, Waiter};
use crate::server::Activity;
use crate::worker::buffer::SMALL_BLOCK_BYTES;
use crate::worker::{self, either, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};
use wire::encode::{self, ErrorReport};

/// Longest time between two checks whether a server login can be started.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// What a client may send before its startup response, in bytes; more stays in its socket.
const MAX_EARLY_BYTES: usize = SMALL_BLOCK_BYTES;

/// A client in its login. While it waits it counts as waiting, and its disconnect is noticed.
pub(super) struct LoginWait<'a> {
    pub(super) pool: &'a Rc<Pool>,
    pub(super) client: &'a Rc<ClientInfo>,
    pub(super) stream: &'a mut Stream,
    pub(super) inbound: &'a mut Inbound,
    /// It has received AuthenticationOk, and the NOTICE about its wait.
    pub(super) has_notified: bool,
}

/// What ends a part of the wait in the queue.
enum QueueEvent {
    Decided,
    NoticeDue,
}

impl LoginWait<'_> {
    /// Waits until the pool has had a server.
    ///
    /// # Errors
    /// The login to the server fails or takes longer than `query_wait_timeout`; the client disconnects or is killed.
    pub(super) async fn for_parameters(&mut self) -> Result<Rc<ServerParameters>, LoginRefusal> {
        let since = worker::now();
        let _arrival = self.pool.arrive(since);
        self.client.begin_wait(since);
        let outcome = self.until_parameters(since).await;
        self.end_wait(&outcome);
        outcome
    }

    /// Acquires a server as a request does, in the order of all that wait. It counts as used from now on, so it is closed
    /// if the lease is dropped.
    ///
    /// # Errors
    /// As [`LoginWait::for_parameters`].
    pub(super) async fn for_server(&mut self) -> Result<Lease, LoginRefusal> {
        let lease = match self.pool.acquire() {
            Acquired::Server(lease) => lease,
            Acquired::Refused(error) => return Err(LoginRefusal::Error((*error).clone())),
            Acquired::Wait(waiter) => {
                self.client.begin_wait(waiter.since());
                let outcome = self.until_granted(&waiter).await;
                self.end_wait(&outcome);
                outcome?
            }
        };
        lease.info.touched_at.set(worker::now());
        lease.info.client_id.set(self.client.id);
        lease.info.activity.set(Activity::Active);
        Ok(lease)
    }

    fn end_wait<T>(&self, outcome: &Result<T, LoginRefusal>) {
        self.client.time(|timing| timing.query_at = None);
        self.client.state.set(ClientState::Login);
        if matches!(outcome, Err(LoginRefusal::Gone)) {
            self.pool.stats.count(|t| t.abandoned_waits += 1);
        }
    }

    async fn until_granted(&mut self, waiter: &Waiter) -> Result<Lease, LoginRefusal> {
        loop {
            match waiter.poll() {
                Some(Ok(lease)) => {
                    self.pool.stats.record_wait(waiter.since());
                    return Ok(lease);
                }
                Some(Err(error)) => return Err(LoginRefusal::Error((*error).clone())),
                None => {}
            }
            let (client, mut event) = (self.client, QueueEvent::Decided);
            let waiting = poll_fn(|_| {
                if waiter.is_waiting() && !client.take_wait_notice() {
                    return Poll::Pending;
                }
                event = if waiter.is_waiting() { QueueEvent::NoticeDue } else { QueueEvent::Decided };
                Poll::Ready(())
            });
            if let Some(refusal) = either(self.end(), waiting).await {
                return Err(refusal);
            }
            if matches!(event, QueueEvent::NoticeDue) {
                self.notify().await?;
            }
        }
    }

    async fn until_parameters(&mut self, since: Instant) -> Result<Rc<ServerParameters>, LoginRefusal> {
        let pool = self.pool;
        let limit = pool.rules().query_wait_timeout;
        let deadline = (!limit.is_zero()).then(|| since + limit);
        loop {
            if let Some(server_parameters) = pool.server_parameters() {
                return Ok(server_parameters);
            }
            if let Some(error) = pool.refusal_for(since) {
                return Err(LoginRefusal::Error((*error).clone()));
            }
            pool.connect_one();
            if self.client.take_wait_notice() {
                self.notify().await?;
            }
            let left = match deadline {
                Some(at) if at <= worker::now() => return Err(LoginRefusal::Error(self.time_out())),
                Some(at) => at - worker::now(),
                None => Duration::ZERO,
            };
            // The end of another limit, or of the pause after a failure, is not signalled.
            let pause = if left.is_zero() { MAX_PAUSE } else { left.min(MAX_PAUSE) };
            let ended = timers::timeout(pause, pool.login_ended());
            if let Some(denied) = either(self.end(), async { ended.await.unwrap_or_default() }).await {
                return Err(denied);
            }
        }
    }

    /// Sends the NOTICE about the wait. Clients accept it only after AuthenticationOk.
    async fn notify(&mut self) -> Result<(), LoginRefusal> {
        let mut message = Vec::new();
        if !self.has_notified {
            encode::authentication_ok(&mut message);
        }
        encode::notice_response(&mut message, &ErrorReport::notice(client_error::WAIT_NOTICE));
        self.has_notified = true;
        self.stream.send_all(&message).await.map_err(|_| LoginRefusal::Gone)
    }

    /// Counts a timeout. Returns the last login failure if there is one: it is more informative.
    fn time_out(&self) -> ClientError {
        self.pool.stats.count(|t| t.wait_timeouts += 1);
        self.pool.last_failure().unwrap_or_else(client_error::query_wait_timeout)
    }

    /// Waits until the client disconnects or is killed. Bytes received meanwhile are kept for its session.
    pub(super) async fn end(&mut self) -> LoginRefusal {
        match gone_or_killed(self.client, self.stream, self.inbound).await {
            LoginRefusal::Error(error) if error.is_wait_timeout() => LoginRefusal::Error(self.time_out()),
            other => other,
        }
    }
}

/// Waits until a client that waits for a server disconnects or is killed. Bytes received meanwhile are kept.
pub(super) async fn gone_or_killed(
    client: &Rc<ClientInfo>,
    stream: &mut Stream,
    inbound: &mut Inbound,
) -> LoginRefusal {
    poll_fn(|cx| {
        if let Some(error) = client.take_kill() {
            return Poll::Ready(LoginRefusal::Error(error));
        }
        loop {
            if inbound.len() >= MAX_EARLY_BYTES {
                return Poll::Pending;
            }
            if !inbound.is_empty() {
                inbound.make_room(MAX_EARLY_BYTES);
            }
            match stream.poll_recv(cx, inbound) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready(LoginRefusal::Gone),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
