//! Records as spans. Owns the names, kinds and attributes of spans, which follow OpenTelemetry's semantic conventions for
//! databases, and their identifiers.

use super::protocol::{Attribute, SpanKind, SpanStatus, StatusCode, TraceSpan};
use super::record::{
    LoginTraceRecord, PoolPlace, SpanFailure, SpanPeriod, TraceRecord, TransactionTraceRecord,
};
use std::time::SystemTime;

/// Flags of a span: sampled, and whether the parent is of another process is known.
const FLAGS: u32 = 0x101;
/// The same for a parent of another process.
const FLAGS_REMOTE_PARENT: u32 = 0x301;

/// The spans of one trace.
struct TraceBuilder {
    trace_id: Vec<u8>,
    spans: Vec<TraceSpan>,
}

/// The spans of a record. `None` if no random numbers are available.
pub(super) fn spans_of(record: &TraceRecord) -> Option<Vec<TraceSpan>> {
    match record {
        TraceRecord::Transaction(transaction) => of_transaction(transaction),
        TraceRecord::Login(login) => of_login(login),
    }
}

/// The transaction is a request that the pooler serves; what the server does for it is a request of the pooler.
fn of_transaction(record: &TransactionTraceRecord) -> Option<Vec<TraceSpan>> {
    let mut trace = match &record.parent {
        Some(parent) => TraceBuilder { trace_id: parent.trace_id.to_vec(), spans: Vec::new() },
        None => TraceBuilder::begin()?,
    };
    let parent = record.parent.as_ref().map(|parent| parent.span_id.as_slice()).unwrap_or_default();
    let attributes = attributes_of(&record.place);
    let root = trace.add("transaction", SpanKind::Server, parent, record.period)?;
    root.attributes = attributes.clone();
    if record.parent.is_some() {
        root.flags = FLAGS_REMOTE_PARENT;
    }
    mark_failed(root, record.failure.as_ref());
    let root_id = root.span_id.clone();
    if let Some(wait) = record.wait {
        let span = trace.add("wait", SpanKind::Internal, &root_id, wait)?;
        if record.server.is_none() {
            mark_failed(span, record.failure.as_ref());
        }
    }
    if let Some(server) = record.server {
        let span = trace.add("server", SpanKind::Client, &root_id, server)?;
        span.attributes = attributes;
        mark_failed(span, record.failure.as_ref());
    }
    Some(trace.spans)
}

fn of_login(record: &LoginTraceRecord) -> Option<Vec<TraceSpan>> {
    let mut trace = TraceBuilder::begin()?;
    let root = trace.add("login", SpanKind::Client, &[], record.period)?;
    root.attributes = attributes_of(&record.place);
    mark_failed(root, record.failure.as_ref());
    let root_id = root.span_id.clone();
    for (phase, period) in &record.phases {
        trace.add(phase.label(), SpanKind::Internal, &root_id, *period)?;
    }
    Some(trace.spans)
}

impl TraceBuilder {
    fn begin() -> Option<Self> {
        Some(Self { trace_id: random::<16>()?, spans: Vec::new() })
    }

    fn add(
        &mut self,
        name: &str,
        kind: SpanKind,
        parent: &[u8],
        period: SpanPeriod,
    ) -> Option<&mut TraceSpan> {
        let span = TraceSpan {
            trace_id: self.trace_id.clone(),
            span_id: random::<8>()?,
            parent_span_id: parent.to_vec(),
            name: name.to_owned(),
            kind: kind.into(),
            start_time_unix_nano: nanoseconds(period.start),
            end_time_unix_nano: nanoseconds(period.end),
            attributes: Vec::new(),
            status: None,
            flags: FLAGS,
        };
        self.spans.push(span);
        self.spans.last_mut()
    }
}

fn attributes_of(place: &PoolPlace) -> Vec<Attribute> {
    let mut attributes = vec![
        Attribute::text("db.system.name", "postgresql"),
        Attribute::text("db.namespace", &place.database),
        Attribute::text("user.name", &place.user),
    ];
    let Some(host) = &place.host else { return attributes };
    let pool = format!("{host}:{}/{}", place.port, place.database);
    attributes.push(Attribute::text("db.client.connection.pool.name", pool));
    attributes.push(Attribute::text("server.address", host));
    attributes.push(Attribute::number("server.port", place.port.into()));
    attributes
}

fn mark_failed(span: &mut TraceSpan, failure: Option<&SpanFailure>) {
    let Some(failure) = failure else { return };
    let kind = match failure {
        SpanFailure::Code(code) => {
            span.attributes.push(Attribute::text("db.response.status_code", code));
            code.as_str()
        }
        SpanFailure::Reason(reason) => reason,
    };
    span.attributes.push(Attribute::text("error.type", kind));
    span.status = Some(SpanStatus { message: String::new(), code: StatusCode::Error.into() });
}

/// Zero is invalid as an identifier, and as improbable as another one twice.
fn random<const N: usize>() -> Option<Vec<u8>> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes.to_vec())
}

fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
