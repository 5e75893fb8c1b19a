//! The transaction of a client that is exported as a trace. Owns its record until it ends; a transaction that is not
//! selected only decrements a counter.

use super::exchange::Exchange;
use super::link::Link;
use super::session::{ClientSession, CloseReason};
use crate::clients::ClientState;
use crate::config::Host;
use crate::traces::{
    ParentInQuery, PoolPlace, SpanFailure, TraceParent, TraceRecord, TransactionTraceRecord, WallClock,
};
use crate::worker;
use std::time::Instant;
use wire::scan::Frame;
use wire::{backend, tag};

/// `error.type` of a transaction whose session has ended in it.
const SESSION_ENDED: SpanFailure = SpanFailure::Reason("session_ended");

/// A selected transaction.
pub(super) struct OpenTrace {
    parent: Option<TraceParent>,
    /// Beginning and end of the wait for a server.
    wait: Option<(Instant, Instant)>,
    /// When its first message was sent to the server.
    began: Instant,
    /// The first error of the server in it.
    failure: Option<SpanFailure>,
}

impl Exchange {
    /// Counts a transaction that begins now, before its time is recorded.
    #[inline]
    pub(super) fn count_for_trace(&mut self, session: &ClientSession, now: Instant) {
        let timing = session.info.timing.get();
        if timing.transaction_at.is_none() && session.pool.context.traces.is_due() {
            self.begin_trace(session, timing.query_at, now);
        }
    }

    /// Counts a transaction whose messages were sent before the last one ended.
    #[inline]
    pub(super) fn count_next_for_trace(&mut self, session: &ClientSession, now: Instant) {
        if session.pool.context.traces.is_due() {
            self.begin_trace(session, None, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_trace(&mut self, session: &ClientSession, waiting_since: Option<Instant>, now: Instant) {
        if !session.pool.context.traces.select() {
            return;
        }
        let assigned_at = self.link.server().map_or(now, |linked| linked.server.info.touched_at.get());
        let wait = waiting_since.map(|since| (since, assigned_at.max(since)));
        self.trace = Some(Box::new(OpenTrace { parent: None, wait, began: now, failure: None }));
    }

    /// Searches a query at the front for the parent of the trace.
    #[inline]
    pub(super) fn find_trace_parent(&mut self, frame: Frame) {
        if self.trace.is_some() && matches!(frame.tag, tag::frontend::QUERY | tag::frontend::PARSE) {
            let front = self.up.front();
            let found = ParentInQuery::find(&front[..frame.len.min(front.len())]);
            self.set_trace_parent(found);
        }
    }

    /// The same for the text of a statement that was parsed.
    #[inline]
    pub(super) fn find_trace_parent_in(&mut self, text: &[u8]) {
        if self.trace.is_some() {
            self.set_trace_parent(ParentInQuery::find(text));
        }
    }

    #[cold]
    fn set_trace_parent(&mut self, found: ParentInQuery) {
        match (&mut self.trace, found) {
            (Some(trace), ParentInQuery::Sampled(parent)) => {
                trace.parent.get_or_insert(parent);
            }
            // What belongs to a trace that is not exported would be an incomplete one.
            (Some(trace), ParentInQuery::NotSampled) if trace.parent.is_none() => self.trace = None,
            _ => {}
        }
    }

    /// Records an error that the client receives from the server.
    #[inline]
    pub(super) fn record_trace_error(&mut self, frame: Frame) {
        if self.trace.is_some() {
            let code = backend::error_field(self.down.message(frame), b'C').and_then(SpanFailure::of_code);
            if let Some(trace) = &mut self.trace {
                trace.failure = trace.failure.take().or(code);
            }
        }
    }

    /// The transaction has ended.
    #[inline]
    pub(super) fn end_trace(&mut self, session: &ClientSession) {
        if let Some(trace) = self.trace.take() {
            self.submit_trace(session, *trace);
        }
    }

    /// The session has ended in the transaction.
    pub(super) fn abort_trace(&mut self, session: &ClientSession) {
        if let Some(mut trace) = self.trace.take() {
            trace.failure = trace.failure.take().or(Some(SESSION_ENDED));
            self.submit_trace(session, *trace);
        }
    }

    /// A wait has ended without a server: with an error of this SQLSTATE, or because the client has left.
    pub(super) fn trace_ended_wait(&mut self, session: &ClientSession, code: Option<&str>) {
        let is_waiting = session.info.state.get() == ClientState::Waiting;
        let Some(since) = session.info.timing.get().query_at.filter(|_| is_waiting) else { return };
        let traces = &session.pool.context.traces;
        if self.trace.is_some() || !traces.is_due() || !traces.select() {
            return;
        }
        let front = self.up.front();
        let parent = match ParentInQuery::find(front) {
            ParentInQuery::NotSampled => return,
            ParentInQuery::Sampled(parent) => Some(parent),
            ParentInQuery::None => None,
        };
        let period = WallClock::read().period(since, worker::now());
        let failure = code.and_then(|code| SpanFailure::of_code(code.as_bytes())).unwrap_or(SESSION_ENDED);
        submit(
            session,
            TransactionTraceRecord {
                place: place(session, None),
                parent,
                period,
                wait: Some(period),
                server: None,
                failure: Some(failure),
            },
        );
    }

    #[cold]
    #[inline(never)]
    fn submit_trace(&mut self, session: &ClientSession, trace: OpenTrace) {
        let clock = WallClock::read();
        let ended = worker::now();
        let OpenTrace { parent, wait, began, failure } = trace;
        let place = place(session, Some(&self.link));
        let record = TransactionTraceRecord {
            place,
            parent,
            period: clock.period(wait.map_or(began, |(since, _)| since), ended),
            wait: wait.map(|(since, until)| clock.period(since, until.min(ended))),
            server: Some(clock.period(began, ended)),
            failure,
        };
        submit(session, record);
    }
}

/// The SQLSTATE of the error that ends a session.
pub(super) fn code_of(reason: &CloseReason) -> Option<&str> {
    match reason {
        CloseReason::Error(error) => Some(&error.code),
        _ => None,
    }
}

fn submit(session: &ClientSession, record: TransactionTraceRecord) {
    let process = &session.pool.context.process;
    process.traces.submit(TraceRecord::Transaction(record), &process.trace_counters);
}

/// The configured name of the server, or with several hosts the address of the one that was used.
fn place(session: &ClientSession, link: Option<&Link>) -> PoolPlace {
    let database = &session.pool.database;
    let line = database.line.borrow();
    let host = match (line.host.as_slice(), link) {
        ([Host::Tcp(name)], _) => Some(name.clone()),
        ([Host::Unix(path)], _) => Some(path.display().to_string()),
        (_, Some(Link::Server(linked))) => Some(linked.server.info.facts.route.endpoint.host_text()),
        _ => None,
    };
    PoolPlace {
        database: line.server_dbname(&database.name).to_owned(),
        user: session.pool.user.to_string(),
        host,
        port: line.port,
    }
}
