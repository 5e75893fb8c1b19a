//! Log lines about one client, in PgBouncer's words. Owns which setting enables which line.

use crate::client_error::ClientError;
use crate::clients::ClientInfo;
use crate::config::Settings;
use crate::events::{EVENTS, NotableEvent};
use crate::log_limit::LinePermit;
use crate::relay::CloseReason;
use std::fmt::Display;
use std::time::SystemTime;

/// A client has authenticated.
pub(super) fn login_attempt(settings: &Settings, info: &ClientInfo) {
    if !settings.log_connections {
        return;
    }
    let identity = info.identity();
    let (user, database) = (&identity.user, &identity.database);
    let tls = if identity.tls.is_empty() { "no" } else { &*identity.tls };
    tracing::info!(
        id = info.id,
        client = %info.remote(),
        user = %user,
        database = %database,
        "login attempt: db={database} user={user} tls={tls} replication={}",
        identity.replication.startup_value()
    );
}

/// A session has ended.
pub(super) fn session_end(settings: &Settings, info: &ClientInfo, reason: &CloseReason) {
    if let CloseReason::Error(error) = reason {
        pooler_error(settings, info, error, LinePermit::default());
    }
    closing(settings, info, reason);
}

/// A login was refused.
pub(super) fn refusal(settings: &Settings, info: &ClientInfo, error: &ClientError, permit: LinePermit) {
    pooler_error(settings, info, error, permit);
    closing(settings, info, &error.reason());
}

/// An error is sent to the client.
fn pooler_error(settings: &Settings, info: &ClientInfo, error: &ClientError, permit: LinePermit) {
    let identity = info.identity();
    let event = error.is_wait_timeout().then_some("query_wait_timeout");
    if !settings.log_pooler_errors {
        if let Some(kind) = event {
            // Events do not depend on what is logged.
            let event = NotableEvent {
                kind: kind.to_owned(),
                level: "warn",
                database: identity.database.to_string(),
                user: identity.user.to_string(),
                message: error.message.to_string(),
                hint: error.hint.as_deref().unwrap_or_default().to_owned(),
            };
            EVENTS.add(event, SystemTime::now());
        }
        return;
    }
    let LinePermit { left_out } = permit;
    tracing::warn!(
        event,
        id = info.id,
        left_out,
        client = %info.remote(),
        user = %identity.user,
        database = %identity.database,
        code = %error.code,
        blame = ?error.blame,
        detail = error.detail.as_deref(),
        "pooler error: {}",
        error.message
    );
}

/// The connection is closed.
fn closing(settings: &Settings, info: &ClientInfo, reason: &impl Display) {
    if !settings.log_disconnections {
        return;
    }
    let identity = info.identity();
    tracing::info!(
        id = info.id,
        client = %info.remote(),
        user = %identity.user,
        database = %identity.database,
        "closing because: {reason} (age={}s)",
        info.age_s()
    );
}
