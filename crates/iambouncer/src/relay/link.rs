//! The link between a client and a server. Owns its state, including the server and its last known transaction status,
//! and the points at which it is made and ends.

use super::exchange::{Exchange, RequestState};
use super::session::{ClientSession, CloseReason};
use super::unread_state::UnreadState;
use crate::answers::{ExpectedAnswer, StateChange};
use crate::client_error;
use crate::config::PoolMode;
use crate::parameters::TransactionValues;
use crate::pool::{Acquired, Lease, UnfinishedWork, Waiter};
use crate::prepared::ServerUnnamed;
use crate::server::Server;
use crate::worker;
use wire::backend::TxStatus;
use wire::encode;

/// A server assigned to a client.
pub(super) struct Linked {
    pub(super) server: Lease,
    /// Status in the last ReadyForQuery.
    pub(super) status: TxStatus,
    pub(super) condition: ServerCondition,
    /// The transaction has changed the schema.
    pub(super) changed_schema: SchemaChange,
    /// Parameters that the transaction has changed.
    pub(super) changed_parameters: TransactionValues,
    /// The client's request waits until the server has accepted the client's values.
    pub(super) awaits_values: bool,
    /// Its state is compared with what is recorded before it is released (`state_verify`).
    pub(super) is_verified: bool,
    /// What the client may have changed in its session. Boxed, since it is rare.
    pub(super) unread: Option<Box<UnreadState>>,
}

/// What a transaction has changed in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SchemaChange {
    /// Nothing.
    None,
    /// Something: prepared statements may be outdated.
    Any,
    /// Also functions, what calls them, or the settings with which sessions begin: what is known of the catalog.
    Catalog,
}

impl SchemaChange {
    /// What the command with this tag changes. A new table counts as one without triggers and defaults until the next
    /// regular comparison: temporary tables are created all the time.
    pub(super) fn of_tag(tag: &[u8]) -> Self {
        let Some(object) =
            [&b"ALTER "[..], b"CREATE ", b"DROP "].iter().find_map(|verb| tag.strip_prefix(*verb))
        else {
            return Self::None;
        };
        let calls = [
            &b"FUNCTION"[..],
            b"PROCEDURE",
            b"ROUTINE",
            b"AGGREGATE",
            b"TRIGGER",
            b"EVENT TRIGGER",
            b"RULE",
            b"VIEW",
            b"MATERIALIZED VIEW",
            b"POLICY",
            b"EXTENSION",
            b"SCHEMA",
        ];
        let alters = [&b"ALTER TABLE"[..], b"ALTER ROLE", b"ALTER DATABASE"].contains(&tag);
        if calls.contains(&object) || alters { Self::Catalog } else { Self::Any }
    }
}

/// Whether the server can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerCondition {
    /// It has sent what was expected.
    InStep,
    /// It reports that it is idle, but has not ended its transaction: its next command fails. Only the client that it
    /// is linked to may use it.
    TransactionLeftOpen,
    /// It has sent a message that no request explains, and must never be used again.
    OutOfStep,
    /// It has sent a FATAL error, which the client receives, and closes the connection.
    SentFatal,
}

impl Linked {
    pub(super) fn new(server: Lease) -> Self {
        Self {
            server,
            status: TxStatus::Idle,
            condition: ServerCondition::InStep,
            changed_schema: SchemaChange::None,
            changed_parameters: TransactionValues::default(),
            awaits_values: false,
            is_verified: false,
            unread: None,
        }
    }

    /// Records another status. A server that is idle although it has ended no command since it was in a transaction has
    /// not ended that. PostgreSQL 18 does this after a batch without Sync, a simple query and a Sync; its next command
    /// fails, and must not be another client's.
    #[inline(never)]
    pub(super) fn change_status(&mut self, status: TxStatus, has_command_ended: bool) {
        let before = std::mem::replace(&mut self.status, status);
        if (before, status) != (TxStatus::Open, TxStatus::Idle) || has_command_ended {
            return;
        }
        self.condition = ServerCondition::TransactionLeftOpen;
        let facts = &self.server.info.facts;
        tracing::warn!(
            id = facts.id,
            server_pid = facts.pid,
            server = %facts.route.endpoint,
            "a server reports that it is idle although nothing has ended its transaction; no other client gets it"
        );
    }

    /// True if the server is in step and outside of a transaction.
    fn is_idle(&self) -> bool {
        self.status == TxStatus::Idle && self.condition == ServerCondition::InStep
    }
}

/// The client's server, if any.
pub(super) enum Link {
    /// No server, and none needed.
    None,
    /// No server, and none needed: the shared listener delivers the client's notifications.
    Listening,
    /// Waiting in the pool's queue.
    Waiting(Waiter),
    /// Linked to a server.
    Server(Linked),
}

impl Link {
    #[inline]
    pub(super) fn server(&mut self) -> Option<&mut Linked> {
        match self {
            Self::Server(linked) => Some(linked),
            _ => None,
        }
    }

    pub(super) fn is_linked(&self) -> bool {
        matches!(self, Self::Server(_))
    }
}

impl Exchange {
    /// Acquires a server or a place in the queue. True when linked.
    pub(super) fn try_link(&mut self, session: &mut ClientSession) -> Result<bool, CloseReason> {
        let lease = match &self.link {
            Link::Server(_) => return Ok(true),
            Link::Waiting(waiter) => match waiter.poll() {
                None => return Ok(false),
                Some(Ok(lease)) => {
                    session.pool.stats.record_wait(waiter.since());
                    if self.listening.is_some() {
                        self.attach_listening(session, lease);
                        return Ok(true);
                    }
                    lease
                }
                Some(Err(error)) => {
                    self.link = self.unlinked();
                    return Err(CloseReason::Error((*error).clone()));
                }
            },
            Link::None => match session.pool.acquire_for(session.info.id) {
                Acquired::Server(lease) => lease,
                Acquired::Wait(waiter) => return self.wait_for_server(session, waiter),
                Acquired::Refused(error) => return Err(CloseReason::Error((*error).clone())),
            },
            Link::Listening => return self.try_link_listening(session),
        };
        self.attach(session, lease);
        Ok(true)
    }

    /// Waits in the pool's queue. True if it has answered at once, with a server.
    pub(super) fn wait_for_server(
        &mut self,
        session: &mut ClientSession,
        waiter: Waiter,
    ) -> Result<bool, CloseReason> {
        session.info.begin_wait(worker::now());
        let is_answered = !waiter.is_waiting();
        self.link = Link::Waiting(waiter);
        if is_answered { self.try_link(session) } else { Ok(false) }
    }

    #[inline(always)]
    pub(super) fn attach(&mut self, session: &ClientSession, lease: Lease) {
        let now = worker::now();
        let server: &Server = &lease;
        server.info.touched_at.set(now);
        session.record_linked(server);
        // A cancel request that came too late for this wait must not affect the next.
        session.info.take_cancel_wait();
        session.pool.stats.count(|t| t.server_assignments += 1);
        let differs = !server.parameters.same(&session.parameters);
        self.link = Link::Server(Linked::new(lease));
        if self.rules.verify_every > 0 {
            self.count_for_verification(session);
        }
        if differs {
            self.send_values(session);
        }
    }

    #[cold]
    fn count_for_verification(&mut self, session: &ClientSession) {
        if let Link::Server(linked) = &mut self.link {
            linked.is_verified = session.pool.is_verified_now(self.rules.verify_every);
        }
    }

    /// Gives the server the client's values.
    fn send_values(&mut self, session: &ClientSession) {
        let Link::Server(linked) = &mut self.link else { return };
        let parameters = &session.pool.context.parameters;
        let (have, want) = (&linked.server.parameters, &session.parameters);
        let statements = parameters.set_statements(have, want, &session.pool.user);
        // A server may refuse to change a value that another client has set with more rights.
        linked.awaits_values =
            self.rules.follows && !statements.is_empty() && parameters.may_be_refused(have, want);
        self.send_statements(statements);
    }

    /// Sends the queries after which the server has the client's values.
    fn send_statements(&mut self, statements: Vec<String>) {
        let Link::Server(linked) = &self.link else { return };
        let id = linked.server.info.facts.id;
        let mut statements = statements.into_iter().peekable();
        while let Some(sql) = statements.next() {
            tracing::debug!(id, "varcache_apply: {sql}");
            let is_last = statements.peek().is_none();
            let change = if is_last { StateChange::Parameters } else { StateChange::None };
            self.send_internal_query(&sql, change);
        }
    }

    /// Sends a query of the pooler, between two messages of the client.
    pub(super) fn send_internal_query(&mut self, sql: &str, change: StateChange) {
        let Link::Server(linked) = &mut self.link else { return };
        // A simple query drops it (manual, "Extended Query").
        linked.server.unnamed.set_unless_own(ServerUnnamed::None);
        encode::query(self.up.insert(), sql);
        self.answers.push(ExpectedAnswer::InternalQuery.with(change));
    }

    /// The server has refused the client's values before it received a request: another client may have left values that
    /// only a user with more rights can change. Resets it, and gives it the values again. False if that has happened before.
    #[cold]
    pub(super) fn reset_refusing_server(&mut self, session: &ClientSession) -> bool {
        let is_first = !std::mem::replace(&mut self.has_reset_server, true);
        let is_awaited = matches!(&self.link, Link::Server(linked) if linked.awaits_values);
        if !is_first || !is_awaited || !self.answers.is_empty() {
            return false;
        }
        // In contrast to RESET of a single one, it does not depend on rights.
        self.send_internal_query("SET SESSION AUTHORIZATION DEFAULT; RESET ALL", StateChange::None);
        let Link::Server(linked) = &mut self.link else { return false };
        let parameters = &session.pool.context.parameters;
        linked.server.forget_unreported(parameters);
        // What the server reports of the reset comes later.
        let statements =
            parameters.set_statements(&parameters.empty(), &session.parameters, &session.pool.user);
        self.send_statements(statements);
        true
    }

    /// Releases the server if it owes nothing and the pool mode allows it. Called when everything received from it has
    /// been examined.
    pub(super) fn release_if_done(&mut self, session: &mut ClientSession) -> Result<(), CloseReason> {
        let Link::Server(linked) = &self.link else { return Ok(()) };
        let at_boundary = self.down.at_boundary() && self.down.is_examined();
        if !self.owes_nothing() || !at_boundary {
            return Ok(());
        }
        self.down.end_flow(&linked.server.stream);
        if linked.condition != ServerCondition::InStep {
            self.abandon_if_left_open(session);
            return Ok(());
        }
        if linked.status != TxStatus::Idle {
            return match self.rules.mode {
                PoolMode::Statement => Err(CloseReason::Error(client_error::transaction_in_statement_mode())),
                _ => Ok(()),
            };
        }
        let old_mode = self.rules.mode;
        self.refresh_rules(session);
        if self.rules.mode == PoolMode::Session {
            if self.listening.is_some() {
                self.finish_step_in_session_mode(session);
            }
            return Ok(());
        }
        if !self.reads_state(session) && !session.is_pinned() {
            self.release(session, old_mode);
        }
        Ok(())
    }

    /// True when every request is answered and no other has begun.
    fn owes_nothing(&self) -> bool {
        self.answers.is_settled() && self.request != RequestState::Held && self.is_between_messages()
    }

    /// True when the server has received every message of the client that was begun.
    pub(super) fn is_between_messages(&self) -> bool {
        self.up.at_boundary() && !self.up.has_sendable()
    }

    /// True when the server is about to be released, once everything received from it has been examined.
    pub(super) fn is_about_to_be_released(&self, session: &ClientSession) -> bool {
        let is_idle = matches!(
            &self.link,
            Link::Server(linked) if linked.status == TxStatus::Idle && linked.unread.is_none() && !linked.is_verified
        );
        is_idle && self.rules.mode != PoolMode::Session && self.owes_nothing() && !session.may_be_pinned()
    }

    // One caller that counts, and 30 instructions of each query.
    #[inline(always)]
    pub(super) fn release(&mut self, session: &mut ClientSession, old_mode: PoolMode) {
        let Link::Server(mut linked) = std::mem::replace(&mut self.link, Link::None) else { return };
        // A report may follow the last ReadyForQuery.
        linked.changed_parameters.commit(&mut session.parameters);
        debug_assert!(self.owes_nothing(), "a server is released only when nothing is owed or half sent");
        debug_assert!(self.down.at_boundary(), "no message of the server is half read");
        debug_assert!(linked.is_idle(), "a server is released only in step and outside of a transaction");
        session.record_unlinked();
        self.clear_link_state();
        let mut lease = linked.server;
        let server: &mut Server = &mut lease;
        server.end_ownership();
        server.last_client = session.info.id;
        server.info.prepared_count.set(server.prepared.len());
        // Statements under clients' own names would be visible to other clients.
        if self.rules.always_reset
            || old_mode == PoolMode::Session
            || (server.has_client_names && self.rules.max_prepared > 0)
        {
            // What another query leaves is not known.
            if self.rules.follows { lease.release_discarding() } else { lease.release_dirty() }
        } else {
            lease.release()
        }
    }

    /// Closes a server that has left its transaction open, where it would be released.
    #[cold]
    #[inline(never)]
    fn abandon_if_left_open(&mut self, session: &mut ClientSession) {
        self.refresh_rules(session);
        if self.rules.mode == PoolMode::Session || session.is_pinned() {
            return;
        }
        match std::mem::replace(&mut self.link, Link::None) {
            Link::Server(mut linked) if linked.condition == ServerCondition::TransactionLeftOpen => {
                linked.changed_parameters.commit(&mut session.parameters);
                session.record_unlinked();
                self.clear_link_state();
                linked.server.abandon(UnfinishedWork { owes_answers: false, between_messages: true });
            }
            // The session ends when the server closes the connection.
            link => self.link = link,
        }
        if matches!(self.link, Link::None) {
            self.link = self.unlinked();
        }
    }

    /// Ends the session on the server's side: a clean session-mode server is reset and kept; any other linked server is
    /// in the middle of something and is closed.
    pub(super) fn shut_down(&mut self, session: &ClientSession) {
        #[cfg(feature = "otlp")]
        self.abort_trace(session);
        let link = std::mem::replace(&mut self.link, Link::None);
        if matches!(link, Link::Server(_)) {
            session.count_aborted();
        }
        session.record_unlinked();
        let unfinished = UnfinishedWork {
            owes_answers: !self.answers.is_empty(),
            between_messages: self.is_between_messages(),
        };
        let in_order = self.answers.is_settled()
            && self.down.at_boundary()
            && self.down.is_examined()
            && unfinished.between_messages;
        match link {
            Link::Server(linked) if in_order && linked.is_idle() => {
                Self::release_after_client(session, linked);
            }
            Link::Server(linked) => linked.server.abandon(unfinished),
            Link::None | Link::Listening | Link::Waiting(_) => {}
        }
        self.listening = None;
    }
}
