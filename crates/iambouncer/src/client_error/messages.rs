//! The errors that PgBouncer sends to clients, with its texts. Owns the table from which the errors of
//! [`client_error`](super), the reference page and a test are derived; what is more precise than PgBouncer's text is in the
//! detail and the hint of an error.

use super::{Blame, ClientError};
use std::borrow::Cow;

/// What stands for an argument in a text.
const ARGUMENT: &str = "%s";

/// An error with PgBouncer's text.
pub struct PoolerMessage {
    /// Its text, as in PgBouncer's sources.
    pub text: &'static str,
    /// SQLSTATE. PgBouncer has 08P01 for nearly all.
    pub code: &'static str,
    /// Who is responsible.
    pub blame: Blame,
    /// When it is sent, for the reference page.
    pub when: &'static str,
}

impl PoolerMessage {
    /// The error, for a text without arguments.
    pub fn error(&'static self) -> ClientError {
        ClientError::new(self.blame, self.code, self.text)
    }

    /// The error for a text with one argument.
    pub fn of(&'static self, argument: &str) -> ClientError {
        let text = match self.text.split_once(ARGUMENT) {
            Some((before, after)) => Cow::Owned(format!("{before}{argument}{after}")),
            None => Cow::Borrowed(self.text),
        };
        ClientError::new(self.blame, self.code, text)
    }
}

/// Rows: name, who is responsible, SQLSTATE, text, when it is sent.
macro_rules! messages {
    ($($name:ident: $blame:ident $code:literal $text:literal, $when:literal;)*) => {
        $(pub(super) static $name: PoolerMessage =
            PoolerMessage { text: $text, code: $code, blame: Blame::$blame, when: $when };)*

        /// All of them.
        pub static MESSAGES: &[&PoolerMessage] = &[$(&$name),*];
    };
}

messages! {
    ADMIN_DISCONNECT: Us "57P01" "admin forced disconnect", "KILL_CLIENT";
    AUTH_DATABASE_DISABLED: Configuration "57P03" "authentication database \"%s\" is disabled",
        "DISABLE is in force for the database in which auth_query runs";
    BAD_CONFIGURATION: Configuration "F0000" "bouncer config error", "auth_query failed; the log says why";
    BROKEN_PACKET: Client "08P01" "failed to parse packet", "A message that violates the protocol; the detail says how";
    CERTIFICATE: Client "28000" "certificate authentication failed", "A certificate that does not prove the user; the log says why";
    CLIENT_IDLE: Client "57P05" "client_idle_timeout", "client_idle_timeout has passed";
    CONFIGURATION_CHANGED: Configuration "57P01" "database configuration changed", "server_fast_close, after RELOAD or RECONNECT";
    DATABASE_CLIENTS: Us "53300" "client connections exceeded (max_db_client_connections)",
        "The limit of the database is reached";
    DATABASE_DISABLED: Configuration "57P03" "database \"%s\" is disabled", "DISABLE is in force";
    DATABASE_REMOVED: Configuration "57P04" "database removed", "RELOAD has removed the database; or KILL, with 57P01";
    EMPTY_PASSWORD: Client "28P01" "empty password returned by client", "An empty password";
    IDLE_TRANSACTION: Client "08006" "idle transaction timeout", "idle_transaction_timeout has passed";
    LDAP: Client "28000" "LDAP authentication failed", "No LDAP server has accepted the password; the log says why";
    LOGIN_TIMEOUT: Client "08P01" "client_login_timeout", "client_login_timeout has passed before the login was complete";
    NO_NEW_CLIENTS: Us "57P01" "pooler is shutting down", "A login after SHUTDOWN";
    NO_DATABASE: Client "3D000" "no such database: %s", "No line of [databases] matches";
    NO_METHOD: Client "28000" "no authentication method is found", "No HBA rule matches";
    NO_SUCH_USER: Client "28P01" "no such user", "auth_query has not found the user, with auth_type = trust";
    NO_USER: Client "28000" "no username supplied", "A startup packet without a user";
    NOT_ALLOWED: Client "42501" "not allowed", "The user is neither in admin_users nor in stats_users";
    OPTION: Client "08P01" "unsupported startup parameter in options: %s", "A parameter in options that is not tracked";
    OPTIONS: Client "08P01"
        "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
        "Another argument in options";
    PAM: Client "28000" "PAM authentication failed", "PAM has not accepted the password; the log says why";
    PQEXEC: Client "08P01" "PQexec disallowed", "disable_pqexec";
    PARAMETER_REFUSED: Client "22023" "invalid server parameter",
        "The server refuses a value of the client; with the server's SQLSTATE and message";
    PASSWORD: Client "28P01" "password authentication failed",
        "A wrong password or an unknown user, without SCRAM; with 28000 a refused IAM token or AWS identity, whose detail says why";
    PEER: Client "28000" "unix socket login rejected", "An account of the host that may not log in as the user";
    PIN_IDLE: Client "57P05" "pin_idle_timeout", "pin_idle_timeout has passed for a client that keeps its server";
    POOL_WAIT: Us "53300" "query_wait_timeout", "query_wait_timeout has passed without a server";
    QUERY: Client "57014" "query timeout", "query_timeout has passed";
    REJECTED: Client "28000" "login rejected", "An HBA rule rejects the client";
    QUERY_IN_WAIT: Client "57014" "query_timeout", "query_timeout has passed before the query had a server";
    RELOAD_FAILED: Configuration "F0000" "RELOAD failed, see logs for additional details",
        "RELOAD found an error; the detail has it, too";
    SASL_MECHANISM: Client "08P01" "client selected an invalid SASL authentication mechanism", "Not SCRAM-SHA-256";
    SASL: Client "28P01" "SASL authentication failed", "A wrong password or an unknown user, with SCRAM";
    SERVER_CRASHED: Server "08006" "server conn crashed?", "The server connection was lost during a request; the detail says how";
    SHUTTING_DOWN: Us "57P01" "server shutting down", "The pooler shuts down";
    SSL_REQUIRED: Client "28000" "SSL required", "client_tls_sslmode or the login method requires TLS";
    STARTUP_PARAMETER: Client "08P01" "unsupported startup parameter: %s",
        "A parameter that is neither tracked nor in ignore_startup_parameters";
    STATEMENT_MODE: Client "08P01" "transaction blocks not allowed in statement pooling mode", "BEGIN in statement pooling";
    TOO_MANY_CLIENTS: Us "53300" "no more connections allowed (max_client_conn)", "The limit of the process is reached";
    TRANSACTION: Client "08006" "transaction timeout", "transaction_timeout has passed";
    TRUST: Client "28P01" "\"trust\" authentication failed", "An unknown user with auth_type = trust";
    UNENCRYPTED_AFTER_GSS: Client "08P01" "received unencrypted data after GSSAPI encryption request",
        "Data before the answer to a request for encryption";
    UNENCRYPTED_AFTER_SSL: Client "08P01" "received unencrypted data after SSL request",
        "Data before the answer to a request for encryption";
    UNKNOWN_PACKET: Client "08P01" "unknown pkt", "A message that a client may not send then";
    USER_CLIENTS: Us "53300" "client connections exceeded (max_user_client_connections)",
        "The limit of the user is reached";
    WRONG_PASSWORD_TYPE: Configuration "28000" "server login failed: wrong password type",
        "The stored form of the password cannot answer the server's request";
}

/// Rows: name, text, when it is sent. All have the SQLSTATE of PgBouncer, which drivers map to a class of exceptions.
macro_rules! console_messages {
    ($($name:ident: $text:literal, $when:literal;)*) => {
        $(
            #[doc = $when]
            pub static $name: PoolerMessage =
                PoolerMessage { text: $text, code: "08P01", blame: Blame::Client, when: $when };
        )*

        /// All messages of the console.
        pub static CONSOLE_MESSAGES: &[&PoolerMessage] = &[$(&$name),*];
    };
}

console_messages! {
    ADMIN_NEEDED: "admin access needed", "A command for admin_users only";
    ALREADY_PAUSED: "already suspended/paused", "PAUSE or KILL while all databases are paused";
    CANNOT_DISABLE: "cannot disable admin db: %s", "DISABLE of the console";
    CANNOT_ENABLE: "cannot enable admin db: %s", "ENABLE of the console";
    CANNOT_KILL: "cannot kill admin db: %s", "KILL of the console";
    CANNOT_PAUSE: "cannot pause admin db: %s", "PAUSE of the console";
    CANNOT_RECONNECT: "cannot reconnect admin db: %s", "RECONNECT of the console";
    CANNOT_WAIT: "cannot wait in admin db: %s", "WAIT_CLOSE of the console";
    CLIENT_NOT_FOUND: "client not found", "KILL_CLIENT with an unknown number";
    DATABASE_NEEDED: "a database is required", "DISABLE or ENABLE without a name";
    DATABASE_NOT_PAUSED: "database %s is not paused", "RESUME of a database that is not paused";
    INVALID_CLIENT: "invalid client pointer supplied", "KILL_CLIENT without a number";
    INVALID_COMMAND: "invalid command '%s', use SHOW HELP;", "A text that is not a command";
    NOT_PAUSED: "pooler is not paused/suspended", "RESUME while not all databases are paused";
    POOLER_SHUTTING_DOWN: "pooler is shutting down", "RESUME after SHUTDOWN";
    SET_FAILED: "SET failed", "SET of a wrong value or of an unknown setting; the detail says why";
    UNKNOWN_DATABASE: "no such database: %s", "No line of [databases] matches";
}

/// Texts of PgBouncer in whose place clients receive another: text, in its place, why.
pub static OTHERS: &[(&str, &str, &str)] = &[
    (
        "server login has been failing, cached error: %s (server_login_retry)",
        "the error of the failed login, with the server's SQLSTATE and the number of its cause",
        "a driver recognizes the server's error",
    ),
    (
        "client_login_timeout (server down)",
        "query_wait_timeout, or the error of the failed login",
        "as above",
    ),
    (
        "prepared statement name is already in use",
        "prepared statement \"%s\" already exists (42P05)",
        "as PostgreSQL does; the connection stays open",
    ),
    (
        "prepared statement did not exist",
        "prepared statement \"%s\" does not exist (26000)",
        "as PostgreSQL does; the connection stays open",
    ),
    ("bad packet header: '%s'", "failed to parse packet", "the detail says what is wrong"),
    ("old V2 protocol not supported", "unsupported frontend protocol 2.0 …", "as PostgreSQL does"),
    ("server connection closed", "server conn crashed?", "the detail says how it was lost"),
    (
        "SASL authentication failed",
        "password authentication failed",
        "a refused client does not learn how passwords are stored; PostgreSQL has one text for both, too",
    ),
    ("no such user", "with a password, as a wrong one", "users cannot be enumerated"),
];

/// The text of `docs/pgbouncer-messages.md`.
pub fn messages_markdown() -> String {
    let mut page = String::from(
        "# PgBouncer's messages to clients\n\n\
         <!-- Generated from the tables in crates/iambouncer/src by `make doc`. Do not edit. -->\n\n\
         Errors that PgBouncer 1.25.2 sends to clients, which receive the same texts here. `%s` stands for a name.\n\
         PgBouncer's SQLSTATE is 08P01 for nearly all; here it says what happened. Drivers show the detail and the hint of an\n\
         error below its text, and the log has the detail, too.\n\n\
         | Text | SQLSTATE | When |\n|---|---|---|\n",
    );
    for message in MESSAGES {
        page.push_str(&format!("| `{}` | {} | {} |\n", message.text, message.code, message.when));
    }
    page.push_str(
        "\n## The console\n\n\
         Errors of commands, all with SQLSTATE 08P01.\n\n\
         | Text | When |\n|---|---|\n",
    );
    for message in CONSOLE_MESSAGES {
        page.push_str(&format!("| `{}` | {} |\n", message.text, message.when));
    }
    page.push_str(
        "\n## Texts that differ\n\n\
         | PgBouncer | Here | Why |\n|---|---|---|\n",
    );
    for (text, instead, why) in OTHERS {
        page.push_str(&format!("| `{text}` | {instead} | {why} |\n"));
    }
    page.push_str(
        "\nNot sent are PgBouncer's messages about its own memory (`no memory for pool`, `out of memory`, `pause failed`), and\n\
         those of features that do not exist here.\n",
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn an_argument_is_inserted_as_it_is() {
        assert_eq!(NO_DATABASE.of("%s{}").message, "no such database: %s{}");
        assert_eq!(DATABASE_DISABLED.of("p0").message, "database \"p0\" is disabled");
        assert_eq!(QUERY.error().message, QUERY.text);
    }

    #[test]
    fn every_message_has_a_code_of_five_characters_and_a_text_of_its_own() {
        let texts: BTreeSet<_> = MESSAGES.iter().map(|message| message.text).collect();
        assert_eq!(texts.len(), MESSAGES.len());
        for message in MESSAGES {
            assert!(
                message.code.len() == 5 && message.text.matches(ARGUMENT).count() <= 1,
                "{}",
                message.text
            );
        }
    }
}
