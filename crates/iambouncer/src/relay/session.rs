//! A logged-in client. Owns the turn of its task (read the client, read the server, again while there is progress),
//! linking, releasing, and what happens at the end.

use super::head::Head;
use super::link::{Link, Linked, abandon};
use crate::clients::{ClientInfo, ClientState};
use crate::config::PoolMode;
use crate::context::Context;
use crate::faults::{self, Fault};
use crate::net::{Inbound, Stream};
use crate::parameters::ValueSet;
use crate::pool::{Borrow, Pool};
use crate::prepared::{ClientNames, Expected, ExpectedAnswers, Undo};
use crate::server::{Activity, Server};
use crate::worker::{self, executor, timers};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;
use wire::backend::TxStatus;
use wire::encode;
use wire::scan::{FROM_CLIENT, FROM_SERVER, Scanner};

/// Turns of read-and-send in both directions before other tasks get theirs.
const MAX_ROUNDS_PER_TURN: usize = 16;
/// How long a client that does not read may hold up its own last message.
const FAREWELL_LIMIT: Duration = Duration::from_secs(5);

/// How a session ended.
pub enum Ending {
    /// The client said goodbye or closed.
    ClientLeft,
    /// The client's connection failed.
    ClientLost(std::io::Error),
    /// We end it, telling the client why.
    Fault(Fault),
    /// The server has told the client why, in a FATAL of its own.
    ServerFatal,
}

/// What holds for a session for as long as it lasts.
#[derive(Debug, Clone, Copy)]
pub struct SessionRules {
    /// Pool mode.
    pub mode: PoolMode,
    /// `max_prepared_statements`; 0 when statements are not tracked.
    pub max_prepared: usize,
    /// `max_packet_size`, bytes.
    pub max_message_bytes: u32,
    /// Run the reset query at every release.
    pub always_reset: bool,
}

/// What a login leaves to its session.
pub struct Start {
    /// Rules.
    pub rules: SessionRules,
    /// The client's connection.
    pub client: Stream,
    /// Bytes that came with the login.
    pub up: Inbound,
    /// The client's tracked parameters.
    pub parameters: ValueSet,
    /// They are a server's own values, so no server will refuse them.
    pub parameters_proven: bool,
}

/// A client and, while it has one, its server.
pub struct Session {
    pub(super) context: Rc<Context>,
    pub(super) pool: Rc<Pool>,
    pub(super) info: Rc<ClientInfo>,
    pub(super) rules: SessionRules,
    pub(super) client: Stream,
    pub(super) link: Link,
    /// What the server owes.
    pub(super) answers: ExpectedAnswers,
    /// What the server said against our SET.
    pub(super) own_query_error: Option<Vec<u8>>,
    /// A request of the client is held back until our SET is answered.
    pub(super) holds_request: bool,
    pub(super) names: ClientNames,
    /// Tracked parameters as the client believes them to be.
    pub(super) parameters: ValueSet,
    /// The client's values were accepted by a server before.
    pub(super) parameters_proven: bool,

    /// From the client, not sent on yet.
    pub(super) up: Inbound,
    pub(super) up_scanner: Scanner,
    /// Bytes at the front of `up` that go to the server as they are.
    pub(super) up_ready: usize,
    /// Bytes that go to the server before those.
    pub(super) up_head: Head,
    /// The rest of the client's current message is not sent on.
    pub(super) up_discard_tail: bool,

    /// From the server, not sent on yet.
    pub(super) down: Inbound,
    pub(super) down_scanner: Scanner,
    /// Bytes at the front of `down` that go to the client as they are.
    pub(super) down_ready: usize,
    /// Bytes that go to the client before those.
    pub(super) down_head: Head,
    /// The rest of the server's current message is not sent on.
    pub(super) down_discard_tail: bool,
    /// A FATAL of the server is on its way to the client.
    pub(super) saw_fatal: bool,
}

impl Session {
    /// A session at its first request.
    pub fn new(context: Rc<Context>, pool: Rc<Pool>, info: Rc<ClientInfo>, start: Start) -> Self {
        let Start { rules, client, up, parameters, parameters_proven } = start;
        Self {
            context,
            pool,
            info,
            rules,
            client,
            link: Link::None,
            answers: ExpectedAnswers::default(),
            own_query_error: None,
            holds_request: false,
            names: ClientNames::default(),
            parameters,
            parameters_proven,
            up,
            up_scanner: Scanner::new(&FROM_CLIENT, rules.max_message_bytes),
            up_ready: 0,
            up_head: Head::default(),
            up_discard_tail: false,
            down: Inbound::default(),
            down_scanner: Scanner::new(&FROM_SERVER, rules.max_message_bytes),
            down_ready: 0,
            down_head: Head::default(),
            down_discard_tail: false,
            saw_fatal: false,
        }
    }

    /// Serves the client until the end, and tells it the reason if there is one to tell.
    pub async fn run(mut self) -> Ending {
        self.info.state.set(ClientState::Idle);
        let ending = poll_fn(|cx| self.turn(cx)).await;
        self.part();
        if let Ending::Fault(fault) = &ending {
            // Boxed, so that idle sessions do not keep room for it.
            Box::pin(self.farewell(fault)).await;
        }
        ending
    }

    /// One turn of the task. Never inlined: `make instructions` counts what happens in here.
    #[inline(never)]
    fn turn(&mut self, cx: &mut task::Context<'_>) -> Poll<Ending> {
        for _ in 0..MAX_ROUNDS_PER_TURN {
            if let Some(fault) = self.info.take_kill() {
                return Poll::Ready(Ending::Fault(fault));
            }
            let up = self.poll_upstream(cx);
            if let Poll::Ready(Err(ending)) = up {
                return Poll::Ready(ending);
            }
            let down = self.poll_downstream(cx);
            if let Poll::Ready(Err(ending)) = down {
                return Poll::Ready(ending);
            }
            if up.is_pending() && down.is_pending() {
                return Poll::Pending;
            }
        }
        // More to do, but not at the expense of the others.
        executor::wake(executor::current());
        Poll::Pending
    }

    /// Gets a server, or a place in the queue. True when linked.
    pub(super) fn try_link(&mut self) -> Result<bool, Ending> {
        match &self.link {
            Link::Server(_) => return Ok(true),
            Link::Waiting(waiter) => match waiter.poll() {
                None => return Ok(false),
                Some(Ok(server)) => {
                    let waited = worker::now() - waiter.since;
                    self.pool.stats.count(|t| t.wait_us += waited.as_micros() as u64);
                    self.attach(server);
                }
                Some(Err(fault)) => {
                    self.link = Link::None;
                    return Err(Ending::Fault((*fault).clone()));
                }
            },
            Link::None => match self.pool.borrow() {
                Borrow::Server(server) => self.attach(server),
                Borrow::Wait(waiter) => {
                    self.info.state.set(ClientState::Waiting);
                    self.info.time(|t| t.query_at = Some(worker::now()));
                    self.link = Link::Waiting(waiter);
                    // The pool may have had an answer at once.
                    return match &self.link {
                        Link::Waiting(waiter) if !waiter.is_waiting() => self.try_link(),
                        _ => Ok(false),
                    };
                }
                Borrow::Refused(fault) => return Err(Ending::Fault((*fault).clone())),
            },
        }
        Ok(true)
    }

    fn attach(&mut self, server: Box<Server>) {
        let now = worker::now();
        server.info.client_id.set(self.info.id);
        server.info.activity.set(Activity::Active);
        server.info.touched_at.set(now);
        *self.info.server.borrow_mut() = Some(server.info.clone());
        self.info.state.set(ClientState::Active);
        // A cancel request that came too late for the queue is not for the next wait either.
        self.info.take_cancel_wait();
        self.pool.stats.count(|t| t.server_assignments += 1);
        if !server.parameters.same(&self.parameters)
            && let Some(sql) = self.context.parameters.set_statement(&server.parameters, &self.parameters)
        {
            encode::query(self.up_head.buffer(), &sql);
            self.answers.push(Expected::OwnQuery);
        }
        self.link = Link::Server(Linked { server, status: TxStatus::Idle });
    }

    /// Lets the server go if it owes nothing and the pool mode says so. Called when everything that came from it
    /// has been looked at.
    pub(super) fn release_if_done(&mut self) -> Result<(), Ending> {
        let Link::Server(linked) = &self.link else { return Ok(()) };
        let nothing_owed = self.answers.is_settled() && !self.holds_request;
        let nothing_half = self.down_scanner.at_boundary()
            && self.down.len() == self.down_ready
            && self.up_ready == 0
            && self.up_head.is_empty()
            && self.up_scanner.at_boundary();
        if !nothing_owed || !nothing_half {
            return Ok(());
        }
        if linked.status != TxStatus::Idle {
            return match self.rules.mode {
                PoolMode::Statement => Err(Ending::Fault(faults::transaction_in_statement_mode())),
                _ => Ok(()),
            };
        }
        if self.rules.mode != PoolMode::Session {
            self.release();
        }
        Ok(())
    }

    fn release(&mut self) {
        let Link::Server(linked) = std::mem::replace(&mut self.link, Link::None) else { return };
        self.unlink_notes();
        let server = linked.server;
        server.info.prepared_count.set(server.prepared.len());
        if self.rules.always_reset { self.pool.give_back_dirty(server) } else { self.pool.give_back(server) }
    }

    fn unlink_notes(&mut self) {
        *self.info.server.borrow_mut() = None;
        self.info.state.set(ClientState::Idle);
    }

    /// The end of the session for its server: a session-mode server in good order is cleaned and kept, any other
    /// that is still linked is in the middle of something and closed.
    fn part(&mut self) {
        let link = std::mem::replace(&mut self.link, Link::None);
        self.unlink_notes();
        let in_order = self.answers.is_settled()
            && self.down_scanner.at_boundary()
            && self.up_scanner.at_boundary()
            && self.up_head.is_empty()
            && self.up_ready == 0
            && !self.saw_fatal;
        match link {
            Link::Server(linked) if in_order && linked.status == TxStatus::Idle => {
                self.pool.give_back_dirty(linked.server);
            }
            other => abandon(&self.pool, other),
        }
    }

    async fn farewell(&mut self, fault: &Fault) {
        let mut message = self.down_head.pending().to_vec();
        message.extend_from_slice(&self.down.bytes()[..self.down_ready]);
        fault.encode_fatal(&mut message);
        // A message cut off in the middle cannot be followed by another.
        if self.down_scanner.at_boundary() || self.down_discard_tail {
            let _ = timers::timeout(FAREWELL_LIMIT, self.client.send_all(&message)).await;
        }
    }

    /// Takes back what was written down for an answer that became an error.
    pub(super) fn undo(names: &mut ClientNames, server: &mut Server, undo: Undo) {
        let mut rename = |name: Box<[u8]>, before| match before {
            Some(statement) => names.insert(&name, statement),
            None => {
                names.remove(&name);
            }
        };
        match undo {
            Undo::None => {}
            Undo::Name(name, before) => rename(name, before),
            Undo::Prepared(id) => server.prepared.remove(id),
            Undo::NameAndPrepared(name, before, id) => {
                rename(name, before);
                server.prepared.remove(id);
            }
            Undo::Closed(statement) => server.prepared.insert(statement),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What every idle client costs, next to its socket and its record.
    #[test]
    fn a_session_is_small() {
        let size = std::mem::size_of::<Session>();
        assert!(size <= 640, "{size} bytes");
    }
}
