//! Settings that change while the pooler runs: what SHOW CONFIG reports is in force, and what cannot be put in force is
//! refused.

use crate::support::bouncer::Start;
use crate::support::raw::{Client, tags};
use crate::support::{Bouncer, eventually, postgres};
use iambouncer::config::{SettingInfo, table};
use rds_sim::Certificates;
use std::path::Path;

fn value(console: &mut Client, key: &str) -> String {
    let keys = console.column("SHOW CONFIG", "key");
    let at = keys.iter().position(|known| known == key).unwrap();
    console.column("SHOW CONFIG", "value")[at].clone()
}

/// Another value than the one in force, for settings whose values are not numbers.
fn other_text(key: &str) -> Option<&'static str> {
    Some(match key {
        "admin_users" => "postgres, other",
        "auth_query" => "SELECT $1, NULL",
        "auth_type" => "any",
        "drain_max_seconds" => "30",
        "auth_ldap_options" => "ldapserver=h ldapprefix=cn=",
        "client_tls_protocols" | "server_tls_protocols" => "tlsv1.3",
        "ignore_startup_parameters" => "extra_float_digits",
        "pin" => "error",
        "pool_mode" => "session",
        "max_packet_size" => "100000",
        "otlp_endpoint" => "http://127.0.0.1:9",
        "server_reset_query" => "SELECT 1",
        "server_check_query" => "SELECT 2",
        "stats_users" => "other",
        "iam_map" | "iam_sts_audience" | "login_notify_message" | "syslog_ident" => "other",
        "auth_dbname" | "auth_user" => "app",
        "log_format" => "json",
        "syslog_facility" => "local0",
        "client_tls_ciphers" | "server_tls_ciphers" => "HIGH:!AES128",
        "client_tls13_ciphers" | "server_tls13_ciphers" => "TLS_AES_256_GCM_SHA384",
        "client_tls_ecdhcurve" => "X25519",
        "client_tls_dheparams" => "none",
        "server_tls_sslmode" => "disable",
        "session_state_functions" => "strict",
        _ => return None,
    })
}

/// Other values than `before`, of which at least one is valid.
fn other_values(row: &SettingInfo, before: &str) -> Vec<String> {
    match other_text(row.name) {
        Some(text) => vec![text.to_owned()],
        // A number, or a switch.
        None => vec![(before.parse::<f64>().unwrap() + 1.0).to_string(), "0".to_owned()],
    }
}

/// Settings that name files, or need them; each has a test of its own here or in `tls`.
fn needs_files(key: &str) -> bool {
    key.ends_with("_file") || matches!(key, "logfile" | "client_tls_sslmode" | "conffile")
}

#[test]
fn every_setting_that_reload_changes_can_be_set_and_is_shown() {
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = Start::databases(&line).start();
    let mut console = bouncer.console();
    for row in table().iter().filter(|row| row.reloadable() && !needs_files(row.name)) {
        let before = value(&mut console, row.name);
        let others = other_values(row, &before);
        let mut answers = others.iter().map(|other| console.query(&format!("SET {} = '{other}'", row.name)));
        assert!(answers.any(|answer| tags(&answer) == "CZ"), "{}: none of {others:?} was accepted", row.name);
        assert_ne!(value(&mut console, row.name), before, "{}", row.name);
    }
}

/// Values for all settings that name files or need them, valid together.
fn file_values(dir: &Path) -> Vec<(&'static str, String)> {
    let certificates = Certificates::generate(&["localhost".to_owned()]).unwrap();
    let pem = certificates.for_postgres();
    let path = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (path("other.crt", &pem.certificate_pem), path("other.key", &pem.key_pem));
    let authorities = path("other-ca.crt", certificates.ca_pem());
    vec![
        ("auth_file", path("other-users.txt", "\"postgres\" \"secret\"\n")),
        ("auth_hba_file", path("other-hba.conf", "")),
        ("auth_ident_file", path("other-ident.conf", "")),
        ("client_tls_ca_file", authorities.clone()),
        ("client_tls_cert_file", certificate.clone()),
        ("client_tls_key_file", key.clone()),
        ("client_tls_sslmode", "allow".to_owned()),
        ("conffile", dir.join("pooler.ini").display().to_string()),
        ("http_token_file", path("token", "0123456789abcdef")),
        ("logfile", path("other.log", "")),
        ("server_tls_ca_file", authorities),
        ("server_tls_cert_file", certificate),
        ("server_tls_key_file", key),
    ]
}

#[test]
fn every_setting_that_reload_changes_follows_the_file() {
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = Start::databases(&line).start();
    let mut console = bouncer.console();
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    // Reads the original file with these settings changed. True if it is in force.
    let reload_with = |console: &mut Client, changed: &[(&str, String)]| {
        let is_changed = |line: &str| changed.iter().any(|(key, _)| line.starts_with(&format!("{key} = ")));
        let mut lines: Vec<String> =
            text.lines().filter(|line| !is_changed(line)).map(str::to_owned).collect();
        lines.extend(changed.iter().map(|(key, value)| format!("{key} = {value}")));
        std::fs::write(bouncer.ini(), lines.join("\n")).unwrap();
        tags(&console.query("RELOAD")) == "CZ"
    };
    let rows = || table().iter().filter(|row| row.reloadable());
    for row in rows().filter(|row| !needs_files(row.name)) {
        assert!(reload_with(&mut console, &[]));
        let before = value(&mut console, row.name);
        let mut others = other_values(row, &before).into_iter();
        let in_force = others.find(|other| reload_with(&mut console, &[(row.name, other.clone())]));
        assert!(in_force.is_some(), "{}", row.name);
        assert_ne!(value(&mut console, row.name), before, "{}", row.name);
    }
    let files = file_values(bouncer.dir());
    let names: Vec<&str> = files.iter().map(|(key, _)| *key).collect();
    assert_eq!(rows().map(|row| row.name).filter(|key| needs_files(key)).collect::<Vec<_>>(), names);
    assert!(reload_with(&mut console, &files));
    for (key, wanted) in files {
        assert_eq!(value(&mut console, key), wanted, "{key}");
    }
}

#[test]
fn a_listen_port_that_reload_has_read_and_nothing_listens_on_is_not_shown() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let before = value(&mut console, "listen_port");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let changed = text
        .replace("listen_port = 0", "listen_port = 1")
        .replace("[pgbouncer]", "[pgbouncer]\nquery_timeout = 77");
    std::fs::write(bouncer.ini(), changed).unwrap();
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    assert_eq!(
        (value(&mut console, "listen_port"), value(&mut console, "query_timeout")),
        (before, "77".to_owned())
    );
    bouncer.wait_for_line("listen_port has changed in the configuration; it takes effect after a restart");
}

#[test]
fn an_authentication_that_does_not_work_cannot_be_set() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    #[cfg(not(feature = "pam"))]
    assert!(console.query("SET auth_type = pam")[0].detail().contains("needs a build with the feature"));
    assert_eq!(console.query("SET auth_type = hba")[0].detail(), "auth_type = hba needs auth_hba_file");
    assert_eq!(value(&mut console, "auth_type"), "trust");
    bouncer.client();
}

#[test]
fn an_auth_file_that_was_set_is_read() {
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = Start::databases(&line).start();
    let other = bouncer.dir().join("others.txt");
    let mut console = bouncer.console();
    let newcomer = || {
        let mut client = Client::start(bouncer.port, &[("user", "newcomer"), ("database", "app")]);
        client.read().unwrap().tag
    };
    assert_eq!(newcomer(), b'E');
    let set = format!("SET auth_file = '{}'", other.display());
    assert!(console.query(&set)[0].detail().contains("others.txt"), "a file that is not there");
    std::fs::write(&other, "\"newcomer\" \"secret\"\n\"postgres\" \"secret\"\n").unwrap();
    assert_eq!(tags(&console.query(&set)), "CZ");
    assert_eq!(newcomer(), b'R');
}

#[test]
fn verbose_changes_what_is_logged() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    // A line that is logged at this level only.
    let line = "cancel request with an unknown key";
    crate::cancel::cancel(bouncer.port, 1, &[1; 4]);
    assert!(!bouncer.log().contains(line));
    assert_eq!(tags(&console.query("SET verbose = 1")), "CZ");
    crate::cancel::cancel(bouncer.port, 1, &[1; 4]);
    eventually("the line is logged", || bouncer.log().contains(line));
    assert_eq!(tags(&console.query("SET verbose = 0")), "CZ");
}

#[test]
fn the_logfile_follows_reload_and_a_file_that_was_moved_away_is_made_again() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let [first, moved] = ["first.log", "moved.log"].map(|name| bouncer.dir().join(name));
    let refused = console.query("SET logfile = '/no/such/directory/log'");
    assert!(refused[0].detail().contains("cannot open logfile"), "{:?}", refused[0].detail());
    assert_eq!(value(&mut console, "logfile"), "");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let with_file = text.replace("[pgbouncer]", &format!("[pgbouncer]\nlogfile = {}", first.display()));
    std::fs::write(bouncer.ini(), with_file).unwrap();
    console.query("RELOAD");
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    eventually("the line is in the file", || read(&first).contains("configuration reloaded"));
    std::fs::rename(&first, &moved).unwrap();
    console.query("RELOAD");
    eventually("the file is there again", || read(&first).contains("configuration reloaded"));
    assert!(!read(&first).contains('\u{1b}'));
}

#[test]
fn reload_reads_the_file_that_conffile_names() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let other = bouncer.dir().join("other.ini");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let with_timeout =
        |seconds: u32| text.replace("[pgbouncer]", &format!("[pgbouncer]\nquery_timeout = {seconds}"));
    std::fs::write(&other, with_timeout(11)).unwrap();
    assert_eq!(tags(&console.query(&format!("SET conffile = '{}'", other.display()))), "CZ");
    assert_eq!(value(&mut console, "query_timeout"), "0", "not before RELOAD");
    for seconds in [11, 12] {
        std::fs::write(&other, with_timeout(seconds)).unwrap();
        assert_eq!(tags(&console.query("RELOAD")), "CZ");
        assert_eq!(value(&mut console, "query_timeout"), seconds.to_string());
        assert_eq!(value(&mut console, "conffile"), other.display().to_string());
    }
    std::fs::remove_file(&other).unwrap();
    assert!(console.query("RELOAD")[0].detail().contains("other.ini"));
    assert_eq!(tags(&console.query("SET conffile = ''")), "CZ");
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    assert_eq!(value(&mut console, "query_timeout"), "0");
}
