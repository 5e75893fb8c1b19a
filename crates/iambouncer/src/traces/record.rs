//! What a worker knows about a transaction or a login that is exported. Owns these records, in wall time; identifiers and
//! attributes are added by the exporter.

use super::parent::TraceParent;
use crate::stats::logins::LoginPhase;
use std::time::{Instant, SystemTime};

/// The length of a SQLSTATE.
const SQLSTATE_BYTES: usize = 5;

/// A finished transaction or login.
pub enum TraceRecord {
    /// A transaction of a client.
    Transaction(TransactionTraceRecord),
    /// A login to a server.
    Login(LoginTraceRecord),
}

/// The pool of a record, and its server.
pub struct PoolPlace {
    /// Database on the server.
    pub database: String,
    /// User on the server.
    pub user: String,
    /// Host name or address, or directory of a UNIX socket; `None` without a server.
    pub host: Option<String>,
    /// Port of the server.
    pub port: u16,
}

/// The time of a span.
#[derive(Debug, Clone, Copy)]
pub struct SpanPeriod {
    /// Its start.
    pub start: SystemTime,
    /// Its end.
    pub end: SystemTime,
}

/// Why a span has failed.
#[derive(Debug, Clone)]
pub enum SpanFailure {
    /// The SQLSTATE of an error.
    Code(String),
    /// Another reason, in one word.
    Reason(&'static str),
}

impl SpanFailure {
    /// The SQLSTATE of an error of a server; `None` if it is not one.
    pub fn of_code(code: &[u8]) -> Option<Self> {
        let is_valid = code.len() == SQLSTATE_BYTES && code.iter().all(u8::is_ascii_alphanumeric);
        is_valid.then(|| Self::Code(String::from_utf8_lossy(code).into_owned()))
    }
}

/// A transaction.
pub struct TransactionTraceRecord {
    /// Its pool and server.
    pub place: PoolPlace,
    /// The span to which it belongs, if a query names it.
    pub parent: Option<TraceParent>,
    /// From the beginning of the wait, or of the first query, to the end of the last answer.
    pub period: SpanPeriod,
    /// The wait for a server.
    pub wait: Option<SpanPeriod>,
    /// From the first message to the server to its last answer.
    pub server: Option<SpanPeriod>,
    /// The first error in it.
    pub failure: Option<SpanFailure>,
}

/// A login to a server.
pub struct LoginTraceRecord {
    /// The pool or user that logs in, and the server.
    pub place: PoolPlace,
    /// From its beginning to its success or failure.
    pub period: SpanPeriod,
    /// The completed phases.
    pub phases: Vec<(LoginPhase, SpanPeriod)>,
    /// Why it failed.
    pub failure: Option<SpanFailure>,
}

/// Converts times of a worker's clock; all times of a record with the same offset, so that their order remains.
pub struct WallClock {
    now: Instant,
    wall: SystemTime,
}

impl WallClock {
    /// The offset at present.
    pub fn read() -> Self {
        Self { now: Instant::now(), wall: SystemTime::now() }
    }

    fn time(&self, at: Instant) -> SystemTime {
        let ago = self.now.saturating_duration_since(at);
        self.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// A period that ends no earlier than it starts.
    pub fn period(&self, start: Instant, end: Instant) -> SpanPeriod {
        SpanPeriod { start: self.time(start), end: self.time(end.max(start)) }
    }
}
