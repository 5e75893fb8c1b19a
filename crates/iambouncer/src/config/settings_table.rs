//! The table of settings: all of PgBouncer's and the pooler's own, one row each.
//!
//! Struct, parser, defaults, `SHOW CONFIG`, environment names and the reference page are derived from it; no setting
//! is defined elsewhere.

use std::ops::RangeInclusive;
use std::sync::LazyLock;
use std::time::Duration;

use super::enums::{
    AuthType, IoEngine, LogFormat, PinRule, PoolMode, SessionState, SessionStateFunctions, TlsMode,
    TlsProtocols,
};
use super::ldap_options::LdapSetting;
use super::ports::PortList;
use super::settings::{AppliedBy, SettingError, SettingInfo, SettingStatus, settings, split_list};
use super::tls_ciphers::{Tls12Ciphers, Tls13Ciphers, TlsGroups};
use super::value::{DrainLimit, FileMode, HttpPort, SettingValue, WorkerCount};

settings! {
    admin_users: String = "", ClientLogin, Working, "Users who may run every console command";
    application_name_add_host: bool = false, ClientLogin, Working, "Add the client's address to application_name";
    auth_dbname: String = "", ClientLogin, Working, "Database in which auth_query runs; default: the one that the client requests";
    auth_file: String = "", Login, Working, "File with users and their passwords or hashes";
    auth_hba_file: String = "", ClientLogin, Working, "Rules that select the method for each client, in PgBouncer's format (auth_type = hba)";
    auth_ident_file: String = "", ClientLogin, Working, "Maps from certificates, accounts and AWS identities to users, in the format of pg_ident.conf (hba lines with map=, auth_type = iam-sts)";
    auth_ldap_options: LdapSetting = (), ClientLogin, Working, "Servers, and how a user is found there (auth_type = ldap)";
    auth_query: String = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin", ClientLogin, Working, "Query that looks up the password of a user that auth_file does not have; $1 is the user, the columns are user and password";
    auth_query_reuse: Duration = 0, ClientLogin, Working, "Seconds for which an answer of auth_query is reused (0 = ask at each login; logins of a user at the same time share a query)";
    auth_type: AuthType = AuthType::Md5, ClientLogin, Working, "How clients log in";
    auth_user: String = "", ClientLogin, Working, "User that runs auth_query; empty means that it is not run";
    autodb_idle_timeout: Duration = 3600, Janitor, Working, "Remove databases of the * line, and pools, unused for this many seconds (0 = never)";
    cancel_wait_timeout: Duration = 10, Use, Working, "Seconds a cancel request may wait for a connection";
    client_idle_timeout: Duration = 0, Janitor, Working, "Disconnect a client after this many idle seconds";
    client_login_timeout: Duration = 60, ClientConnection, Working, "Disconnect a client that has not logged in after this many seconds";
    client_tls13_ciphers: Tls13Ciphers = "", ClientConnection, Working, "TLS 1.3 cipher suites for clients, by name; empty means all";
    client_tls_ca_file: String = "", ClientConnection, Working, "CA that signs client certificates";
    client_tls_cert_file: String = "", ClientConnection, Working, "Certificate presented to clients";
    client_tls_ciphers: Tls12Ciphers = "default", ClientConnection, Working, "TLS 1.2 cipher suites for clients, in OpenSSL's syntax; default, secure, fast, normal and all mean all that are offered";
    client_tls_dheparams: String = "auto", Nothing, Ignored, "Classic Diffie-Hellman parameters (rustls has none)";
    client_tls_ecdhcurve: TlsGroups = "auto", ClientConnection, Working, "Key-exchange groups for clients: auto or names such as X25519:P-256";
    client_tls_key_file: String = "", ClientConnection, Working, "Key of the certificate presented to clients";
    client_tls_protocols: TlsProtocols = "secure", ClientConnection, Working, "TLS versions offered to clients";
    client_tls_sslmode: TlsMode = TlsMode::Disable, ClientConnection, Working, "TLS mode for connections from clients";
    conffile: String = "", Reload, Working, "File that the next RELOAD reads; empty for the one given at start";
    core_dumps: bool = false, Start, Working, "Allow core dumps, which contain tokens, passwords and client data";
    default_pool_size: u32 = 20, Reload, Working, "Server connections per database and user", 0..=1_000_000;
    disable_pqexec: bool = false, Start, Working, "Close clients that send a simple query, which may have several statements";
    dns_max_ttl: Duration = 15, Janitor, Working, "Seconds for which addresses of a host name are cached; names with servers are then looked up again, and servers at addresses no longer returned are closed on release (0 = look up at each login)";
    dns_nxdomain_ttl: Duration = 15, ServerLogin, Working, "Seconds for which the failure to look up a host name is remembered, until RELOAD or SET";
    dns_server: String = "", Start, Working, "Name server for server host names, ADDRESS or ADDRESS:PORT, instead of the system's";
    dns_zone_check_period: Duration = 0, Nothing, Ignored, "Seconds between checks of a zone's serial (c-ares only)";
    drain_max_seconds: DrainLimit = DrainLimit::Never, Use, Working, "Seconds after SIGTERM or DRAIN at which the process ends; connected clients are closed between transactions until then. never: wait for all clients. 25 without a file";
    drain_min_seconds: Duration = 0, Use, Working, "Seconds after SIGTERM or DRAIN for which clients are still accepted, if drain_max_seconds is set";
    http_addr: String = "127.0.0.1", Start, Working, "Addresses for probes, metrics, dashboard and API (HTTP); * means all, empty means none. Not on loopback only, dashboard and API require a password of stats_users or admin_users, or http_token_file";
    http_port: HttpPort = HttpPort::Number(9127), Start, Working, "Port of http_addr; 0 means none, auto a free one, which is logged";
    http_token_file: String = "", Use, Working, "File with a token that opens the dashboard and the API, as a bearer token or as the password of any user; read at each request";
    iam_login_rate: u32 = rds_iam::DEFAULT_LOGINS_PER_SECOND, Reload, Working, "IAM logins started per second and server, over all pools; RDS accepts 200 (0 = no limit)", 0..=100_000;
    iam_map: String = "iam", ClientLogin, Working, "Name of the map in auth_ident_file for auth_type = iam-sts";
    iam_sts_audience: String = "", ClientLogin, Working, "Audience that proofs must have (auth_type = iam-sts)";
    idle_transaction_timeout: Duration = 0, Janitor, Working, "Disconnect a client idle in a transaction for this many seconds";
    ignore_startup_parameters: String = "", ClientLogin, Working, "Startup parameters to accept and ignore, also if they are tracked";
    io_engine: IoEngine = IoEngine::Auto, Start, Working, "Kernel interface for I/O: auto, epoll or io_uring";
    job_name: String = "pgbouncer", Start, Working, "Name of this process in ps and top, if set";
    listen_addr: String = "", Start, Working, "TCP addresses to listen on; * means all, empty means none";
    listen_backlog: u32 = 128, Start, Working, "Connections that the kernel queues before they are accepted";
    listen_port: PortList = 6432, Start, Working, "TCP port to listen on, or several, separated by commas; each has a UNIX socket, too";
    log_connections: bool = true, ClientLogin, Working, "Log each client login";
    log_disconnections: bool = true, Use, Working, "Log each disconnect with its reason";
    log_format: LogFormat = LogFormat::Auto, Reload, Working, "Layout of log lines: pgbouncer, text or json; auto is pgbouncer with a file, otherwise text";
    log_pooler_errors: bool = true, Use, Working, "Log errors that the pooler sends to clients";
    log_stats: bool = true, Janitor, Working, "Log totals once per stats_period";
    logfile: String = "", Reload, Working, "File to log to, besides standard error; RELOAD reopens it";
    login_notify_message: String = "", ClientLogin, Working, "NOTICE sent to each client after login";
    max_client_conn: u32 = 100, ClientLogin, Working, "Client connections in total", 0..=10_000_000;
    max_db_client_connections: u32 = 0, ClientLogin, Working, "Client connections per database (0 = no limit)";
    max_db_connections: u32 = 0, ServerLogin, Working, "Server connections per database over all users (0 = no limit)";
    max_packet_size: u32 = 2_147_483_647, Release, Working, "Largest protocol message accepted, in bytes", 1024..=2_147_483_647;
    max_prepared_statements: u32 = 200, Release, Working, "Prepared statements kept on each server (0 = not tracked)", 0..=1_000_000;
    max_user_client_connections: u32 = 0, ClientLogin, Working, "Client connections per user (0 = no limit)";
    max_user_connections: u32 = 0, ServerLogin, Working, "Server connections per user over all databases (0 = no limit)";
    min_pool_size: u32 = 0, Reload, Working, "Server connections kept open in a pool", 0..=1_000_000;
    otlp_endpoint: String = "", Reload, Working, "URL of the OpenTelemetry collector that receives traces over OTLP with HTTP; empty for the one in OTEL_EXPORTER_OTLP_ENDPOINT, without which there are no traces. Needs a build with the feature otlp";
    peer_host: String = "", Start, Working, "Name whose addresses are those of all replicas: cancel requests for clients of others are sent to them; empty means none";
    peer_id: u16 = 0, Start, Working, "Number of this process among its peers (0 = no peering, with peer_host a random one)", 0..=16383;
    peer_port: u16 = 0, Start, Working, "Port of the addresses of peer_host (0 = the first listen_port)", 0..=65535;
    pidfile: String = "", Start, Working, "File with the process ID";
    pin: PinRule = PinRule::On, Release, Working, "With session_state = follow, a statement for which the client would have to keep its server (a temporary table, a lock of the session …): on keeps the server, error refuses the statement";
    pin_idle_timeout: Duration = 0, Janitor, Working, "With session_state = follow, disconnect a client that keeps its server and has been silent for this many seconds; not one that listens (0 = never)";
    pkt_buf: u32 = 4096, Start, Ignored, "Size of PgBouncer's packet buffers; buffers grow as needed here";
    pool_idle_timeout: Duration = 0, Janitor, Working, "Remove a pool unused for this many seconds (0 = only after autodb_idle_timeout)";
    pool_mode: PoolMode = PoolMode::Session, Release, Working, "When a server is released to its pool";
    query_timeout: Duration = 0, Janitor, Working, "Cancel a query that runs longer than this many seconds";
    query_wait_notify: Duration = 5, Janitor, Working, "NOTICE to a client that has waited this many seconds for a server (0 = none)";
    query_wait_timeout: Duration = 120, Janitor, Working, "Disconnect a client that has waited this many seconds for a server";
    reserve_pool_size: u32 = 0, Reload, Working, "Additional servers for a pool whose clients wait too long", 0..=1_000_000;
    reserve_pool_timeout: Duration = 5, Janitor, Working, "Seconds a client waits before the reserve is used";
    resolv_conf: String = "", Start, Working, "Another resolv.conf, for the name servers that resolve server host names";
    sbuf_loopcnt: u32 = 5, Nothing, Ignored, "Packets per iteration of PgBouncer's event loop";
    scram_iterations: u32 = 4096, ClientLogin, Working, "Iterations of SCRAM secrets derived by the pooler", 1..=10_000_000;
    secret_grace: Duration = 3600, Reload, Working, "Seconds for which clients may use the previous password of a secret (secret_arn) after its rotation";
    secret_refresh: Duration = 600, Reload, Working, "Seconds after which a secret (secret_arn) is read again";
    server_check_delay: Duration = 30, Janitor, Working, "Seconds a server may be idle before it is checked (0 = every idle server is)";
    server_check_query: String = "<empty>", Janitor, Working, "Query that checks an idle server before a client gets it; <empty> is an empty query, an empty value means no check";
    server_connect_timeout: Duration = 15, ServerLogin, Working, "Seconds for connecting and logging in to a server";
    server_fast_close: bool = false, Janitor, Working, "Do not wait for the end of a session to close a server that RELOAD or RECONNECT replaces: close both at the end of the transaction";
    server_idle_timeout: Duration = 600, Janitor, Working, "Close a server unused for this many seconds";
    server_lifetime: Duration = 3600, ServerLogin, Working, "Close an unused server older than this many seconds (0 = use each server once)";
    server_login_retry: Duration = 15, Use, Working, "Pause after a failed server login, in seconds";
    server_reset_query: String = "DISCARD ALL", Release, Working, "Query run on a server between session-mode clients";
    server_reset_query_always: bool = false, Release, Working, "Run server_reset_query in every pool mode";
    server_round_robin: bool = false, Reload, Working, "Reuse the server that has been idle longest instead of the last one released";
    server_tls13_ciphers: Tls13Ciphers = "", ServerLogin, Working, "TLS 1.3 cipher suites for servers, by name; empty means all";
    server_tls_ca_file: String = "", ServerLogin, Working, "Authorities that sign server certificates: files, rds for the built-in ones of RDS, system for those of the host; empty means rds, system";
    server_tls_cert_file: String = "", ServerLogin, Working, "Certificate presented to servers";
    server_tls_ciphers: Tls12Ciphers = "default", ServerLogin, Working, "TLS 1.2 cipher suites for servers, in OpenSSL's syntax; default, secure, fast, normal and all mean all that are offered";
    server_tls_key_file: String = "", ServerLogin, Working, "Key of the certificate presented to servers";
    server_tls_protocols: TlsProtocols = "secure", ServerLogin, Working, "TLS versions offered to servers";
    server_tls_sslmode: TlsMode = TlsMode::Prefer, ServerLogin, Working, "TLS mode for connections to servers";
    server_unreachable_timeout: Duration = 0, Use, Working, "Seconds for which clients wait while no login to a server succeeds and it has no other servers; from then on they receive the error at once (0 = query_wait_timeout alone). 60 without a file";
    service_name: String = "", Start, Ignored, "Name of the Windows service";
    session_state: SessionState = SessionState::Pgbouncer, Start, Working, "In transaction pooling, what a client has set (SET, temporary tables, advisory locks, LISTEN …): follow keeps it, pgbouncer keeps only parameters that servers report. In session pooling, follow gives a client its server in its login. follow without a file";
    session_state_functions: SessionStateFunctions = SessionStateFunctions::Careful, Use, Working, "With session_state = follow, functions that cannot be examined: careful assumes that they change nothing, strict that they change anything, so that their callers keep their servers";
    shared_listener: bool = true, Release, Working, "With session_state = follow in transaction pooling, clients that LISTEN share one connection for their notifications; off: each keeps its server";
    so_reuseport: bool = false, Start, Working, "Let several processes share the port";
    state_verify: u32 = 0, Release, Working, "With session_state = follow, after one transaction in this many, ask the server for the whole state of its session and compare it with what is recorded; a difference is logged and counted (0 = never)";
    stats_period: Duration = 60, Janitor, Working, "Period of averages, in seconds";
    stats_users: String = "", ClientLogin, Working, "Users who may use SHOW commands only";
    suspend_timeout: Duration = 10, Nothing, Ignored, "Time limit of SUSPEND, which PgBouncer has deprecated and so_reuseport replaces";
    syslog: bool = false, Reload, Working, "Log to syslog, too";
    syslog_facility: String = "daemon", Reload, Working, "Facility of syslog lines";
    syslog_ident: String = "pgbouncer", Reload, Working, "Name in syslog lines";
    tcp_defer_accept: u32 = 1, Reload, Working, "Seconds the kernel waits for the first byte of a client before the connection can be accepted (0 = none)";
    tcp_keepalive: bool = true, Connection, Working, "Probe silent TCP connections";
    tcp_keepcnt: u32 = 0, Connection, Working, "Lost probes before a connection is closed (0 = system default)", 0..=127;
    tcp_keepidle: Duration = 0, Connection, Working, "Silent seconds before the first probe (0 = system default)";
    tcp_keepintvl: Duration = 0, Connection, Working, "Seconds between probes (0 = system default)";
    tcp_socket_buffer: u32 = 0, Connection, Working, "Size of the send and receive buffers of sockets in bytes (0 = system default)";
    tcp_user_timeout: u32 = 0, Connection, Working, "Milliseconds sent data may stay unacknowledged (0 = system default)";
    trace_sample: u32 = 100, Reload, Working, "Export one in this many transactions as a trace (0 = no traces, also of logins to servers)", 0..=1_000_000_000;
    track_extra_parameters: String = "IntervalStyle", Start, Working, "Additional server parameters tracked per client";
    transaction_timeout: Duration = 0, Janitor, Working, "Disconnect a client whose transaction runs longer than this many seconds";
    unix_socket_dir: String = "/tmp", Start, Working, "Directory of the UNIX socket; @ makes it abstract, empty means none";
    unix_socket_group: String = "", Start, Working, "Group that owns the UNIX socket";
    unix_socket_mode: FileMode = 0o777, Start, Working, "Permissions of the UNIX socket, in octal";
    user: String = "", Start, Working, "System user to switch to after TCP ports were bound; required for a start as root with a file";
    verbose: u32 = 0, Reload, Working, "More log lines (0 to 3)", 0..=100;
    workers: WorkerCount = WorkerCount::Auto, Start, Working, "Worker threads: a number, a range such as 1-4, or auto for 1 to the number of available CPUs; of a range, as many as the load needs";
}

/// The times of a drain, from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainPeriod {
    /// Clients are accepted until then.
    pub min: Duration,
    /// The process ends then.
    pub max: Duration,
}

impl Default for DrainPeriod {
    fn default() -> Self {
        Self { min: Duration::ZERO, max: Duration::from_secs(25) }
    }
}

/// The port of name servers.
const DNS_PORT: u16 = 53;

impl Settings {
    /// True if name servers other than the system's are configured.
    pub fn names_dns_servers(&self) -> bool {
        !self.dns_server.is_empty() || !self.resolv_conf.is_empty()
    }

    /// `dns_server` as an address; `None` if empty or invalid.
    pub fn dns_server_address(&self) -> Option<std::net::SocketAddr> {
        let text = self.dns_server.as_str();
        text.parse().ok().or_else(|| Some((text.parse::<std::net::IpAddr>().ok()?, DNS_PORT).into()))
    }
}

/// The highest `peer_id`.
pub const MAX_PEER_ID: u16 = 16_383;

/// All settings in alphabetical order.
pub fn table() -> &'static [SettingInfo] {
    &TABLE
}

fn within<T: SettingValue>(value: T, range: RangeInclusive<u64>) -> Result<T, String> {
    match value.magnitude() {
        Some(number) if !range.contains(&number) => {
            Err(format!("is not from {} to {}", range.start(), range.end()))
        }
        _ => Ok(value),
    }
}

impl Settings {
    /// The addresses in `listen_addr`.
    pub fn listen_addresses(&self) -> impl Iterator<Item = &str> {
        split_list(&self.listen_addr)
    }

    /// `peer_host` and the port of its addresses; `None` if there is none.
    pub fn peers_by_name(&self) -> Option<(&str, u16)> {
        let port = if self.peer_port == 0 { self.listen_port.first() } else { self.peer_port };
        (!self.peer_host.is_empty()).then_some((self.peer_host.as_str(), port))
    }

    /// The names in `ignore_startup_parameters`.
    pub fn ignored_startup_parameters(&self) -> impl Iterator<Item = &str> {
        split_list(&self.ignore_startup_parameters)
    }

    /// The names in `track_extra_parameters`.
    pub fn extra_parameters(&self) -> impl Iterator<Item = &str> {
        split_list(&self.track_extra_parameters)
    }

    /// The times of a drain; `None` if it has no end.
    pub fn drain_period(&self) -> Option<DrainPeriod> {
        self.drain_max_seconds.time().map(|max| DrainPeriod { min: self.drain_min_seconds.min(max), max })
    }

    /// True if connections to servers would be encrypted in another way.
    pub fn encrypts_servers_differently(&self, other: &Self) -> bool {
        let tls = |settings: &Self| {
            (
                settings.server_tls_sslmode,
                settings.server_tls_protocols.clone(),
                (settings.server_tls_ciphers.clone(), settings.server_tls13_ciphers.clone()),
                settings.server_tls_ca_file.clone(),
                (settings.server_tls_cert_file.clone(), settings.server_tls_key_file.clone()),
            )
        };
        tls(self) != tls(other)
    }

    /// True if this user may run all console commands.
    pub fn is_admin(&self, user: &str) -> bool {
        split_list(&self.admin_users).any(|name| name == user)
    }

    /// True if this user may run SHOW commands.
    pub fn is_stats_user(&self, user: &str) -> bool {
        split_list(&self.stats_users).any(|name| name == user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_settings_of_pgbouncer_and_the_own_ones_are_listed() {
        assert_eq!(table().len(), 101 + 27);
        assert!(table().is_sorted_by_key(|row| row.name));
    }

    #[test]
    fn something_applies_each_supported_setting() {
        for row in table().iter().filter(|row| row.reloadable()) {
            let is_used = row.applied != AppliedBy::Nothing;
            assert_eq!(is_used, row.status == SettingStatus::Working, "{}", row.name);
        }
    }

    #[test]
    fn every_default_can_be_set_and_read_back() {
        for row in table() {
            let mut settings = Settings::default();
            settings.set(row.name, &row.default_text).expect(row.name);
            assert_eq!(settings.get_text(row.name).as_ref(), Some(&row.default_text), "{}", row.name);
            assert_eq!(settings, Settings::default(), "{}", row.name);
        }
    }

    #[test]
    fn unknown_names_suggest_the_nearest() {
        let error = Settings::default().set("defualt_pool_size", "5").expect_err("misspelt");
        assert_eq!(error.to_string(), "unknown setting \"defualt_pool_size\"");
        assert_eq!(error.help().as_deref(), Some("did you mean \"default_pool_size\"?"));
        assert_eq!(Settings::default().get_text("nope"), None);
    }

    #[test]
    fn an_invalid_value_changes_nothing() {
        let mut settings = Settings::default();
        let error = settings.set("max_packet_size", "12").expect_err("too small");
        assert_eq!(error.to_string(), "max_packet_size: value \"12\" is not from 1024 to 2147483647");
        assert!(settings.set("workers", "0").is_err());
        assert!(settings.set("listen_port", "65536").is_err());
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn lists_split_on_commas() {
        let mut settings = Settings::default();
        settings.set("admin_users", " root, ops ,,").expect("text");
        assert!(settings.is_admin("ops") && !settings.is_admin("") && !settings.is_stats_user("ops"));
        settings.set("listen_addr", "127.0.0.1, ::1").expect("text");
        assert_eq!(settings.listen_addresses().collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    }
}
