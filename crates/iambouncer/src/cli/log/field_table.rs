//! The structured fields of log lines: name and meaning. Owns this list, from which docs/logging.md is generated; a test
//! compares it with the lines.

/// Fields of each line, in JSON.
const OF_EACH_LINE: [(&str, &str); 4] = [
    ("time", "Time in UTC, RFC 3339 with microseconds"),
    ("level", "`error`, `warn`, `info`, `debug` or `trace`"),
    ("message", "What has happened, for people. Texts may change; use fields in queries"),
    ("pid", "Process ID of the pooler, a number. All other values are texts"),
];

/// Fields that lines have besides.
const FIELDS: &[(&str, &str)] = &[
    ("access_key_id", "Access key of AWS credentials, which is no secret"),
    ("addresses", "Number of addresses of a host name"),
    ("arn", "AWS identity"),
    (
        "blame",
        "Who is responsible for an error: `Client`, `Server`, `Configuration`, `Aws` or `Us`, the pooler",
    ),
    (
        "cause",
        "Number of the cause of a failed login to a server: [pam-authentication-failed.md](pam-authentication-failed.md)",
    ),
    ("client", "Address of the client that the line is about, or the path of its UNIX socket"),
    ("client_id", "Number of a client, in a line about a server"),
    ("code", "SQLSTATE"),
    ("database", "Database, as clients call it"),
    ("detail", "Detail of an error that a client has received"),
    ("differences", "What differs from what is recorded of a session: settings, or reasons as in SHOW PINS"),
    ("endpoint", "Endpoint that tokens are signed for: host and port"),
    ("error", "What went wrong, as text"),
    ("functions_found", "Number of functions, tables and views that change a session, as in SHOW FUNCTIONS"),
    ("hint", "What to do about it"),
    ("event", "Kind of a notable event: [api.md](api.md#events). In JSON only"),
    ("host", "Host name that was looked up"),
    ("id", "Number of the client (`SHOW CLIENTS`) or server (`SHOW SERVERS`) that the line is about"),
    ("identity", "AWS identity as configured: profile and role, or `default`"),
    ("key_pid", "Process ID in the key of a cancel request"),
    ("kind", "Kind of lines that were suppressed"),
    ("left_out", "Number of lines of this kind that were suppressed before this one"),
    ("load", "CPU time of a worker in its last milliseconds, in 1/1000 of that time"),
    ("left_seconds", "Seconds until AWS credentials expire"),
    ("new", "New addresses of a host name"),
    ("old", "Previous addresses of a host name"),
    ("peer", "Other process to which a cancel request is forwarded"),
    ("provider", "Source of AWS credentials"),
    ("reason", "Label of the cause, as in the metric `iambouncer_server_login_failures_total`"),
    ("reasons", "Why a client keeps its server, as in SHOW PINS"),
    ("region", "AWS region"),
    ("secret", "ARN of a secret of Secrets Manager"),
    ("server", "Address of the server that the line is about, or the path of its UNIX socket"),
    ("server_pid", "Process ID of the server's session in PostgreSQL"),
    ("servers", "Number of servers that are closed"),
    ("statement", "A statement without its values"),
    ("status", "Transaction status of a client"),
    ("tag", "Command tag of a statement"),
    ("tls", "TLS version and cipher suite; empty without TLS"),
    ("took_ms", "Duration in milliseconds"),
    ("until", "When AWS credentials expire, or `no expiry`"),
    ("user", "User, as clients call it, or of the login to the server"),
    ("users", "Number of users of `auth_file`"),
    ("version", "Version of a secret"),
    ("worker", "Number of the worker, from 0"),
];

/// All fields besides those of each line, with their meaning.
pub fn log_fields() -> impl Iterator<Item = (&'static str, &'static str)> {
    FIELDS.iter().copied()
}

/// The text of `docs/logging.md`.
pub fn logging_markdown() -> String {
    let mut page = "# Log lines as JSON\n\n\
         <!-- Generated from the table in crates/iambouncer/src/cli/log by `make doc`. Do not edit. -->\n\n\
         `log_format = json` writes one object per line. The other formats have the same texts and, as `name=value` after the\n\
         text, the same fields; [service.md](service.md#log) has examples. Names of fields are stable: one name has one meaning in\n\
         all lines, and a change is listed in [CHANGELOG.md](../CHANGELOG.md). Neither passwords, tokens and keys nor the texts of\n\
         clients' queries are logged.\n\n\
         ```json\n\
         {\"database\":\"app\",\"id\":\"1\",\"level\":\"info\",\"message\":\"new connection to server\",\"pid\":4711,\
         \"server\":\"10.0.1.5:5432\",\"server_pid\":\"812\",\"time\":\"2026-11-26T02:14:07.519000Z\",\"tls\":\"\",\"took_ms\":\"6\",\"user\":\"app\"}\n\
         ```\n\n\
         ## Each line\n\n| Field | Meaning |\n|---|---|\n"
        .to_owned();
    let row = |(name, meaning): &(&str, &str)| format!("| `{name}` | {meaning} |\n");
    page.extend(OF_EACH_LINE.iter().map(row));
    page.push_str("\n## Lines that have something to say about it\n\n| Field | Meaning |\n|---|---|\n");
    page.extend(FIELDS.iter().map(row));
    page
}
