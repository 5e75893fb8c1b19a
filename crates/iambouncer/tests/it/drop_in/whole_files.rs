//! A whole set-up of PgBouncer in files: every setting and every form of a line of its documentation, a list of users,
//! rules and a map. Each rule has a login that it accepts and one that it refuses.

use crate::support::bouncer::Bouncer;
use crate::support::postgres;
use crate::support::raw::Client;
use crate::support::tls_client::{ClientSide, TlsClient};
use std::path::Path;
use std::process::Command;

const FILES: [(&str, &str); 6] = [
    ("pgbouncer.ini", include_str!("files/pgbouncer.ini")),
    ("limits.ini", include_str!("files/limits.ini")),
    ("hba.conf", include_str!("files/hba.conf")),
    ("ident.conf", include_str!("files/ident.conf")),
    ("userlist.txt", include_str!("files/userlist.txt")),
    ("names", include_str!("files/names")),
];
const SASL: &str = "28P01 SASL authentication failed";
const PASSWORD: &str = "28P01 password authentication failed";

/// The name of the account or group that runs the test.
fn own_name(option: &str) -> String {
    let output = Command::new("id").arg(option).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A pooler with all files in one directory.
struct Site {
    bouncer: Bouncer,
    side: ClientSide,
}

impl Site {
    fn start() -> Self {
        let side = ClientSide::new();
        let dir = tempfile::tempdir().unwrap();
        let md5 = iambouncer::auth::md5::stored("other", "hashed secret");
        for (name, text) in FILES {
            let text = text
                .replace("DIR", &dir.path().display().to_string())
                .replace("SOCKETS", &postgres().socket_dir().display().to_string())
                .replace("SERVER", &postgres().port().to_string())
                .replace("listen_port = PORT", "listen_port = 0")
                .replace("GROUP", &own_name("-gn"))
                .replace("ACCOUNT", &own_name("-un"))
                .replace("user = USER", &format!("user = {}", own_name("-un")))
                .replace("md5MD5HASH", &md5);
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        for (from, to) in [("cert.pem", "server.pem"), ("key.pem", "server.key"), ("ca.pem", "ca.pem")] {
            std::fs::copy(side.dir.path().join(from), dir.path().join(to)).unwrap();
        }
        let file = dir.path().join("pgbouncer.ini").display().to_string();
        Self { bouncer: Bouncer::spawn(&[file], &[], dir), side }
    }

    fn dir(&self) -> &Path {
        self.bouncer.dir()
    }

    /// A login with psql, over TCP unless another host is given, and a query.
    fn psql(&self, host: &str, database: &str, user: &str, password: &str) -> Result<(), String> {
        let target = format!("host={host} port={} dbname='{database}' user={user}", self.bouncer.port);
        let output = Command::new("psql")
            .env("PGPASSWORD", password)
            .args(["-w", "-At", "-c", "SELECT 1", "-v", "VERBOSITY=verbose", &target])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(text) }
    }

    #[track_caller]
    fn accepts(&self, database: &str, user: &str, password: &str) {
        self.psql("127.0.0.1", database, user, password).unwrap();
    }

    #[track_caller]
    fn refuses(&self, database: &str, user: &str, password: &str, reason: &str) {
        let text = self.psql("127.0.0.1", database, user, password).unwrap_err();
        let message = reason.split_once(' ').unwrap().1;
        assert!(text.contains(message), "{database} {user}: {text}");
    }
}

/// The settings of a file, without sections whose lines are not settings.
fn settings(text: &str) -> Vec<(&str, &str)> {
    let (_, lines) = text.split_once("[pgbouncer]").unwrap();
    lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .collect()
}

#[test]
fn every_setting_of_the_files_is_in_force() {
    let site = Site::start();
    let mut console = Client::log_in(site.bouncer.port, "postgres", "pgbouncer");
    let keys = console.column("SHOW CONFIG", "key");
    let values = console.column("SHOW CONFIG", "value");
    let mut given = settings(FILES[0].1);
    given.extend(settings(FILES[1].1));
    assert!(given.len() > 95, "{}", given.len());
    for (key, value) in given {
        let at = keys.iter().position(|known| known == key).unwrap_or_else(|| panic!("{key} is not shown"));
        // The test has replaced some values, and this one may contain a password.
        let is_replaced = ["DIR", "PORT", "GROUP", "USER"].iter().any(|word| value.contains(word));
        let expected = if key == "auth_ldap_options" { "***" } else { value };
        assert!(is_replaced || values[at] == expected, "{key} = {value} is shown as {}", values[at]);
    }
    let errors = site.bouncer.log();
    assert!(!errors.contains("error:") && !errors.contains("hba line"), "{errors}");
}

#[test]
fn each_rule_accepts_a_login_and_refuses_another() {
    let site = Site::start();
    let socket = site.dir().display().to_string();
    site.psql(&socket, "plain", "app", "").unwrap();
    let text = site.psql(&socket, "plain", "other", "").unwrap_err();
    assert!(text.contains("unix socket login rejected"), "{text}");

    site.refuses("rejected", "app", "it's secret", "28000 login rejected");
    site.accepts("rejected", "other", "");

    let port = site.bouncer.port;
    let certificate = |user: &str| {
        let config = site.side.config_with_certificate(&site.side.identity);
        TlsClient::log_in(port, config, user, "certified").map(|_| ())
    };
    certificate("app").unwrap();
    assert!(certificate("other").is_err());

    for database in ["plain", "quoted name"] {
        site.accepts(database, "app", "it's secret");
        site.refuses(database, "app", "wrong", SASL);
        site.refuses(database, "other", "hashed secret", "28000 no authentication method is found");
    }
    site.accepts("quoted_values", "other", "hashed secret");
    site.refuses("quoted_values", "other", "wrong", PASSWORD);
    site.accepts("two_hosts", "app", "it's secret");
    site.refuses("two_hosts", "other", "wrong", PASSWORD);
    site.accepts("every_key", "app", "it's secret");
    site.refuses("every_key", "other", "hashed secret", "28000 no authentication method is found");
    site.accepts("app", "app", "");
    site.refuses("app", "other", "", "28000 no authentication method is found");
    Client::log_in(port, "postgres", "pgbouncer").column("SHOW STATE", "key");
    site.refuses("pgbouncer", "app", "it's secret", "28000 no authentication method is found");
}

#[test]
fn each_line_of_databases_is_usable() {
    let site = Site::start();
    let socket = site.dir().display().to_string();
    for database in
        ["plain", "quoted_values", "quoted name", "indented", "socket", "two_hosts", "every_key", "app"]
    {
        site.psql(&socket, database, "app", "").unwrap();
    }
    let mut console = Client::log_in(site.bouncer.port, "postgres", "pgbouncer");
    let names = console.column("SHOW DATABASES", "name");
    assert!(names.iter().any(|name| name == "quoted name"), "{names:?}");
    assert_eq!(console.column("SHOW PEERS", "peer_id"), ["1", "2"]);
    let users = console.column("SHOW USERS", "name");
    assert!(users.iter().any(|name| name == "with \"quotes\""), "{users:?}");
}
