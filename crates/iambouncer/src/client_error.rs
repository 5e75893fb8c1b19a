//! All errors that are sent to clients, classified by who is responsible. Owns SQLSTATE, text, detail and hint; where
//! PgBouncer has a text for the case, it is that of [`messages`]. These texts are safe to show; besides them, clients
//! receive only the server's own messages.

pub mod login;
pub mod messages;

pub use login::*;

use sql::{Feature, Features};
use std::borrow::Cow;
use wire::encode::{self, ErrorReport};

/// The NOTICE to a client that has waited for `query_wait_notify`, in PgBouncer's words.
pub const WAIT_NOTICE: &str = "No server connection available in postgres backend, client being queued";

/// Who is responsible for an error; also its label in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The client.
    Client,
    /// The database server.
    Server,
    /// Settings or files.
    Configuration,
    /// AWS credentials, tokens or endpoints.
    Aws,
    /// A limit of the pooler, or a bug.
    Us,
}

/// An error to be sent to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    /// Who is responsible.
    pub blame: Blame,
    /// SQLSTATE.
    pub code: Cow<'static, str>,
    /// Primary message.
    pub message: Cow<'static, str>,
    /// More about it.
    pub detail: Option<Cow<'static, str>>,
    /// What to do about it.
    pub hint: Option<Cow<'static, str>>,
    /// The reason in the log, if the client must not learn it.
    pub hidden_reason: Option<HiddenReason>,
}

/// Reasons that only the log has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenReason {
    /// `auth_query` has not found the user.
    NoSuchUser,
    /// The server has refused a replication connection; the client receives the server's own message.
    LoginFailed,
}

impl HiddenReason {
    /// PgBouncer's text.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoSuchUser => messages::NO_SUCH_USER.text,
            Self::LoginFailed => "login failed",
        }
    }
}

impl ClientError {
    /// An error with its text.
    pub fn new(blame: Blame, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        let (code, message) = (Cow::Borrowed(code), message.into());
        Self { blame, code, message, detail: None, hint: None, hidden_reason: None }
    }

    /// The reason for which the connection is closed, for the log.
    pub fn reason(&self) -> &str {
        match self.hidden_reason {
            Some(reason) => reason.text(),
            None => &self.message,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds more about it.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// True for that of `query_wait_timeout`.
    pub fn is_wait_timeout(&self) -> bool {
        self.message == messages::POOL_WAIT.text
    }

    /// Its kind, for limiting the number of log lines.
    pub fn kind(&self) -> &'static str {
        match &self.code {
            Cow::Borrowed(code) => code,
            Cow::Owned(_) => "refused by the server",
        }
    }

    /// Appends the ErrorResponse that ends the connection.
    pub fn encode_fatal(&self, out: &mut Vec<u8>) {
        encode::error_response(out, &self.complete(ErrorReport::fatal(&self.code, &self.message)));
    }

    /// Like [`Self::encode_fatal`], for a client of a protocol before 3.0.
    pub fn encode_fatal_before_v3(&self, out: &mut Vec<u8>) {
        encode::error_before_v3(out, &ErrorReport::fatal(&self.code, &self.message));
    }

    /// Appends the ErrorResponse after which the session continues.
    pub fn encode_error(&self, out: &mut Vec<u8>) {
        encode::error_response(out, &self.complete(ErrorReport::error(&self.code, &self.message)));
    }

    fn complete<'a>(&'a self, report: ErrorReport<'a>) -> ErrorReport<'a> {
        ErrorReport { detail: self.detail.as_deref(), hint: self.hint.as_deref(), ..report }
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

/// The client violated the protocol.
pub fn protocol(error: impl std::fmt::Display) -> ClientError {
    messages::BROKEN_PACKET.error().detail(format!("protocol violation: {error}"))
}

/// A message that is not known, or not allowed in this state.
pub fn misplaced(what: &str) -> ClientError {
    messages::UNKNOWN_PACKET.error().detail(format!("protocol violation: {what}"))
}

/// A protocol version that is not supported.
pub fn unsupported_protocol(error: impl std::fmt::Display) -> ClientError {
    ClientError::new(Blame::Client, "0A000", error.to_string())
}

/// Data that the client has sent before the answer to its request for encryption.
pub fn unencrypted_data(is_ssl: bool) -> ClientError {
    match is_ssl {
        true => messages::UNENCRYPTED_AFTER_SSL.error(),
        false => messages::UNENCRYPTED_AFTER_GSS.error(),
    }
}

/// The value of `replication` in a startup packet.
pub fn invalid_replication(value: &str) -> ClientError {
    let text = format!("invalid value for parameter \"replication\": \"{value}\"");
    ClientError::new(Blame::Client, "22023", text)
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

/// RELOAD removed the database line of the session.
pub fn database_removed() -> ClientError {
    messages::DATABASE_REMOVED.error().hint("Its line is no longer in the configuration.")
}

/// `server_fast_close`: the client's server has to be closed.
pub fn configuration_changed() -> ClientError {
    messages::CONFIGURATION_CHANGED
        .error()
        .hint("The session had a server of the previous configuration (server_fast_close).")
}

/// `disable_pqexec`.
pub fn simple_query_refused() -> ClientError {
    messages::PQEXEC.error().hint("Simple queries are refused by disable_pqexec; use the extended protocol.")
}

/// `query_wait_timeout`.
pub fn query_wait_timeout() -> ClientError {
    messages::POOL_WAIT
        .error()
        .hint("No server connection became available in time; see SHOW POOLS for cl_waiting and maxwait, and SHOW PINS for clients that keep their servers.")
}

/// `query_timeout`.
pub fn query_timeout() -> ClientError {
    messages::QUERY.error()
}

/// `query_timeout`, before the query had a server.
pub fn query_timeout_in_wait() -> ClientError {
    messages::QUERY_IN_WAIT.error()
}

/// `idle_transaction_timeout`.
pub fn idle_transaction_timeout() -> ClientError {
    messages::IDLE_TRANSACTION.error()
}

/// `transaction_timeout`.
pub fn transaction_timeout() -> ClientError {
    messages::TRANSACTION.error()
}

/// `pin_idle_timeout`, of a client that keeps its server for these reasons.
pub fn pin_idle_timeout(reasons: &str) -> ClientError {
    messages::PIN_IDLE
        .error()
        .detail(format!("The session has kept its server without using it: {reasons}."))
        .hint("Connect again. Drop temporary tables, unlock advisory locks and close cursors that are not needed any more; see SHOW PINS.")
}

/// `pin = error`, of a statement for which the client would keep its server.
pub fn pin_refused(features: Features) -> ClientError {
    let message = format!("statement refused: the client would keep its server ({features})");
    let error = ClientError::new(Blame::Client, "0A000", message)
        .detail("The statement begins state that no other server has. The setting \"pin\" of the database is \"error\".");
    let hints = features.iter().filter_map(alternative).collect::<Vec<_>>();
    if hints.is_empty() { error } else { error.hint(hints.join(" ")) }
}

/// What does the same within a transaction.
fn alternative(feature: Feature) -> Option<&'static str> {
    Some(match feature {
        Feature::TemporaryObject | Feature::TemporarySchema => {
            "Create temporary tables with ON COMMIT DROP in a transaction."
        }
        Feature::HoldableCursor => "Use the cursor in a transaction, without WITH HOLD.",
        Feature::AdvisoryLock => {
            "Use pg_advisory_xact_lock, which is unlocked at the end of the transaction."
        }
        Feature::SqlPrepared => "Use the prepared statements of the driver.",
        Feature::SequenceValue => "Use INSERT … RETURNING, or nextval.",
        Feature::ComputedSetting => "Write the name of the setting in the statement.",
        Feature::UnreadableText => "Set max_prepared_statements to more than 0, and use the encoding UTF8.",
        _ => return None,
    })
}

/// `client_idle_timeout`.
pub fn client_idle_timeout() -> ClientError {
    messages::CLIENT_IDLE.error()
}

/// The pooler is shutting down: the end of a session.
pub fn shutting_down() -> ClientError {
    messages::SHUTTING_DOWN.error()
}

/// A login that comes too late: the pooler waits only for clients that are connected.
pub fn no_new_work() -> ClientError {
    messages::NO_NEW_CLIENTS.error()
}

/// KILL_CLIENT.
pub fn killed() -> ClientError {
    messages::ADMIN_DISCONNECT.error()
}

/// The shared listener has ended: the client connects again, and sees what it has missed.
pub fn listener_lost(reason: &str) -> ClientError {
    ClientError::new(
        Blame::Server,
        "57P01",
        "terminating connection because notifications may have been lost",
    )
    .detail(format!("The connection on which the pooler listens for several clients has ended: {reason}."))
    .hint("Connect again, LISTEN, and look for changes that were made meanwhile.")
}

/// KILL.
pub fn killed_with_database() -> ClientError {
    ClientError { code: Cow::Borrowed("57P01"), blame: Blame::Us, ..messages::DATABASE_REMOVED.error() }
        .detail("An administrator has closed all connections of the database.")
}

/// RELOAD found an error in a file.
pub fn reload_failed(text: String) -> ClientError {
    messages::RELOAD_FAILED.error().detail(text)
}

/// The connection to the server was lost during a request.
pub fn server_lost(reason: impl std::fmt::Display) -> ClientError {
    messages::SERVER_CRASHED
        .error()
        .detail(format!("server connection was lost: {reason}"))
        .hint("The transaction was lost; connect again and retry it.")
}

/// The stored form of the password cannot answer the server's request.
pub fn wrong_password_type() -> ClientError {
    messages::WRONG_PASSWORD_TYPE.error()
}

/// A cancel request arrived before the query was started.
pub fn canceled_while_waiting() -> ClientError {
    ClientError::new(Blame::Client, "57014", "canceling statement due to user request")
}

/// BEGIN in statement pooling mode.
pub fn transaction_in_statement_mode() -> ClientError {
    messages::STATEMENT_MODE.error()
}

/// The name of a prepared statement is already in use.
pub fn duplicate_statement(name: &str) -> ClientError {
    ClientError::new(Blame::Client, "42P05", format!("prepared statement \"{name}\" already exists"))
}

/// The server sent a message that no request waits for.
pub fn server_out_of_step() -> ClientError {
    ClientError::new(Blame::Server, "08P01", "the server sent a message that no request waits for")
        .hint("The connection to the server is closed; connect again and retry the transaction.")
}

/// The client has too many named statements.
pub fn too_many_statements() -> ClientError {
    ClientError::new(
        Blame::Client,
        "54000",
        "too many, or too large, named prepared statements on one connection",
    )
    .hint("Close statements that are not needed any more.")
}

/// The server rejected the value of a tracked parameter.
pub fn parameter_refused(server_message: &str, code: String) -> ClientError {
    ClientError { code: Cow::Owned(code), ..messages::PARAMETER_REFUSED.error() }
        .detail(server_message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_a_code_of_five_characters() {
        for error in [
            protocol("x"),
            login_timeout(),
            no_user(),
            unknown_database("x"),
            authentication_failed(LoginMethod::Password, "x"),
            too_many_clients(1),
            query_wait_timeout(),
            server_lost("x"),
        ] {
            assert_eq!(error.code.len(), 5, "{error:?}");
        }
    }
}
