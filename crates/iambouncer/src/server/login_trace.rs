//! A login to a server as a trace. Owns what of the login is exported: its phases, its server and the code of its failure,
//! never a text of the server or a secret.

use super::error::LoginError;
use super::progress::CompletedPhase;
use super::target::LoginTarget;
use crate::config::Host;
use crate::context::Context;
use crate::traces::{LoginTraceRecord, PoolPlace, SpanFailure, TraceRecord, WallClock};
use crate::worker;
use std::time::Instant;

/// `error.type` of a failure without a SQLSTATE.
const OTHER: SpanFailure = SpanFailure::Reason("_OTHER");

/// Exports a login that has ended.
pub(super) fn submit(
    context: &Context,
    target: &LoginTarget,
    began: Instant,
    phases: &[CompletedPhase],
    error: Option<&LoginError>,
) {
    if !context.traces.is_on() {
        return;
    }
    let clock = WallClock::read();
    let failure = error.map(|error| match error {
        LoginError::Refused { code, .. } => SpanFailure::of_code(code.as_bytes()).unwrap_or(OTHER),
        LoginError::Timeout { .. } => SpanFailure::Reason("timeout"),
        _ => OTHER,
    });
    let host = match &target.host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let record = LoginTraceRecord {
        place: PoolPlace {
            database: target.database.clone(),
            user: target.user.clone(),
            host: Some(host),
            port: target.port,
        },
        period: clock.period(began, worker::now()),
        phases: phases
            .iter()
            .map(|completed| {
                (completed.phase, clock.period(completed.began, completed.began + completed.took))
            })
            .collect(),
        failure,
    };
    context.process.traces.submit(TraceRecord::Login(record), &context.process.trace_counters);
}
