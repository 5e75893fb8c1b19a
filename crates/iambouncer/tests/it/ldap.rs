//! `auth_type = ldap`, and `ldap` in HBA rules, with a real OpenLDAP server: both ways to find a user, TLS, names that
//! need escaping, servers that do not answer, and the password in logins to PostgreSQL.

use crate::hba::WithRules;
use crate::login::{log_in_with_clear_text as log_in, strict_server};
use crate::support::bouncer::Start;
use crate::support::slapd::{BASE, READER, READER_PASSWORD, Slapd, UNCERTIFIED};
use crate::support::{Bouncer, eventually, postgres};
use std::io::Read;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const FAILED: &str = "28000 LDAP authentication failed";

fn start<'a>(line: &'a str, options: &str) -> Start<'a> {
    Start::databases(line)
        .set("auth_type = ldap")
        .set(&format!("auth_ldap_options = {options}"))
        .users("\"postgres\" \"\"\n")
}

/// One database, with a user of its own on the server.
fn line() -> String {
    format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port())
}

fn pooler(options: &str) -> Bouncer {
    start(&line(), options).start()
}

#[track_caller]
fn refused(bouncer: &Bouncer, user: &str, password: &str) {
    let error = log_in(bouncer.port, user, password).err();
    assert_eq!(error.as_deref(), Some(FAILED), "{user} {password}");
}

#[test]
fn a_bind_as_the_user_verifies_the_password() {
    let slapd = Slapd::start();
    let bouncer = pooler(&slapd.affixes());
    assert_eq!(log_in(bouncer.port, "app", "secret").unwrap().value("SELECT 1"), "1");
    log_in(bouncer.port, "other", "second").unwrap();
    // Written in the name of an entry, these characters have a meaning.
    log_in(bouncer.port, "a,b+c", "odd").unwrap();
    let wrong = [
        ("app", "wrong"),
        ("app", "second"),
        ("unknown_user", "secret"),
        ("hidden,ou=closed", "third"),
        ("app", ""),
    ];
    for (user, password) in wrong {
        refused(&bouncer, user, password);
    }
    assert!(!bouncer.log().contains("secret") && !bouncer.log().contains("second"), "{}", bouncer.log());
}

#[test]
fn a_search_finds_the_user_to_bind_as() {
    let slapd = Slapd::start();
    let bouncer = pooler(&slapd.search());
    log_in(bouncer.port, "app", "secret").unwrap();
    log_in(bouncer.port, "a,b+c", "odd").unwrap();
    // `*` would match every entry with a uid.
    for (user, password) in [
        ("app", "wrong"),
        ("app", ""),
        ("*", "secret"),
        ("ap*", "secret"),
        ("app)(cn=app", "secret"),
        ("hidden", "third"),
    ] {
        refused(&bouncer, user, password);
    }
    bouncer.wait_for_line("LDAP login failed for user uid=app,dc=example,dc=net on server localhost");
}

#[test]
fn a_search_may_need_an_identity_and_have_a_filter() {
    let slapd = Slapd::start();
    let reader = format!("ldapbinddn=\"{READER}\" ldapbindpasswd=\"{READER_PASSWORD}\"");
    let bouncer = pooler(&format!("{} {reader}", slapd.search()));
    log_in(bouncer.port, "hidden", "third").unwrap();
    log_in(bouncer.port, "app", "secret").unwrap();
    refused(&bouncer, "hidden", "secret");
    assert!(!bouncer.log().contains(READER_PASSWORD));

    let wrong = pooler(&format!("{} ldapbinddn=\"{READER}\" ldapbindpasswd=wrong", slapd.search()));
    refused(&wrong, "app", "secret");
    wrong.wait_for_line("could not perform initial LDAP bind for ldapbinddn");

    let filter = "ldapsearchfilter=\"(|(mail=$username@example.net)(uid=$username))\"";
    let filtered = pooler(&format!("{} {filter}", slapd.search()));
    log_in(filtered.port, "app", "secret").unwrap();
    // Both entries have this address.
    refused(&filtered, "shared", "secret");
    filtered.wait_for_line("LDAP user is not unique");

    let attribute = pooler(&format!("{} ldapsearchattribute=mail", slapd.search()));
    log_in(attribute.port, "app@example.net", "secret").unwrap();
    refused(&attribute, "app", "secret");
    attribute.wait_for_line("LDAP user does not exist");

    let url = pooler(&format!("ldapurl=\"ldap://localhost:{}/{BASE}?uid?sub\"", slapd.port));
    log_in(url.port, "app", "secret").unwrap();
    // Without a scope only the base entry is searched.
    let base = pooler(&format!("ldapurl=\"ldap://localhost:{}/{BASE}?uid\"", slapd.port));
    refused(&base, "app", "secret");
}

/// Options with StartTLS, and with TLS from the start.
fn with_tls(slapd: &Slapd) -> [String; 2] {
    let affixes = format!("ldapprefix=\"uid=\" ldapsuffix=\",{BASE}\"");
    [
        format!("ldapserver=localhost ldapport={} ldaptls=1 {affixes}", slapd.port),
        format!("ldapserver=localhost ldapport={} ldapscheme=ldaps {affixes}", slapd.tls_port),
    ]
}

#[test]
fn tls_verifies_the_server_unless_the_environment_says_otherwise() {
    let (slapd, other) = (Slapd::start(), Slapd::start());
    let [own_authority, other_authority] =
        [&slapd, &other].map(|slapd| slapd.authority_file().display().to_string());
    for options in with_tls(&slapd) {
        for variable in [("LDAPTLS_CACERT", own_authority.as_str()), ("LDAPTLS_REQCERT", "never")] {
            let bouncer = start(&line(), &options).env(variable.0, variable.1).start();
            log_in(bouncer.port, "app", "secret").unwrap();
            refused(&bouncer, "app", "wrong");
        }
        let file = slapd.authority_file().with_file_name("ldap.conf");
        std::fs::write(&file, format!("TLS_CACERT {own_authority}\nTLS_REQCERT demand\n")).unwrap();
        let bouncer = start(&line(), &options).env("LDAPCONF", file.to_str().unwrap()).start();
        log_in(bouncer.port, "app", "secret").unwrap();
        let bouncer = start(&line(), &options).env("LDAPTLS_CACERT", &other_authority).start();
        refused(&bouncer, "app", "secret");
        bouncer.wait_for_line("could not connect to LDAP server localhost");
    }
    for options in with_tls(&slapd) {
        let options = options.replace("localhost", UNCERTIFIED);
        let bouncer = start(&line(), &options).env("LDAPTLS_CACERT", &own_authority).start();
        refused(&bouncer, "app", "secret");
        bouncer.wait_for_line("could not connect to LDAP server 127.0.0.2");
        let bouncer = start(&line(), &options).env("LDAPTLS_REQCERT", "allow").start();
        log_in(bouncer.port, "app", "secret").unwrap();
    }
}

#[test]
fn the_next_server_is_asked_if_one_cannot_be_reached() {
    let slapd = Slapd::start();
    // Nothing listens on this address at the port.
    let options = slapd.affixes().replace("ldapserver=localhost", "ldapserver=\"127.0.0.3 localhost\"");
    let bouncer = pooler(&options);
    log_in(bouncer.port, "app", "secret").unwrap();
    refused(&bouncer, "app", "wrong");
    drop(slapd);
    // One line of a kind is logged per second, so this needs a pooler of its own.
    let bouncer = pooler(&options);
    refused(&bouncer, "app", "secret");
    bouncer.wait_for_line("could not connect to LDAP server localhost");
}

/// A server that accepts connections and never answers.
pub(crate) struct SilentServer {
    pub(crate) port: u16,
    /// Number of open connections.
    pub(crate) open: Arc<AtomicUsize>,
    /// When each connection was accepted.
    pub(crate) accepted: Arc<Mutex<Vec<Instant>>>,
}

impl SilentServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Self { port, open: Arc::default(), accepted: Arc::default() };
        let (open, accepted) = (server.open.clone(), server.accepted.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let open = open.clone();
                accepted.lock().unwrap().push(Instant::now());
                open.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    let mut bytes = [0; 1024];
                    while matches!(stream.read(&mut bytes), Ok(1..)) {}
                    open.fetch_sub(1, SeqCst);
                });
            }
        });
        server
    }
}

#[test]
fn a_silent_server_delays_only_its_own_clients_and_a_bounded_number_of_them() {
    const MAX_LDAP_LOGINS: usize = 16;
    const MORE: usize = 4;
    // The pooler gives up a request after three seconds; threads of this test may be late.
    const SHORTEST_WAIT: Duration = Duration::from_secs(1);
    let server = SilentServer::start();
    let rules = format!(
        "host app app all trust\nhost app all all ldap ldapserver=127.0.0.1 ldapport={} ldapprefix=\"uid=\"\n\
         host pgbouncer all all trust\n",
        server.port
    );
    let rules = WithRules::start(&["app"], &rules, "", "\"app\" \"\"\n\"postgres\" \"\"\n");
    let port = rules.bouncer.port;
    let waiting: Vec<_> = (0..MAX_LDAP_LOGINS + MORE)
        .map(|n| std::thread::spawn(move || log_in(port, &format!("u{n}"), "password").err()))
        .collect();
    eventually("all places are taken", || server.open.load(SeqCst) == MAX_LDAP_LOGINS);
    assert_eq!(rules.bouncer.client().value("SELECT 1"), "1");
    for login in waiting {
        assert_eq!(login.join().unwrap().as_deref(), Some(FAILED));
    }
    eventually("all connections are closed", || server.open.load(SeqCst) == 0);
    let accepted = server.accepted.lock().unwrap();
    assert_eq!(accepted.len(), MAX_LDAP_LOGINS + MORE);
    // The next one waited for the end of another.
    assert!(accepted[MAX_LDAP_LOGINS] - accepted[0] >= SHORTEST_WAIT);
}

#[test]
fn rules_can_select_ldap() {
    let slapd = Slapd::start();
    let rules = format!(
        "host pgbouncer all all trust\nhost app app all ldap {}\nhost app all all ldap {}\n",
        slapd.affixes(),
        slapd.search()
    );
    let rules = WithRules::start(&["app"], &rules, "", "\"postgres\" \"\"\n");
    log_in(rules.bouncer.port, "app", "secret").unwrap();
    log_in(rules.bouncer.port, "other", "second").unwrap();
    refused(&rules.bouncer, "app", "second");
    refused(&rules.bouncer, "other", "secret");
}

#[test]
fn the_verified_password_is_used_for_logins_to_the_server() {
    let slapd = Slapd::start();
    for method in ["password", "scram-sha-256"] {
        let server = strict_server(method, "scram-sha-256");
        let line = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
        let bouncer = start(&line, &slapd.affixes()).start();
        let mut client = log_in(bouncer.port, "app", "secret").unwrap();
        assert_eq!(client.value("SELECT current_user"), "app", "{method}");
        refused(&bouncer, "app", "wrong");
    }
}

#[test]
fn options_are_checked_and_never_shown() {
    let slapd = Slapd::start();
    let rules = "host pgbouncer all all trust\nhost app all all trust\n";
    let rules = WithRules::start(&["app"], rules, "", "\"app\" \"\"\n\"postgres\" \"\"\n");
    let mut console = rules.bouncer.console();
    let mut set = |setting: &str| {
        let answer = console.query(&format!("SET {setting}"));
        (answer[0].tag == b'E').then(|| answer[0].detail())
    };
    assert_eq!(set("auth_type = ldap").as_deref(), Some("auth_type = ldap needs auth_ldap_options"));
    let wrong = set("auth_ldap_options = 'ldapserver=h ldapbindpasswd=hunter2'").unwrap();
    assert!(wrong.contains("ldapbasedn") && !wrong.contains("hunter2"), "{wrong}");
    assert_eq!(set(&format!("auth_ldap_options = '{} ldapbindpasswd=\"\"\"\"'", slapd.search())), None);
    assert_eq!(set(&format!("auth_ldap_options = '{}'", slapd.affixes())), None);
    let keys = console.column("SHOW CONFIG", "key");
    let at = keys.iter().position(|key| key == "auth_ldap_options").unwrap();
    assert_eq!(console.column("SHOW CONFIG", "value")[at], "***");
    assert_eq!(console.query("SET auth_type = ldap")[0].tag, b'C');
    log_in(rules.bouncer.port, "app", "secret").unwrap();
    refused(&rules.bouncer, "app", "wrong");
    assert!(!rules.bouncer.log().contains("hunter2"));
}
