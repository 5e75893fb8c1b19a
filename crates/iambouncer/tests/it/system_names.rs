//! `cert` and `peer`: the client's name comes from its certificate or from the kernel, and a map may allow other
//! users.

use crate::hba::WithRules;
use crate::support::bouncer::Start;
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::support::{Bouncer, Client, postgres};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// An account without rights, and a name that tests give to it in maps.
const OTHER_ACCOUNT: u32 = 65534;
const NO_CERTIFICATE: &str = "28000 certificate authentication failed";
const NO_PEER: &str = "unix socket login rejected";
const USERS: &str = "\"app\" \"secret\"\n\"other\" \"other\"\n\"third\" \"x\"\n\"postgres\" \"\"\n";

/// A login with the certificate of `app`: the error, or nothing.
fn by_certificate(bouncer: &Bouncer, side: &ClientSide, database: &str, user: &str) -> Result<(), String> {
    let config = side.config_with_certificate(&side.identity);
    let outcome = TlsClient::log_in_with(bouncer.port, config, user, database, "");
    outcome.map(|_| ()).map_err(|(code, text, _)| format!("{code} {text}"))
}

#[test]
fn a_certificate_logs_in_the_user_it_names() {
    let side = ClientSide::new();
    let line = format!("d = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = side.set(Start::databases(&line), "verify-full").set("auth_type = cert");
    let bouncer = start.users(USERS).start();
    by_certificate(&bouncer, &side, "d", "app").unwrap();
    assert_eq!(by_certificate(&bouncer, &side, "d", "other"), Err(NO_CERTIFICATE.to_owned()));
    bouncer.wait_for_line("TLS certificate name mismatch");
    // The mode requires TLS and a certificate before any method.
    let mut plain = Client::start(bouncer.port, &[("user", "app"), ("database", "d")]);
    assert_eq!(plain.read().unwrap().error().1, "SSL required");
    assert!(TlsClient::log_in(bouncer.port, side.config(), "app", "d").is_err());
}

#[test]
fn a_user_that_does_not_exist_looks_like_one_with_another_certificate() {
    let side = ClientSide::new();
    let line = format!("d = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = side.set(Start::databases(&line), "verify-full").set("auth_type = cert");
    let bouncer = start.users("\"other\" \"\"\n").start();
    for user in ["app", "other", "unknown_user"] {
        assert_eq!(by_certificate(&bouncer, &side, "d", user), Err(NO_CERTIFICATE.to_owned()), "{user}");
    }
}

#[test]
fn rules_with_cert_and_maps_need_a_certificate_that_fits() {
    let rules = "hostssl d_own all all cert\nhostssl d_map all all cert map=people\n\
                 hostssl d_all all all cert map=anyone\nhost d_loose all all cert\n";
    let ident =
        "people app other # the certificate's name, then a user\npeople elsewhere third\nanyone app all\n";
    let rules = WithRules::start(&["d_own", "d_map", "d_all", "d_loose"], rules, ident, USERS);
    let log_in = |database: &str, user: &str| by_certificate(&rules.bouncer, &rules.side, database, user);
    let accepted =
        [("d_own", "app"), ("d_map", "other"), ("d_all", "third"), ("d_all", "app"), ("d_loose", "app")];
    for (database, user) in accepted {
        assert_eq!(log_in(database, user), Ok(()), "{database} {user}");
        // The same without a certificate.
        assert_eq!(rules.tls(database, user, ""), Err(NO_CERTIFICATE.to_owned()), "{database} {user}");
    }
    rules.bouncer.wait_for_line("TLS client certificate required");
    let refused = [
        ("d_own", "other"),
        ("d_map", "app"),
        ("d_map", "third"),
        ("d_all", "unknown_user"),
        ("d_loose", "other"),
    ];
    for (database, user) in refused {
        assert_eq!(log_in(database, user), Err(NO_CERTIFICATE.to_owned()), "{database} {user}");
    }
    assert_eq!(rules.tcp("d_loose", "app", "x"), Err(NO_CERTIFICATE.to_owned()));
}

#[test]
fn the_reasons_of_refused_certificates_are_logged() {
    let rules =
        "hostssl d_own all all cert\nhostssl d_map all all cert map=people\nhost d_loose all all cert\n";
    // One line of a kind is logged per second, so each reason has a pooler of its own.
    let start = || {
        let rules = rules.to_owned();
        WithRules::start(&["d_own", "d_map", "d_loose"], &rules, "people app other\n", USERS)
    };
    let own = start();
    by_certificate(&own.bouncer, &own.side, "d_own", "other").unwrap_err();
    own.bouncer.wait_for_line("TLS certificate name mismatch");
    let map = start();
    by_certificate(&map.bouncer, &map.side, "d_map", "app").unwrap_err();
    map.bouncer.wait_for_line("ident map: people does not have a match");
    let loose = start();
    loose.tcp("d_loose", "app", "x").unwrap_err();
    loose.bouncer.wait_for_line("TLS connection required");
}

#[test]
fn a_certificate_with_two_common_names_proves_neither() {
    let side = ClientSide::new();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    std::fs::write(side.dir.path().join("ca.pem"), &ca_pem).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["app".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "else");
    // A second common name, by its object identifier.
    params.distinguished_name.push(DnType::CustomDnType(vec![2, 5, 4, 3]), "app");
    let certificate_pem = params.signed_by(&key, &issuer).unwrap().pem();
    let identity =
        crate::support::tls_client::Identity { ca_pem, certificate_pem, key_pem: key.serialize_pem() };
    let line = format!("d = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let start = side.set(Start::databases(&line), "verify-full").set("auth_type = cert");
    let bouncer = start.users(USERS).start();
    let config = side.config_with_certificate(&identity);
    for user in ["app", "else"] {
        let outcome = TlsClient::log_in_with(bouncer.port, config.clone(), user, "d", "");
        assert_eq!(outcome.err().unwrap().1, "certificate authentication failed", "{user}");
    }
}

/// psql over the UNIX socket, under this account.
fn psql(rules: &WithRules, database: &str, user: &str, account: Option<u32>) -> Result<(), String> {
    let mut command = Command::new("psql");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let (host, port) = (rules.dir.path().display(), rules.bouncer.port);
    command.args(["-w", "-At", "-c", "SELECT 1"]);
    command.arg(format!("host={host} port={port} user={user} dbname={database}"));
    if let Some(account) = account {
        command.uid(account).current_dir("/");
    }
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(error) }
}

#[test]
fn peer_compares_the_account_with_the_user_or_the_map() {
    let own = rustix::process::geteuid().as_raw();
    let Some(account) = iambouncer::accounts::user_name(own) else { return };
    let rules = "local d_own all peer\nlocal d_map all peer map=people\nlocal d_all all peer map=anyone\n\
                 host d_own all all peer\n";
    let ident = format!("people {account} other\npeople elsewhere third\nanyone {account} all\n");
    let users = format!("{USERS}\"{account}\" \"\"\n");
    let rules = WithRules::start(&["d_own", "d_map", "d_all"], rules, &ident, &users);
    let accepted = [("d_own", account.as_str()), ("d_map", "other"), ("d_all", "third")];
    for (database, user) in accepted {
        psql(&rules, database, user, None).unwrap();
        // Only root can become another account.
        if own == 0 {
            let error = psql(&rules, database, user, Some(OTHER_ACCOUNT)).unwrap_err();
            assert!(error.contains(NO_PEER), "{database} {user}: {error}");
        }
    }
    for (database, user) in
        [("d_own", "app"), ("d_map", "app"), ("d_map", "third"), ("d_all", "unknown_user")]
    {
        let error = psql(&rules, database, user, None).unwrap_err();
        assert!(error.contains(NO_PEER), "{database} {user}: {error}");
    }
    let over_tcp = rules.tcp("d_own", &account, "x").unwrap_err();
    assert!(over_tcp.contains(NO_PEER), "{over_tcp}");
}

#[test]
fn a_map_that_does_not_fit_is_logged_and_reload_reads_it_again() {
    let Some(account) = iambouncer::accounts::user_name(rustix::process::geteuid().as_raw()) else { return };
    let rules = "local d all peer map=people\nlocal pgbouncer postgres trust\n";
    let rules = WithRules::start(&["d"], rules, "people elsewhere app\n", USERS);
    psql(&rules, "d", "app", None).unwrap_err();
    rules.bouncer.wait_for_line("ident map people cannot be matched");
    std::fs::write(rules.file("ident.conf"), format!("people {account} all")).unwrap();
    let socket = format!("host={} port={}", rules.dir.path().display(), rules.bouncer.port);
    let reload = Command::new("psql")
        .args(["-w", "-c", "RELOAD", &format!("{socket} user=postgres dbname=pgbouncer")])
        .output()
        .unwrap();
    assert!(reload.status.success(), "{}", String::from_utf8_lossy(&reload.stderr));
    psql(&rules, "d", "app", None).unwrap();
}
