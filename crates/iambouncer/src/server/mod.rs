//! A connection to a PostgreSQL server. Owns its stream, the recorded state of its session, and the login ([`login`]);
//! which client uses it belongs to the pool.

pub mod cancel;
pub mod connect;
pub mod diagnosis;
pub mod error;
pub mod facts;
pub mod functions;
pub mod login;
mod login_exchange;
#[cfg(feature = "otlp")]
mod login_trace;
pub mod moving;
#[cfg(test)]
mod moving_tests;
pub mod out_of_step;
pub mod overlap;
pub mod progress;
mod refused_token;
pub mod reset;
#[cfg(test)]
pub(crate) mod sample;
pub mod signing;
pub mod target;
mod token_for_server;

use crate::limits::Permit;
use crate::net::{Inbound, Stream};
use crate::parameters::{ParameterId, ParameterIds, Parameters, ValueSet};
use crate::prepared::{ServerCache, ServerUnnamed};
use crate::server_roles::{IN_HOT_STANDBY, PROMOTED};
use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};
use wire::scan::{Event, FROM_SERVER, Scanner};
use wire::{backend, limits, tag};

pub use diagnosis::Diagnosis;
pub use error::LoginError;
pub use facts::ServerFacts;
pub use overlap::Overlap;

/// The activity of a server, as shown by SHOW SERVERS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Linked to a client.
    Active,
    /// In the pool.
    Idle,
    /// Running the reset query or the check query.
    Tested,
    /// Free, but a cancel request for it is under way.
    BeingCanceled,
    /// It is the shared listener of its pool.
    Listening,
    /// Its client has gone in the middle of an operation: it is being canceled and closed.
    Closing,
}

impl Activity {
    /// The name shown by the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Tested => "tested",
            Self::Listening => "listen",
            Self::BeingCanceled | Self::Closing => "being_canceled",
        }
    }
}

/// The tag of the first message in a run that is not a notification: only notifications may arrive while no request
/// expects rows.
pub fn first_non_notification(run: &[u8]) -> Option<u8> {
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

/// The part of a server's state that the console and cancel requests can access at any time.
pub struct ServerInfo {
    /// What remains true wherever it is.
    pub facts: ServerFacts,
    /// When it was last linked or released. A replacement shares this with the server that it replaces, so an unused
    /// replacement does not count as in use.
    pub touched_at: Rc<Cell<Instant>>,
    /// Its replacement, if that logs in before this server is closed.
    pub overlap: Overlap,
    /// Current activity.
    pub activity: Cell<Activity>,
    /// Linked client's id, or 0.
    pub client_id: Cell<u64>,
    /// Its client keeps it outside of transactions (`session_state`).
    pub is_kept: Cell<bool>,
    /// It has to be closed on release (RECONNECT, changed configuration).
    pub close_needed: Cell<bool>,
    /// Cancel requests under way to it. Until they are done, it is not assigned to another client.
    pub cancels_in_flight: Cell<u32>,
    /// Number of prepared statements, for the console.
    pub prepared_count: Cell<usize>,
}

impl ServerInfo {
    /// A free server that has just reached this worker.
    pub fn new(facts: ServerFacts, touched_at: Rc<Cell<Instant>>) -> Self {
        Self {
            facts,
            touched_at,
            overlap: Overlap::default(),
            activity: Cell::new(Activity::Idle),
            client_id: Cell::new(0),
            is_kept: Cell::new(false),
            close_needed: Cell::new(false),
            cancels_in_flight: Cell::new(0),
            prepared_count: Cell::new(0),
        }
    }
}

/// An open, logged-in server connection, owned by exactly one task or by the pool.
pub struct Server {
    /// The connection.
    pub stream: Stream,
    /// Tracked parameters as last reported by the server, or as accepted by it if it does not report them.
    pub parameters: ValueSet,
    /// Positions of the tracked parameters that it reports, one bit each.
    pub reported: ParameterIds,
    /// Statements prepared on it.
    pub prepared: ServerCache,
    /// Its unnamed statement.
    pub unnamed: ServerUnnamed,
    /// It has, or had, statements under names that clients chose.
    pub has_client_names: bool,
    /// The client that has used it last; 0 if there was none.
    pub last_client: u64,
    /// Its places in the limits. Dropped before the place above the pool's size in the next field, so that no count is
    /// too high.
    pub permits: Vec<Permit>,
    /// Shared with the pool's table.
    pub info: Rc<ServerInfo>,
}

impl Server {
    /// Checks whether an idle server can be used. Only parameter reports, notices and notifications may have arrived;
    /// they are read here. Anything else, including end of file, makes it unusable.
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
                // It may have been promoted.
                Poll::Pending => return inbound.is_empty() && !self.info.close_needed.get(),
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
                            self.record_parameter(parameters, message);
                        }
                        tag::backend::NOTICE_RESPONSE => {}
                        // The server has reported why it closes.
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
                    if let Some(tag) = first_non_notification(&inbound.bytes()[..n]) {
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

    /// An idle server has sent an answer without a request.
    #[cold]
    fn is_out_of_step(&self, tag: u8) -> bool {
        out_of_step::report_message(&self.info, tag, "while idle");
        false
    }

    /// The server has run the pooler's SETs of the `wanted` values: reported parameters have the values last reported,
    /// the others the requested ones. Returns the current values.
    pub fn accept_parameters(&mut self, parameters: &Parameters, wanted: &ValueSet) -> ValueSet {
        let reported = self.parameters.iter().filter(|(id, _)| self.reported.contains(*id));
        let unreported = wanted.iter().filter(|(id, _)| !self.reported.contains(*id));
        let values = reported.chain(unreported).map(|(id, value)| (id, value.into()));
        self.parameters = parameters.set_of(values);
        self.parameters.clone()
    }

    /// The client leaves: its unnamed statement no longer belongs to a client.
    pub fn end_ownership(&mut self) {
        if matches!(self.unnamed, ServerUnnamed::Own) {
            self.unnamed = ServerUnnamed::Unknown;
        }
    }

    /// The server has reset its session: parameters that it does not report have the values of its login again.
    pub fn forget_unreported(&mut self, parameters: &Parameters) {
        self.parameters = parameters.filter(&self.parameters, |id| self.reported.contains(id));
    }

    /// Records which tracked parameters are among those reported at the login.
    pub fn record_reported(&mut self, parameters: &Parameters, reports: &[(String, String)]) {
        for id in reports.iter().filter_map(|(name, _)| parameters.id(name)) {
            self.reported.insert(id);
        }
    }

    /// Records a ParameterStatus. Returns the parameter if it is tracked.
    pub fn record_parameter(&mut self, parameters: &Parameters, message: &[u8]) -> Option<ParameterId> {
        let (name, value) = backend::parameter_status(message).ok()?;
        if name == IN_HOT_STANDBY
            && let Some(required) = &self.info.facts.required
            && value != "on"
            && !PROMOTED.fits(required.wanted)
        {
            self.info.close_needed.set(true);
        }
        if name == "application_name" {
            value.clone_into(&mut self.info.facts.application_name.borrow_mut());
        }
        let id = parameters.id(name)?;
        if !self.reported.contains(id) {
            self.reported.insert(id);
        }
        self.parameters = parameters.with(&self.parameters, id, value);
        Some(id)
    }

    /// Sends Terminate and closes without waiting.
    pub fn close(mut self) {
        let mut message = Vec::new();
        wire::encode::terminate(&mut message);
        let _ = self.stream.poll_send(&mut Context::from_waker(Waker::noop()), &message, &[]);
    }
}
