//! The task of a shared listener. Owns its server until no client of the pool listens any more, the server is lost, or it
//! must not be used any longer; gives each notification to the clients that have its channel.
//!
//! It never waits for a client: what one does not read is kept for it, up to a limit.

use super::registry::{ListenerWork, Registry};
use crate::limits::Permit;
use crate::net::Inbound;
use crate::pool::Pool;
use crate::pool::closing::ServerCloseReason;
use crate::pool::lease::Lease;
use crate::server::{Activity, Server};
use crate::worker::{self, executor, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use wire::limits::HEADER_BYTES;
use wire::{backend, encode, scan, tag};

/// How often it is looked at whether the server is still needed and usable.
const TICK: Duration = Duration::from_millis(500);
/// How long the listener remains without clients.
const LINGER: Duration = Duration::from_secs(5);
/// A server that has been silent for this long is asked whether it is still there …
const MAX_SILENCE: Duration = Duration::from_secs(15);
/// … and is lost if it does not answer in this time.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(10);
/// Messages that are given to clients before other tasks get their turn.
const MAX_GIVEN_PER_TURN: usize = 2000;
/// Longest message of the server: an error with all its fields, or a notification in another encoding.
const MAX_MESSAGE_BYTES: u32 = 256 * 1024;
/// Sent first. A client may have set limits in the session that has become the listener.
const KEEP_OPEN: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
    WHERE name OPERATOR(pg_catalog.=) ANY (ARRAY['idle_session_timeout', 'statement_timeout', 'lock_timeout', 'transaction_timeout'])";

/// Why the task ends.
enum ListenerEnd {
    /// No client listens.
    Unused,
    /// RECONNECT, RELOAD, or another address of the server.
    Changed,
    /// RELOAD has changed a limit, and no other server would have a place.
    NoRoom,
    /// The connection is lost, or the server has reported an error.
    Lost(String),
}

/// The request under way.
enum ListenerRequest {
    None,
    /// These channels are subscribed to when it is answered.
    Sent {
        at: Instant,
        listen: Vec<Arc<[u8]>>,
    },
}

struct ListenerTask<'a> {
    registry: &'a Registry,
    server: &'a mut Server,
    marks: Arc<str>,
    request: ListenerRequest,
    unsent: Vec<u8>,
    received: Inbound,
    heard_at: Instant,
    unused_since: Option<Instant>,
    /// It is time to UNLISTEN channels that no client has any more. Not at once: clients return soon.
    drops_unused: bool,
}

impl Pool {
    /// A server that is subscribed to the channels of its client, and to that for marks, becomes the listener, which has these
    /// places among the listeners.
    pub fn begin_listener(self: &Rc<Self>, mut lease: Lease, marks: Arc<str>, places: Vec<Permit>) {
        let registry = self.listener_registry().clone();
        lease.info.activity.set(Activity::Listening);
        lease.info.client_id.set(0);
        lease.info.is_kept.set(false);
        let pool = self.clone();
        tracing::info!(
            id = lease.info.facts.id,
            database = %self.database.name,
            user = %self.user,
            server_pid = lease.info.facts.pid,
            "a server is the shared listener of its pool"
        );
        executor::spawn(async move {
            let end = run(&pool, &mut lease, &registry, marks).await;
            pool.end_listener(lease, &registry, end);
            drop(places);
        });
        // One server fewer is in use.
        self.changed.notify_all();
    }

    fn end_listener(self: &Rc<Self>, lease: Lease, registry: &Registry, end: ListenerEnd) {
        let (reason, why) = match end {
            ListenerEnd::Unused => (ServerCloseReason::ListenerUnused, None),
            ListenerEnd::Changed => (ServerCloseReason::Changed, Some("its server is replaced".to_owned())),
            ListenerEnd::NoRoom => {
                (ServerCloseReason::Surplus, Some("the limits have room for one server only".to_owned()))
            }
            ListenerEnd::Lost(why) => (ServerCloseReason::Died, Some(why)),
        };
        if let Some(why) = why {
            tracing::warn!(
                event = "shared_listener_lost",
                id = lease.info.facts.id,
                database = %self.database.name,
                user = %self.user,
                server_pid = lease.info.facts.pid,
                "the shared listener has ended, its clients are disconnected: {why}"
            );
            registry.end(&why.into());
        }
        lease.close(reason);
        self.connect_for_waiters();
    }
}

async fn run(pool: &Pool, server: &mut Server, registry: &Registry, marks: Arc<str>) -> ListenerEnd {
    let now = worker::now();
    let mut listener = ListenerTask {
        registry,
        server,
        marks,
        request: ListenerRequest::None,
        unsent: Vec::new(),
        received: Inbound::default(),
        heard_at: now,
        unused_since: None,
        drops_unused: false,
    };
    listener.send(KEEP_OPEN, Vec::new());
    loop {
        match timers::timeout(TICK, poll_fn(|cx| listener.poll(cx))).await {
            Some(end) => return end,
            None => {
                if !pool.has_room_for_listener() {
                    return ListenerEnd::NoRoom;
                }
                if let Some(end) = listener.look(worker::now()) {
                    return end;
                }
            }
        }
    }
}

impl ListenerTask<'_> {
    /// Called from time to time.
    fn look(&mut self, now: Instant) -> Option<ListenerEnd> {
        if self.server.info.close_needed.get() {
            return Some(ListenerEnd::Changed);
        }
        self.drops_unused = true;
        if !self.registry.is_unused() {
            self.unused_since = None;
        } else if now.saturating_duration_since(*self.unused_since.get_or_insert(now)) >= LINGER
            && self.registry.end_if_unused()
        {
            return Some(ListenerEnd::Unused);
        }
        match &self.request {
            ListenerRequest::Sent { at, .. } if now.saturating_duration_since(*at) > MAX_ANSWER_TIME => {
                Some(ListenerEnd::Lost("its server does not answer".to_owned()))
            }
            ListenerRequest::None if now.saturating_duration_since(self.heard_at) > MAX_SILENCE => {
                self.send("", Vec::new());
                None
            }
            _ => None,
        }
    }

    fn send(&mut self, sql: &str, listen: Vec<Arc<[u8]>>) {
        encode::query(&mut self.unsent, sql);
        self.request = ListenerRequest::Sent { at: worker::now(), listen };
    }

    /// Ready when it has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ListenerEnd> {
        let mut given = 0;
        loop {
            if let ListenerRequest::None = self.request {
                let work = self.registry.work(cx.waker(), std::mem::take(&mut self.drops_unused));
                self.request_changes(work);
            }
            let awaited_answer = matches!(self.request, ListenerRequest::Sent { .. });
            if let Err(error) = self.poll_send(cx) {
                return Poll::Ready(ListenerEnd::Lost(error.to_string()));
            }
            match self.read(&mut given) {
                Ok(()) => {}
                Err(end) => return Poll::Ready(end),
            }
            if given > MAX_GIVEN_PER_TURN {
                // There is more to read, but other tasks come first.
                executor::wake(executor::current());
                return Poll::Pending;
            }
            if awaited_answer && matches!(self.request, ListenerRequest::None) {
                continue;
            }
            if self.received.is_full() {
                self.received.make_room(self.received.len() + 1);
            }
            match ready!(self.server.stream.poll_recv(cx, &mut self.received)) {
                Ok(0) => {
                    return Poll::Ready(ListenerEnd::Lost("the server has closed the connection".to_owned()));
                }
                Ok(_) => self.heard_at = worker::now(),
                Err(error) => return Poll::Ready(ListenerEnd::Lost(error.to_string())),
            }
        }
    }

    fn request_changes(&mut self, work: ListenerWork) {
        if work.listen.is_empty() && work.unlisten.is_empty() {
            return;
        }
        let mut sql = Vec::new();
        for (command, channels) in [(&b"UNLISTEN "[..], &work.unlisten), (b"LISTEN ", &work.listen)] {
            for channel in channels {
                push_command(&mut sql, command, channel);
            }
        }
        self.send(&String::from_utf8_lossy(&sql), work.listen);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match self.server.stream.poll_send(cx, &self.unsent, &[]) {
                Poll::Ready(sent) => drop(self.unsent.drain(..sent?)),
                Poll::Pending => return Ok(()),
            }
        }
        match self.server.stream.poll_flush(cx) {
            Poll::Ready(flushed) => flushed,
            Poll::Pending => Ok(()),
        }
    }

    /// Handles the whole messages that have been received.
    fn read(&mut self, given: &mut usize) -> Result<(), ListenerEnd> {
        while *given <= MAX_GIVEN_PER_TURN {
            let header = scan::header(self.received.bytes(), MAX_MESSAGE_BYTES)
                .map_err(|error| ListenerEnd::Lost(format!("the server broke the protocol: {error}")))?;
            let Some(frame) = header.filter(|frame| frame.len <= self.received.len()) else {
                if let Some(frame) = header {
                    // Bounded above.
                    self.received.make_room(frame.len);
                }
                return Ok(());
            };
            *given += self.on_message(frame)?;
            self.received.consume(frame.len);
        }
        Ok(())
    }

    /// Returns to how many clients the message was given.
    fn on_message(&mut self, frame: scan::Frame) -> Result<usize, ListenerEnd> {
        let message = &self.received.bytes()[..frame.len];
        match frame.tag {
            tag::backend::NOTIFICATION_RESPONSE => {
                let Some((channel, payload)) = notification(message) else {
                    return Err(ListenerEnd::Lost("the server broke the protocol: notification".to_owned()));
                };
                if channel == self.marks.as_bytes() {
                    self.registry.mark_arrived(&String::from_utf8_lossy(payload));
                    return Ok(1);
                }
                return Ok(self.registry.deliver(channel, message).max(1));
            }
            tag::backend::READY_FOR_QUERY => {
                if let ListenerRequest::Sent { listen, .. } =
                    std::mem::replace(&mut self.request, ListenerRequest::None)
                {
                    self.registry.subscribed(&listen);
                }
            }
            tag::backend::ERROR_RESPONSE => {
                let fields = backend::error_fields(message).unwrap_or_default();
                return Err(ListenerEnd::Lost(format!("the server has reported: {}", fields.message)));
            }
            _ => {}
        }
        Ok(1)
    }
}

/// Channel and payload of a NotificationResponse.
pub fn notification(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let body = message.get(HEADER_BYTES + 4..)?;
    let mut parts = body.split(|&byte| byte == 0);
    Some((parts.next()?, parts.next()?))
}

/// Appends a LISTEN or UNLISTEN.
pub fn push_command(sql: &mut Vec<u8>, command: &[u8], channel: &[u8]) {
    sql.extend_from_slice(command);
    sql.push(b'"');
    for &byte in channel {
        sql.extend(std::iter::repeat_n(byte, 1 + usize::from(byte == b'"')));
    }
    sql.extend_from_slice(b"\";");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_quoted() {
        let mut sql = Vec::new();
        push_command(&mut sql, b"LISTEN ", b"a\"b c");
        assert_eq!(sql, b"LISTEN \"a\"\"b c\";");
    }

    #[test]
    fn a_notification_has_a_channel_and_a_payload() {
        let message = b"A\0\0\0\x0e\0\0\0\x07chan\0x\0";
        assert_eq!(notification(message), Some((&b"chan"[..], &b"x"[..])));
        assert_eq!(notification(&message[..7]), None);
    }
}
