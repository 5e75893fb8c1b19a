//! One connection to a PostgreSQL server. Owns its stream, what is known of its session, and how it is made
//! ([`login`]); who may use it is the pool's business.

pub mod cancel;
pub mod connect;
pub mod diagnosis;
pub mod error;
pub mod login;
mod login_exchange;
pub mod moving;
pub mod out_of_step;
pub mod progress;
mod refused_token;
pub mod reset;
pub mod signing;
pub mod target;
mod token_for_server;

use crate::limits::Permit;
use crate::net::{Inbound, Stream};
use crate::parameters::{ParameterId, ParameterIds, Parameters, ValueSet};
use crate::prepared::{ServerCache, ServerUnnamed};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};
use wire::scan::{Event, FROM_SERVER, Scanner};
use wire::{backend, limits, tag};

pub use diagnosis::Diagnosis;
pub use error::LoginError;

/// What a server is doing, as SHOW SERVERS says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Linked to a client.
    Active,
    /// In the pool.
    Idle,
    /// Reset query under way.
    Tested,
    /// Free, but a cancel request for it is still on its way.
    BeingCanceled,
    /// Its client has gone in the middle of something: it is canceled and closed.
    Ending,
}

impl Activity {
    /// The console's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Tested => "tested",
            Self::BeingCanceled | Self::Ending => "being_canceled",
        }
    }
}

/// The first message in a run of them that is no notification: only these may come while no request waits for rows.
pub fn first_but_notifications(run: &[u8]) -> Option<u8> {
    let mut at = 0;
    while let Ok(Some(frame)) = wire::scan::header(&run[at.min(run.len())..], limits::MAX_MESSAGE_BYTES) {
        if frame.tag != tag::backend::NOTIFICATION_RESPONSE {
            return Some(frame.tag);
        }
        at += frame.len;
    }
    None
}

/// Seconds since 1970.
pub fn now_seconds() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as i64
}

/// What the console and cancel requests may know of a server, whoever holds it.
pub struct ServerInfo {
    /// Unique in this process.
    pub id: u64,
    /// Process ID on the server.
    pub pid: u32,
    /// Secret for cancel requests.
    pub cancel_key: Box<[u8]>,
    /// Where it was reached: needed to cancel there and nowhere else.
    pub route: connect::Route,
    /// When it is too old to be given out again.
    pub retire_at: Option<Instant>,
    /// Another has logged in to take its place, or is about to.
    pub has_replacement: Cell<bool>,
    /// A login is under way that takes its place; it stays with its worker until then.
    pub overlaps: Cell<bool>,
    /// While it is there, the pool has a server more than its size: this one, whose successor is in already.
    pub overlap: RefCell<Option<Permit>>,
    /// Other end.
    pub remote: Option<crate::net::Endpoint>,
    /// Our end.
    pub local: Option<crate::net::Endpoint>,
    /// TLS version and suite, or empty.
    pub tls: String,
    /// When the login was done, for people.
    pub connected_wall: std::time::SystemTime,
    /// What it is doing.
    pub activity: Cell<Activity>,
    /// Linked client's id, or 0.
    pub client_id: Cell<u64>,
    /// When its login was done.
    pub logged_in_at: Instant,
    /// Last time it was linked or released. One that logs in in place of another shares this with it: a replacement that
    /// nobody uses is not in use.
    pub touched_at: Rc<Cell<Instant>>,
    /// It has to go when it is released (RECONNECT, changed configuration).
    pub close_needed: Cell<bool>,
    /// Cancel requests on their way to it. While there are any it serves nobody else.
    pub cancels_in_flight: Cell<u32>,
    /// Prepared statements it has, for the console.
    pub prepared_count: Cell<usize>,
    /// `application_name` as last reported.
    pub application_name: RefCell<String>,
}

/// An open, logged-in server connection. Exactly one task, or the pool, owns it.
pub struct Server {
    /// The connection.
    pub stream: Stream,
    /// Tracked parameters: as the server last reported them, or as it accepted them if it does not report them.
    pub parameters: ValueSet,
    /// Positions of the tracked parameters that it reports, one bit each.
    pub reported: ParameterIds,
    /// Statements it has.
    pub prepared: ServerCache,
    /// Its unnamed statement.
    pub unnamed: ServerUnnamed,
    /// It has, or had, statements under names that clients chose.
    pub has_client_names: bool,
    /// Places in the limits it takes up. Given back before the place above the size that the next field may hold, so
    /// that nobody counts one server too many.
    pub permits: Vec<Permit>,
    /// Shared with the pool's table.
    pub info: Rc<ServerInfo>,
    /// How often all servers of its pool had been retired when its login began.
    pub retirements: u64,
}

impl Server {
    /// Looks whether an idle server is fit to be used. It must be silent: only parameter reports, notices and
    /// notifications may have come, and they are read here. Anything else, or the end, makes it unfit.
    pub fn is_fit(&mut self, parameters: &Parameters) -> bool {
        if self.info.close_needed.get() {
            return false;
        }
        if !self.stream.has_pending_input() {
            return true;
        }
        let mut inbound = Inbound::default();
        loop {
            match self.stream.poll_recv(&mut Context::from_waker(Waker::noop()), &mut inbound) {
                Poll::Pending => return inbound.is_empty(),
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return false,
            }
            if !self.read_reports(parameters, &mut inbound) {
                return false;
            }
        }
    }

    fn read_reports(&mut self, parameters: &Parameters, inbound: &mut Inbound) -> bool {
        let mut scanner = Scanner::new(&FROM_SERVER, limits::MAX_WHOLE_BYTES);
        loop {
            match scanner.next(inbound.bytes()) {
                Ok(Event::Message(frame)) if frame.len <= inbound.len() => {
                    let message = &inbound.bytes()[..frame.len];
                    match frame.tag {
                        tag::backend::PARAMETER_STATUS => {
                            self.note_parameter(parameters, message);
                        }
                        tag::backend::NOTICE_RESPONSE => {}
                        // It ends, and has said why.
                        tag::backend::ERROR_RESPONSE
                            if matches!(backend::severity(message), Some(b"FATAL" | b"PANIC")) =>
                        {
                            return false;
                        }
                        tag => return self.is_out_of_step(tag),
                    }
                    let n = scanner.consume(frame, inbound.len());
                    inbound.consume(n);
                }
                Ok(Event::Run(n)) => {
                    if let Some(tag) = first_but_notifications(&inbound.bytes()[..n]) {
                        return self.is_out_of_step(tag);
                    }
                    if !scanner.at_boundary() {
                        return false;
                    }
                    inbound.consume(n);
                }
                Ok(Event::Incomplete(_)) => return true,
                _ => return false,
            }
        }
    }

    /// An idle server has sent an answer to nothing.
    #[cold]
    fn is_out_of_step(&self, tag: u8) -> bool {
        out_of_step::report_message(&self.info, tag, "while idle");
        false
    }

    /// The server has run our SETs of the `wanted` values: those that it reports are what it has reported, the others as
    /// they were asked for. Returns what it has now.
    pub fn accept_parameters(&mut self, parameters: &Parameters, wanted: &ValueSet) -> ValueSet {
        let here = self.parameters.iter().filter(|(id, _)| self.reported.contains(*id));
        let unreported = wanted.iter().filter(|(id, _)| !self.reported.contains(*id));
        let values = here.chain(unreported).map(|(id, value)| (id, value.into()));
        self.parameters = parameters.set_of(values);
        self.parameters.clone()
    }

    /// The client leaves: what it has as its unnamed statement is nobody's own any more.
    pub fn end_ownership(&mut self) {
        if matches!(self.unnamed, ServerUnnamed::Own) {
            self.unnamed = ServerUnnamed::Unknown;
        }
    }

    /// The server has reset what was set in its session: values that it does not report are those of its login again.
    pub fn forget_unreported(&mut self, parameters: &Parameters) {
        self.parameters = parameters.filter(&self.parameters, |id| self.reported.contains(id));
    }

    /// Records which tracked parameters are among those reported at the login.
    pub fn note_reported(&mut self, parameters: &Parameters, reports: &[(String, String)]) {
        for id in reports.iter().filter_map(|(name, _)| parameters.id(name)) {
            self.reported.insert(id);
        }
    }

    /// Takes over a ParameterStatus. Returns the parameter if it is tracked.
    pub fn note_parameter(&mut self, parameters: &Parameters, message: &[u8]) -> Option<ParameterId> {
        let (name, value) = backend::parameter_status(message).ok()?;
        if name == "application_name" {
            value.clone_into(&mut self.info.application_name.borrow_mut());
        }
        let id = parameters.id(name)?;
        if !self.reported.contains(id) {
            self.reported.insert(id);
        }
        self.parameters = parameters.with(&self.parameters, id, value);
        Some(id)
    }

    /// Says goodbye and closes. Nothing is waited for.
    pub fn close(mut self) {
        let mut message = Vec::new();
        wire::encode::terminate(&mut message);
        let _ = self.stream.poll_send(&mut Context::from_waker(Waker::noop()), &message, &[]);
    }
}
