//! All errors that are sent to clients, classified by who is responsible. Owns SQLSTATE, text and hint. These texts
//! are safe to show; besides them, clients receive only the server's own messages.

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
    /// What to do about it.
    pub hint: Option<Cow<'static, str>>,
}

impl ClientError {
    /// An error with its text.
    pub fn new(blame: Blame, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { blame, code: Cow::Borrowed(code), message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
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
        let report = ErrorReport::fatal(&self.code, &self.message);
        encode::error_response(out, &ErrorReport { hint: self.hint.as_deref(), ..report });
    }

    /// Like [`Self::encode_fatal`], for a client of a protocol before 3.0.
    pub fn encode_fatal_before_v3(&self, out: &mut Vec<u8>) {
        encode::error_before_v3(out, &ErrorReport::fatal(&self.code, &self.message));
    }

    /// Appends the ErrorResponse after which the session continues.
    pub fn encode_error(&self, out: &mut Vec<u8>) {
        let report = ErrorReport::error(&self.code, &self.message);
        encode::error_response(out, &ErrorReport { hint: self.hint.as_deref(), ..report });
    }
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

/// The client violated the protocol.
pub fn protocol(error: impl std::fmt::Display) -> ClientError {
    ClientError::new(Blame::Client, "08P01", format!("protocol violation: {error}"))
}

/// A known message in a state where it is not allowed.
pub fn misplaced(what: &str) -> ClientError {
    ClientError::new(Blame::Client, "08P01", format!("protocol violation: {what} outside of authentication"))
}

/// A protocol version that is not supported.
pub fn unsupported_protocol(error: impl std::fmt::Display) -> ClientError {
    ClientError::new(Blame::Client, "0A000", error.to_string())
}

/// Too many connections are logging in, and this one is the oldest of them.
pub fn evicted(max_client_conn: u32) -> ClientError {
    too_many_clients("max_client_conn", max_client_conn)
        .hint("This was the oldest of the connections that had not logged in.")
}

/// The client took longer to log in than `client_login_timeout`.
pub fn login_timeout() -> ClientError {
    ClientError::new(Blame::Client, "08P01", "client_login_timeout")
        .hint("The login was not completed in time; see client_login_timeout.")
}

/// A session request without a user.
pub fn no_user() -> ClientError {
    ClientError::new(Blame::Client, "28000", "no PostgreSQL user name specified in startup packet")
}

/// An unknown startup parameter.
pub fn unknown_startup_parameter(name: &str) -> ClientError {
    ClientError::new(Blame::Client, "08P01", format!("unsupported startup parameter: {name}"))
        .hint("Add the name to ignore_startup_parameters to have it ignored.")
}

/// The value of `replication` in a startup packet.
pub fn invalid_replication(value: &str) -> ClientError {
    let text = format!("invalid value for parameter \"replication\": \"{value}\"");
    ClientError::new(Blame::Client, "22023", text)
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
}

/// A database without a line, and there is no `*` line.
pub fn unknown_database(name: &str) -> ClientError {
    ClientError::new(Blame::Client, "3D000", format!("no such database: {name}"))
        .hint("Add it to [databases], or add a fallback line named *.")
}

/// RELOAD removed the database line of the session.
pub fn database_removed() -> ClientError {
    ClientError::new(Blame::Configuration, "57P04", "database removed")
        .hint("Its line is no longer in the configuration.")
}

/// `server_fast_close`: the client's server has to be closed.
pub fn configuration_changed() -> ClientError {
    ClientError::new(Blame::Configuration, "57P01", "database configuration changed")
        .hint("The session had a server of the previous configuration (server_fast_close).")
}

/// `disable_pqexec`.
pub fn simple_query_refused() -> ClientError {
    ClientError::new(Blame::Client, "08P01", "PQexec disallowed")
        .hint("Simple queries are refused by disable_pqexec; use the extended protocol.")
}

/// The database is disabled.
pub fn database_disabled(name: &str) -> ClientError {
    ClientError::new(Blame::Configuration, "57P03", format!("database \"{name}\" is disabled"))
}

/// `auth_query` cannot be run; the log has the reason, which is for the operator.
pub fn auth_query_unusable() -> ClientError {
    ClientError::new(Blame::Configuration, "F0000", "bouncer config error")
        .hint("auth_query failed: see the log of the pooler.")
}

/// The database in which `auth_query` runs is disabled.
pub fn auth_database_disabled(name: &str) -> ClientError {
    let text = format!("authentication database \"{name}\" is disabled");
    ClientError::new(Blame::Configuration, "57P03", text)
}

/// A user that does not exist, where no proof is required.
pub fn unknown_user(user: &str) -> ClientError {
    ClientError::new(Blame::Client, "28P01", format!("no such user: {user}"))
}

/// Wrong password or unknown user: the client does not learn which.
pub fn authentication_failed(user: &str) -> ClientError {
    ClientError::new(Blame::Client, "28P01", format!("password authentication failed for user \"{user}\""))
}

/// An authenticated user that may not use the console.
pub fn console_not_allowed(user: &str) -> ClientError {
    ClientError::new(Blame::Client, "42501", format!("user \"{user}\" may not use the console"))
        .hint("Add the user to admin_users or stats_users.")
}

/// TLS is required for clients.
pub fn tls_required() -> ClientError {
    ClientError::new(Blame::Client, "28000", "SSL required").hint("Connect with sslmode=require or stricter.")
}

/// A proof of an AWS identity must not be sent unencrypted.
pub fn proof_needs_tls() -> ClientError {
    ClientError::new(Blame::Client, "28000", "IAM authentication is allowed only with SSL connections")
        .hint("Connect with sslmode=require or stricter.")
}

/// A token, or another proof of an AWS identity, is invalid.
pub fn proof_refused(user: &str, reason: &str) -> ClientError {
    ClientError::new(Blame::Client, "28000", format!("IAM authentication failed for user \"{user}\": {reason}"))
        .hint("The password must be a fresh IAM token for this user and the database's own endpoint, port and region.")
}

/// An AWS identity that the map does not allow for this user.
pub fn not_mapped(user: &str, arn: &str) -> ClientError {
    ClientError::new(Blame::Client, "28000", format!("{arn} may not log in as \"{user}\""))
        .hint("A line of auth_ident_file must map this identity to this user.")
}

/// STS does not answer, so new proofs cannot be verified.
pub fn sts_unavailable(reason: &str) -> ClientError {
    ClientError::new(Blame::Aws, "08006", format!("cannot verify the AWS identity: {reason}"))
        .hint("Try again in a moment.")
}

/// `auth_type = hba`, and no rule matches.
pub fn no_authentication_method() -> ClientError {
    ClientError::new(Blame::Client, "28000", "no authentication method is found")
}

/// The HBA rule that matches rejects the client.
pub fn login_rejected() -> ClientError {
    ClientError::new(Blame::Client, "28000", "login rejected")
}

/// The client's certificate does not prove the requested user. The log has the reason.
pub fn certificate_refused() -> ClientError {
    ClientError::new(Blame::Client, "28000", "certificate authentication failed")
}

/// The account at the other end of the UNIX socket may not log in as the requested user. The log has the reason.
pub fn peer_refused() -> ClientError {
    ClientError::new(Blame::Client, "28000", "unix socket login rejected")
}

/// No LDAP server has verified the password. The log has the reason.
pub fn ldap_refused() -> ClientError {
    ClientError::new(Blame::Client, "28000", "LDAP authentication failed")
}

/// PAM has not accepted the password. The log has the reason.
pub fn pam_refused() -> ClientError {
    ClientError::new(Blame::Client, "28000", "PAM authentication failed")
}

/// `max_client_conn` or a similar limit is reached.
pub fn too_many_clients(setting: &str, limit: u32) -> ClientError {
    ClientError::new(Blame::Us, "53300", format!("no more connections allowed ({setting} = {limit})"))
}

/// All file descriptors but the reserve are in use.
pub fn too_many_files() -> ClientError {
    ClientError::new(Blame::Us, "53300", "no more connections allowed: all open files are in use")
        .hint("Raise the limit of open files (ulimit -n, LimitNOFILE=), or lower max_client_conn.")
}

/// `query_wait_timeout`.
pub fn query_wait_timeout() -> ClientError {
    ClientError::new(Blame::Us, "53300", "query_wait_timeout")
        .hint("No server connection became available in time; see SHOW POOLS for cl_waiting and maxwait.")
}

/// `query_timeout`.
pub fn query_timeout() -> ClientError {
    ClientError::new(Blame::Client, "57014", "query_timeout")
}

/// `idle_transaction_timeout`.
pub fn idle_transaction_timeout() -> ClientError {
    ClientError::new(Blame::Client, "25P03", "idle_transaction_timeout")
}

/// `transaction_timeout`.
pub fn transaction_timeout() -> ClientError {
    ClientError::new(Blame::Client, "25P04", "transaction_timeout")
}

/// `client_idle_timeout`.
pub fn client_idle_timeout() -> ClientError {
    ClientError::new(Blame::Client, "57P05", "client_idle_timeout")
}

/// The pooler is shutting down: the end of a session.
pub fn shutting_down() -> ClientError {
    ClientError::new(Blame::Us, "57P01", "server shutting down")
}

/// A login or a command that comes too late: the pooler waits only for those that are connected.
pub fn no_new_work() -> ClientError {
    ClientError::new(Blame::Us, "57P01", "pooler is shutting down")
}

/// A command that makes no sense once shutdown has begun.
pub fn too_late() -> ClientError {
    ClientError::new(Blame::Client, "08P01", "pooler is shutting down")
}

/// KILL, KILL_CLIENT.
pub fn killed() -> ClientError {
    ClientError::new(Blame::Us, "57P01", "terminating connection due to administrator command")
}

/// The connection to the server was lost during a request.
pub fn server_lost(reason: impl std::fmt::Display) -> ClientError {
    ClientError::new(Blame::Server, "08006", format!("server connection was lost: {reason}"))
        .hint("The transaction was lost; connect again and retry it.")
}

/// A cancel request arrived before the query was started.
pub fn canceled_while_waiting() -> ClientError {
    ClientError::new(Blame::Client, "57014", "canceling statement due to user request")
}

/// BEGIN in statement pooling mode.
pub fn transaction_in_statement_mode() -> ClientError {
    ClientError::new(Blame::Client, "0A000", "transaction blocks not allowed in statement pooling mode")
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
    ClientError {
        code: Cow::Owned(code),
        ..ClientError::new(Blame::Client, "22023", server_message.to_owned())
    }
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
            authentication_failed("x"),
            too_many_clients("max_client_conn", 1),
            query_wait_timeout(),
            server_lost("x"),
        ] {
            assert_eq!(error.code.len(), 5, "{error:?}");
        }
    }
}
