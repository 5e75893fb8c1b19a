//! `auth_type = hba`: each kind of rule with a login that it accepts and one that it refuses; RELOAD, and files with
//! errors.

use crate::support::bouncer::Start;
use crate::support::raw::{Message, tags};
use crate::support::tls_client::{ClientSide, TlsClient, client_identity};
use crate::support::{Bouncer, Client, TIMEOUT, postgres};
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use wire::encode;

/// Aliases of one database, one for each rule.
fn databases(names: &[&str]) -> String {
    let port = postgres().port();
    let line = |name: &&str| format!("{name} = host=127.0.0.1 port={port} dbname=app user=app\n");
    names.iter().map(line).collect()
}

/// A login from this address of the loopback network, without a password: the error, or nothing.
fn log_in_from(source: [u8; 4], port: u16, database: &str) -> Result<(), String> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut client = Client { stream: socket.into(), greeting: Vec::new() };
    let mut packet = Vec::new();
    encode::startup(&mut packet, wire::startup::Version::V3_0, &[("user", "app"), ("database", database)]);
    client.send(&packet);
    match client.until_ready().iter().find(|message| message.tag == b'E').map(Message::error) {
        Some((code, text)) => Err(format!("{code} {text}")),
        None => Ok(()),
    }
}

/// A pooler with HBA rules, the directory of its UNIX socket, and its files.
pub(crate) struct WithRules {
    pub(crate) bouncer: Bouncer,
    pub(crate) side: ClientSide,
    /// UNIX socket, `hba.conf` and the files that it names.
    pub(crate) dir: TempDir,
}

impl WithRules {
    pub(crate) fn start(names: &[&str], rules: &str, ident: &str, users: &str) -> Self {
        Self::start_with(names, rules, ident, users, |start| start)
    }

    pub(crate) fn start_with(
        names: &[&str],
        rules: &str,
        ident: &str,
        users: &str,
        change: impl FnOnce(Start<'_>) -> Start<'_>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("hba.conf"), rules).unwrap();
        std::fs::write(path("ident.conf"), ident).unwrap();
        std::fs::write(path("names"), "listed # a comment\nand_me, too\n").unwrap();
        let side = ClientSide::new();
        let lines = databases(names);
        let start = side
            .set(Start::databases(&lines), "allow")
            .set("auth_type = hba")
            .set(&format!("auth_hba_file = {}", path("hba.conf")))
            .set(&format!("auth_ident_file = {}", path("ident.conf")))
            .set(&format!("unix_socket_dir = {}", dir.path().display()))
            .users(users);
        let bouncer = change(start).start();
        Self { bouncer, side, dir }
    }

    /// A login over TCP with this password: the error, or nothing.
    pub(crate) fn tcp(&self, database: &str, user: &str, password: &str) -> Result<(), String> {
        let url = format!("host=127.0.0.1 port={}", self.bouncer.port);
        log_in(&format!("{url} user={user} password={password} dbname={database}"))
    }

    /// The same over the UNIX socket.
    pub(crate) fn unix(&self, database: &str, user: &str, password: &str) -> Result<(), String> {
        let url = format!("host={} port={}", self.dir.path().display(), self.bouncer.port);
        log_in(&format!("{url} user={user} password={password} dbname={database}"))
    }

    /// The same with TLS, and a password in clear text if one is requested.
    pub(crate) fn tls(&self, database: &str, user: &str, password: &str) -> Result<(), String> {
        let config = self.side.config();
        let outcome = TlsClient::log_in_with(self.bouncer.port, config, user, database, password);
        outcome.map(|_| ()).map_err(|(code, text, _)| format!("{code} {text}"))
    }

    pub(crate) fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }
}

fn log_in(url: &str) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match tokio_postgres::connect(url, tokio_postgres::NoTls).await {
            Ok(_) => Ok(()),
            Err(error) => Err(match error.as_db_error() {
                Some(db) => format!("{} {}", db.code().code(), db.message()),
                None => error.to_string(),
            }),
        }
    })
}

const REJECTED: &str = "28000 login rejected";
const NO_RULE: &str = "28000 no authentication method is found";
const USERS: &str = "\"app\" \"secret\"\n\"other\" \"other\"\n\"listed\" \"x\"\n\"too\" \"x\"\n\"unlisted\" \"x\"\n\
                     \"all\" \"x\"\n\"postgres\" \"\"\n";

#[track_caller]
fn refused(outcome: Result<(), String>, reason: &str) {
    assert_eq!(outcome, Err(reason.to_owned()));
}

#[test]
fn record_types_names_and_addresses_select_the_rule() {
    let rules = "\
        # A comment, then an empty line\n\n\
        local    d_local   all              trust\n\
        hostssl  d_ssl     all  127.0.0.0/8 trust\n\
        hostnossl d_plain  all  all         trust\n\
        host     d_mask    all  127.0.0.0 255.255.255.0 trust # a mask\n\
        host     d_far     all  10.0.0.0/8  trust\n\
        host     d_six     all  ::1/128     trust\n\
        host     sameuser  all  all         trust\n\
        host     d_list,d_other other , \"too\" all trust\n\
        host     d_file    @names all       trust\n\
        host     \"all\"   \"all\" all      trust\n\
        host     d_reject  app  all         reject\n\
        host     d_reject  all  all         trust\n\
        host     replication all all        trust\n";
    let names = [
        "d_local",
        "d_ssl",
        "d_plain",
        "d_mask",
        "d_far",
        "d_six",
        "app",
        "d_list",
        "d_other",
        "d_file",
        "\"all\"",
        "d_reject",
        "replication",
    ];
    let rules = WithRules::start(&names, rules, "", USERS);
    rules.unix("d_local", "app", "x").unwrap();
    refused(rules.tcp("d_local", "app", "x"), NO_RULE);
    rules.tls("d_ssl", "app", "x").unwrap();
    refused(rules.tcp("d_ssl", "app", "x"), NO_RULE);
    refused(rules.unix("d_ssl", "app", "x"), NO_RULE);
    rules.tcp("d_plain", "app", "x").unwrap();
    refused(rules.tls("d_plain", "app", "x"), NO_RULE);
    rules.tcp("d_mask", "app", "x").unwrap();
    for elsewhere in ["d_far", "d_six", "replication"] {
        refused(rules.tcp(elsewhere, "app", "x"), NO_RULE);
    }
    rules.tcp("app", "app", "x").unwrap();
    refused(rules.tcp("app", "other", "x"), NO_RULE);
    for (database, user) in [("d_list", "other"), ("d_other", "too"), ("d_file", "listed"), ("d_file", "too")]
    {
        rules.tcp(database, user, "x").unwrap();
        refused(rules.tcp(database, "unlisted", "x"), NO_RULE);
    }
    rules.tcp("all", "all", "x").unwrap();
    refused(rules.tcp("all", "app", "x"), NO_RULE);
    refused(rules.tcp("d_reject", "app", "x"), REJECTED);
    rules.tcp("d_reject", "other", "x").unwrap();
    // A rule with trust still needs a user that exists, and the rule does not reveal which do.
    let unknown = rules.tcp("d_reject", "unknown_user", "x").unwrap_err();
    assert!(unknown.starts_with("28P01"), "{unknown}");
    refused(rules.tcp("d_list", "unknown_user", "x"), NO_RULE);
}

/// The loopback interface has one address, 127.0.0.1, and its network is 127.0.0.0/8.
#[test]
fn samehost_is_this_host_and_samenet_its_networks() {
    let rules =
        "host d_host all samehost trust\nhost d_net all samenet trust\nhostssl d_tls all samehost trust\n";
    let rules = WithRules::start(&["d_host", "d_net", "d_tls"], rules, "", USERS);
    let port = rules.bouncer.port;
    log_in_from([127, 0, 0, 1], port, "d_host").unwrap();
    refused(log_in_from([127, 0, 0, 9], port, "d_host"), NO_RULE);
    for source in [[127, 0, 0, 1], [127, 0, 0, 9]] {
        log_in_from(source, port, "d_net").unwrap();
    }
    refused(rules.unix("d_host", "app", "x"), NO_RULE);
    refused(rules.unix("d_net", "app", "x"), NO_RULE);
    rules.tls("d_tls", "app", "x").unwrap();
    refused(rules.tcp("d_tls", "app", "x"), NO_RULE);
}

/// Rules for databases do not match a connection for physical replication, nor the other way round.
#[test]
fn replication_is_a_keyword_for_physical_replication() {
    let rules = "host replication app all trust\nhost d other all trust\n";
    let rules = WithRules::start(&["d"], rules, "", USERS);
    let log_in = |user: &str, replication: &str| {
        let parameters = [("user", user), ("database", "d"), ("replication", replication)];
        let error = Client::start(rules.bouncer.port, &parameters).until_ready().pop().unwrap();
        if error.tag == b'E' { error.error().1 } else { String::new() }
    };
    // The rule accepts it; the server refuses it, since the user may not replicate. The text depends on its version.
    let refused = log_in("app", "yes");
    let texts = ["must be superuser or replication role", "permission denied to start WAL sender"];
    assert!(texts.iter().any(|text| refused.contains(text)), "{refused}");
    let no_rule = NO_RULE.split_once(' ').unwrap().1;
    assert_eq!(log_in("other", "yes"), no_rule);
    assert_eq!(log_in("app", "no"), no_rule);
    assert_eq!(log_in("other", "no"), "");
}

#[test]
fn password_methods_are_those_of_the_rule() {
    let md5 = iambouncer::auth::md5::stored("hashed", "secret");
    let users = format!("\"app\" \"secret\"\n\"hashed\" \"{}\"\n", md5.as_str());
    let rules = "host plain all all password\nhost md all all md5\nhost scram all all scram-sha-256\n";
    let rules = WithRules::start(&["plain", "md", "scram"], rules, "", &users);
    let of_all = "password authentication failed";
    for (database, request, text) in
        [("plain", 3, of_all), ("md", 5, of_all), ("scram", 10, "SASL authentication failed")]
    {
        let mut client = Client::start(rules.bouncer.port, &[("user", "app"), ("database", database)]);
        let message = client.read().unwrap();
        assert_eq!((message.tag, message.bytes[8]), (b'R', request), "{database}");
        rules.tcp(database, "app", "secret").unwrap();
        for (user, password) in [("app", "wrong"), ("unknown_user", "secret")] {
            refused(rules.tcp(database, user, password), &format!("28P01 {text}"));
        }
    }
    rules.tcp("plain", "hashed", "secret").unwrap();
    rules.tcp("md", "hashed", "secret").unwrap();
    assert!(!rules.bouncer.log().contains("secret"));
}

#[test]
fn rules_apply_to_the_console_too() {
    let rules =
        WithRules::start(&["d"], "host pgbouncer postgres all trust\nhost d all all trust\n", "", USERS);
    assert_eq!(tags(&rules.bouncer.console().query("SHOW VERSION")), "TDCZ");
    refused(rules.tcp("pgbouncer", "other", "x"), NO_RULE);
}

#[test]
fn faulty_lines_are_skipped_with_a_warning_and_reload_reads_the_rules_again() {
    let faulty = "host d all all kerberos\nhost d other all trust\nlocal pgbouncer all trust\n\
                  host pgbouncer all all trust\nhost d app all trust map=absent\n";
    let rules = WithRules::start(&["d"], faulty, "", USERS);
    let line = rules.bouncer.wait_for_line("could not parse hba config line 1");
    assert!(line.contains("hba.conf: hba line 1: unsupported method: kerberos"), "{line}");
    rules.bouncer.wait_for_line("hba line 5: Ident map absent is not found in ident config file");
    rules.tcp("d", "other", "x").unwrap();
    refused(rules.tcp("d", "app", "x"), NO_RULE);
    let mut console = rules.bouncer.console();
    std::fs::write(rules.file("hba.conf"), "host d app all trust\nhost pgbouncer all all trust\n").unwrap();
    rules.tcp("d", "other", "x").unwrap();
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    rules.tcp("d", "app", "x").unwrap();
    refused(rules.tcp("d", "other", "x"), NO_RULE);
    // Without the file the old rules stay.
    std::fs::remove_file(rules.file("hba.conf")).unwrap();
    let error = console.query("RELOAD")[0].detail();
    assert!(error.contains("could not open hba config file"), "{error}");
    rules.tcp("d", "app", "x").unwrap();
    refused(rules.tcp("d", "other", "x"), NO_RULE);
}

#[test]
fn a_missing_file_is_an_error_at_start_and_in_check() {
    let dir = tempfile::tempdir().unwrap();
    let ini = dir.path().join("p.ini");
    let text = |file: &Path| {
        format!(
            "[databases]\nd = host=h\n[pgbouncer]\nauth_type = hba\nauth_hba_file = {}\nlisten_addr = 127.0.0.1\n\
             listen_port = 0\nunix_socket_dir =\nhttp_port = 0\n",
            file.display()
        )
    };
    let run = |arguments: &[&str]| {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let output = crate::support::bouncer::command(&arguments, &[]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(&ini, text(Path::new("/nonexistent/hba.conf"))).unwrap();
    for arguments in [&["check", ini.to_str().unwrap()][..], &[ini.to_str().unwrap()]] {
        let (is_ok, errors) = run(arguments);
        assert!(
            !is_ok && errors.contains("could not open hba config file /nonexistent/hba.conf"),
            "{errors}"
        );
    }
    let hba = dir.path().join("hba.conf");
    std::fs::write(&hba, "local all all nonsense\nhostssl all all all cert\n").unwrap();
    std::fs::write(&ini, text(&hba)).unwrap();
    let (is_ok, warnings) = run(&["check", ini.to_str().unwrap()]);
    assert!(is_ok && warnings.contains("hba line 1: unsupported method: nonsense"), "{warnings}");
    assert!(warnings.contains("hba line 2: cert refuses every client without"), "{warnings}");
}

#[test]
fn the_method_can_be_set_on_the_console() {
    let rules = "host pgbouncer all all trust\nhost d app all trust\n";
    let rules = WithRules::start_with(&["d"], rules, "", USERS, |start| start.set("auth_type = trust"));
    let mut console = rules.bouncer.console();
    rules.tcp("d", "other", "x").unwrap();
    assert_eq!(tags(&console.query("SET auth_type = 'hba'")), "CZ");
    rules.tcp("d", "app", "x").unwrap();
    refused(rules.tcp("d", "other", "x"), NO_RULE);
    assert_eq!(tags(&console.query("SET auth_type = 'trust'")), "CZ");
    rules.tcp("d", "other", "x").unwrap();
}

#[test]
fn a_certificate_of_another_authority_is_refused_although_none_is_needed() {
    let rules = WithRules::start(&["d"], "host d all all trust\n", "", USERS);
    rules.tls("d", "app", "x").unwrap();
    let stranger = rules.side.config_with_certificate(&client_identity("app"));
    let outcome = TlsClient::connect(rules.bouncer.port, stranger).and_then(|mut client| {
        let mut packet = Vec::new();
        let parameters = [("user", "app"), ("database", "d")];
        encode::startup(&mut packet, wire::startup::Version::V3_0, &parameters);
        client.send(&packet)?;
        client.read()
    });
    assert!(outcome.is_err());
    rules.bouncer.wait_for_line("TLS handshake with client failed");
}
