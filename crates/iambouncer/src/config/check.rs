//! Checks that involve more than one value: combinations of settings that are required or forbidden.
//!
//! Owns the rules; those about AWS are in `check_aws`. Never changes anything.

use super::build::{CONSOLE_DATABASE, ValuePlaces};
use super::check_aws::{check_iam, check_no_iam, check_secret};
use super::check_traces::check_traces;
use super::diagnostics::Diagnostic;
use super::enums::{AuthType, PAM_NEEDS, ServerAuth, TlsMode};
use super::model::{Config, Database};
use super::own_listener;
use super::settings_table::Settings;

/// All diagnostics about a configuration as a whole.
pub(super) fn check(config: &Config, places: &ValuePlaces) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    check_listening(&config.settings, places, &mut found);
    check_peers(config, places, &mut found);
    check_peer_host(&config.settings, places, &mut found);
    check_names(&config.settings, places, &mut found);
    check_drain(&config.settings, places, &mut found);
    check_traces(&config.settings, places, &mut found);
    check_authentication(config, places, &mut found);
    check_tls_pairs(&config.settings, places, &mut found);
    check_tls_files(&config.settings, places, &mut found);
    if config.all_databases().next().is_none() {
        found.push(Diagnostic::warning("no database is configured: only the console is available"));
    }
    for database in config.all_databases() {
        check_database(database, &config.settings, places, &mut found);
        if database.server_auth == ServerAuth::Iam {
            check_iam(database, &config.settings, places, &mut found);
        } else {
            check_no_iam(database, places, &mut found);
        }
        if database.secret_arn.is_some() {
            check_secret(database, &config.settings, places, &mut found);
        }
    }
    found
}

/// The first error that is new in `after`, where SET has changed one setting. A certificate without its key is none,
/// since they can only be set one after the other.
pub fn first_new_error(before: &Config, after: &Config) -> Option<Diagnostic> {
    let errors =
        |config: &Config| check(config, &ValuePlaces::default()).into_iter().filter(Diagnostic::is_error);
    let mut known: Vec<String> = errors(before).map(|error| error.message).collect();
    let mut pairs = Vec::new();
    check_tls_pairs(&after.settings, &ValuePlaces::default(), &mut pairs);
    known.extend(pairs.into_iter().map(|error| error.message));
    errors(after).find(|error| !known.contains(&error.message))
}

fn check_listening(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    if settings.listen_addresses().next().is_none() && settings.unix_socket_dir.is_empty() {
        let span = places.setting("listen_addr").or_else(|| places.setting("unix_socket_dir"));
        found.push(
            Diagnostic::error("nothing to listen on: listen_addr and unix_socket_dir are both empty")
                .at(span),
        );
    }
}

fn check_peers(config: &Config, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    if let Some((first, _)) = config.peers.first_key_value()
        && config.settings.peer_id == 0
        && config.settings.peer_host.is_empty()
    {
        let warning = Diagnostic::warning("[peers] has no effect without peer_id").at(places.peer(*first));
        found.push(warning.help("set peer_id to the number of this process"));
    }
}

fn check_peer_host(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let Some((_, port)) = settings.peers_by_name() else { return };
    let mut warn = |text: String, help: &str| {
        found.push(Diagnostic::warning(text).at(places.setting("peer_host")).help(help));
    };
    if own_listener::is_loopback_only(settings) {
        let text =
            format!("peer_host is set, but peers cannot connect to listen_addr = {}", settings.listen_addr);
        warn(text, "set listen_addr = *");
    }
    if port == 0 {
        let text = "peer_host is set, but peers do not know the port of listen_port = 0";
        warn(text.to_owned(), "set peer_port, or the same listen_port on all replicas");
    }
}

fn check_names(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    if settings.secret_refresh.is_zero() {
        let error = Diagnostic::error("secret_refresh must be at least 1 second");
        found.push(error.at(places.setting("secret_refresh")));
    }
    if !settings.dns_server.is_empty() && settings.dns_server_address().is_none() {
        let error = format!("dns_server: \"{}\" is not ADDRESS or ADDRESS:PORT", settings.dns_server);
        found.push(Diagnostic::error(error).at(places.setting("dns_server")));
    }
}

fn check_drain(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let min = settings.drain_min_seconds;
    let at = |diagnostic: Diagnostic| diagnostic.at(places.setting("drain_min_seconds"));
    match settings.drain_max_seconds.time() {
        Some(max) if min > max => found.push(at(Diagnostic::error(format!(
            "drain_min_seconds = {} is more than drain_max_seconds = {}",
            min.as_secs_f64(),
            max.as_secs_f64()
        )))),
        None if !min.is_zero() => {
            let warning = "drain_min_seconds has no effect without drain_max_seconds";
            found.push(at(Diagnostic::warning(warning)));
        }
        _ => {}
    }
}

fn check_auth_dbname(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    if settings.auth_dbname == CONSOLE_DATABASE {
        let error = format!("cannot use the reserved \"{CONSOLE_DATABASE}\" database as an auth_dbname");
        found.push(Diagnostic::error(error).at(places.setting("auth_dbname")));
    }
}

fn check_authentication(config: &Config, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    check_auth_dbname(&config.settings, places, found);
    let settings = &config.settings;
    let kind = settings.auth_type;
    let at = |error: Diagnostic| error.at(places.setting("auth_type"));
    if !kind.is_working() {
        let error = Diagnostic::error(format!("auth_type = {kind} {PAM_NEEDS}"));
        found.push(at(error).help("cargo build --release -p iambouncer --features pam"));
    }
    if kind == AuthType::Hba && settings.auth_hba_file.is_empty() {
        found.push(at(Diagnostic::error("auth_type = hba needs auth_hba_file")));
    }
    if kind == AuthType::Ldap && settings.auth_ldap_options.options().is_none() {
        found.push(at(Diagnostic::error("auth_type = ldap needs auth_ldap_options")));
    }
    if kind == AuthType::Cert && !settings.client_tls_sslmode.verifies_name() {
        let error = "auth_type = cert needs client_tls_sslmode = verify-full";
        found.push(
            Diagnostic::error(error)
                .at(places.setting("client_tls_sslmode").or_else(|| places.setting("auth_type"))),
        );
    }
    if matches!(kind, AuthType::Iam | AuthType::IamSts | AuthType::Server) {
        check_proofs(config, places, found);
    }
    let needs_passwords = matches!(kind, AuthType::Plain | AuthType::Md5 | AuthType::ScramSha256);
    let has_secret = config.all_databases().any(|database| database.secret_arn.is_some());
    if needs_passwords && settings.auth_file.is_empty() && !has_secret {
        let warning = format!("auth_type = {kind} without auth_file: no client can log in");
        found.push(at(Diagnostic::warning(warning)));
    }
    if kind == AuthType::Any {
        for database in config.all_databases().filter(|database| database.user.is_none()) {
            let error = format!("auth_type = any needs user= on the line of database \"{}\"", database.name);
            found.push(Diagnostic::error(error).at(places.database(&database.name, "")));
        }
    }
}

/// Proofs of AWS identities are as sensitive as passwords in clear text: both require TLS, and tokens are shown only to
/// a database whose name was verified.
fn check_proofs(config: &Config, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let settings = &config.settings;
    let kind = settings.auth_type;
    let mut needs = |error: String, key: &str| {
        found.push(Diagnostic::error(format!("auth_type = {kind} needs {error}")).at(places.setting(key)));
    };
    if settings.client_tls_sslmode == TlsMode::Disable {
        needs("TLS with clients: set client_tls_sslmode = require".to_owned(), "auth_type");
    }
    if kind == AuthType::IamSts {
        if settings.iam_sts_audience.is_empty() {
            needs("iam_sts_audience, a name of your own for this pooler".to_owned(), "auth_type");
        }
        if settings.auth_ident_file.is_empty() {
            needs("auth_ident_file, which maps AWS identities to users".to_owned(), "auth_type");
        }
    } else if kind == AuthType::Iam && !settings.server_tls_sslmode.verifies_name() {
        needs(
            "server_tls_sslmode = verify-full: a token is shown only to a database whose host name was verified"
                .to_owned(),
            "server_tls_sslmode",
        );
    }
}

/// Each certificate has a key.
fn check_tls_pairs(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    for side in ["client", "server"] {
        let name = |part: &str| format!("{side}_tls_{part}_file");
        let is_set = |part: &str| settings.get_text(&name(part)).is_some_and(|path| !path.is_empty());
        for (given, missing) in [("key", "cert"), ("cert", "key")] {
            if is_set(given) && !is_set(missing) {
                let error = format!("{} is set without {}", name(given), name(missing));
                found.push(Diagnostic::error(error).at(places.setting(&name(given))));
            }
        }
    }
}

fn check_tls_files(settings: &Settings, places: &ValuePlaces, found: &mut Vec<Diagnostic>) {
    let mode = settings.client_tls_sslmode;
    let at = |error: String| Diagnostic::error(error).at(places.setting("client_tls_sslmode"));
    let no_certificate = settings.client_tls_cert_file.is_empty() && settings.client_tls_key_file.is_empty();
    if mode != TlsMode::Disable && no_certificate {
        let needs = "client_tls_cert_file and client_tls_key_file";
        found.push(at(format!("client_tls_sslmode = {mode} needs {needs}")));
    }
    if mode.verifies() && settings.client_tls_ca_file.is_empty() {
        found.push(at(format!("client_tls_sslmode = {mode} needs client_tls_ca_file")));
    }
}

fn check_database(
    database: &Database,
    settings: &Settings,
    places: &ValuePlaces,
    found: &mut Vec<Diagnostic>,
) {
    let name = &database.name;
    if name == CONSOLE_DATABASE {
        found.push(Diagnostic::error(format!("the database name \"{name}\" is reserved for the console")));
    }
    // IAM lines get a more specific message.
    if database.host.is_empty() && database.server_auth != ServerAuth::Iam {
        let error = format!("database \"{name}\" has no host, and unix_socket_dir is empty");
        found.push(Diagnostic::error(error).at(places.database(name, "")));
    }
    own_listener::check(database, settings, places, found);
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::build::build;
    use super::super::{MapEnvironment, ini};

    /// The messages about these settings and database lines.
    pub(in super::super) fn found(settings: &str, databases: &str) -> Vec<String> {
        let text = format!("[pgbouncer]\nauth_type = trust\n{settings}\n[databases]\n{databases}\n");
        let document = ini::parse("f", &|_: &str| Ok(text.clone()));
        let (_, found) = build(&document, &MapEnvironment::default(), &[]);
        found.into_iter().map(|diagnostic| diagnostic.message).collect()
    }

    #[test]
    fn a_name_server_must_be_an_address() {
        for good in ["10.0.0.2", "10.0.0.2:5353", "::1", "[::1]:53"] {
            assert_eq!(found(&format!("dns_server = {good}"), "a = host=h"), Vec::<String>::new());
        }
        assert!(found("dns_server = ns.example.com", "a = host=h")[0].contains("is not ADDRESS"));
    }

    #[test]
    fn peers_by_name_need_a_listener_that_they_can_reach() {
        for listen in ["*", "10.0.0.1", "127.0.0.1, 10.0.0.1", "0.0.0.0"] {
            let lines = format!("peer_host = peers\nlisten_addr = {listen}");
            assert_eq!(found(&lines, "a = host=h"), Vec::<String>::new(), "{listen}");
        }
        for listen in ["", "127.0.0.1", "localhost, ::1", "127.0.0.2"] {
            let warning = format!("peer_host is set, but peers cannot connect to listen_addr = {listen}");
            let lines = format!("peer_host = peers\nlisten_addr = {listen}");
            assert_eq!(found(&lines, "a = host=h"), [warning]);
        }
        let no_port = "peer_host = peers\nlisten_addr = *\nlisten_port = 0";
        assert!(found(no_port, "a = host=h")[0].contains("do not know the port"));
        assert!(found(&format!("{no_port}\npeer_port = 5"), "a = host=h").is_empty());
    }

    #[test]
    fn a_drain_ends_after_its_minimum() {
        let lines = |min: &str, max: &str| format!("drain_min_seconds = {min}\ndrain_max_seconds = {max}");
        assert_eq!(found(&lines("5", "5"), "a = host=h"), Vec::<String>::new());
        assert_eq!(
            found(&lines("5.5", "5"), "a = host=h"),
            ["drain_min_seconds = 5.5 is more than drain_max_seconds = 5"]
        );
        assert_eq!(
            found(&lines("5", "never"), "a = host=h"),
            ["drain_min_seconds has no effect without drain_max_seconds"]
        );
    }

    #[test]
    fn keys_and_certificates_must_be_set_together() {
        assert_eq!(
            found("server_tls_key_file = k", "* ="),
            ["server_tls_key_file is set without server_tls_cert_file"]
        );
        let needs = "client_tls_sslmode = require needs client_tls_cert_file and client_tls_key_file";
        assert_eq!(found("client_tls_sslmode = require", "* ="), [needs]);
    }

    #[test]
    fn unsupported_methods_are_refused() {
        let pam = found("auth_type = pam", "* =");
        let error = "auth_type = pam needs a build with the feature \"pam\"";
        assert_eq!(pam.get(1).map(String::as_str), (!cfg!(feature = "pam")).then_some(error));
        assert_eq!(
            found("auth_type = any", "a = host=h")[1],
            "auth_type = any needs user= on the line of database \"a\""
        );
    }

    #[test]
    fn methods_need_their_files_and_tls() {
        assert_eq!(found("auth_type = hba", "* =")[1], "auth_type = hba needs auth_hba_file");
        let needs = "auth_type = cert needs client_tls_sslmode = verify-full";
        assert_eq!(found("auth_type = cert", "* =")[1], needs);
        let files = "client_tls_cert_file = c\nclient_tls_key_file = k\nclient_tls_ca_file = a\n";
        let with = |mode: &str| format!("auth_type = cert\n{files}client_tls_sslmode = {mode}");
        assert_eq!(found(&with("verify-ca"), "* =")[1..], [needs]);
        assert_eq!(found(&with("verify-full"), "* =").len(), 1);
    }

    #[test]
    fn passwords_that_the_server_verifies_need_tls_with_clients() {
        let needs = "auth_type = server needs TLS with clients: set client_tls_sslmode = require";
        assert_eq!(found("auth_type = server", "* =")[1..], [needs]);
        let tls = "auth_type = server\nclient_tls_sslmode = allow\nclient_tls_cert_file = c\nclient_tls_key_file = k";
        assert_eq!(found(tls, "* =").len(), 1);
        let arn = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:x-AbCdEf";
        let with_secret = found(tls, &format!("a = host=h secret_arn={arn}"));
        assert!(with_secret[1].contains("is served as the user of the secret"), "{with_secret:?}");
        assert_eq!(with_secret.len(), 2);
    }

    #[test]
    fn a_database_on_the_own_listener_is_reported_unless_it_is_the_console() {
        let listen = "listen_addr = 127.0.0.1";
        assert!(found(listen, "a = host=localhost port=6432")[0].contains("own listener"));
        assert!(found("listen_addr = *", "a = host=::1 port=6432")[0].contains("own listener"));
        assert!(found(listen, "a = host=localhost port=6432 dbname=pgbouncer").is_empty());
        assert!(found(listen, "a = host=localhost").is_empty());
        assert!(found(listen, "a = host=db port=6432").is_empty());
    }
}
