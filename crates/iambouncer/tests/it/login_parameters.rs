//! Startup parameters of a client, and the values reported to it.

use crate::support::bouncer::Start;
use crate::support::raw::{Client, Message};
use crate::support::{Bouncer, postgres};

/// Everything that servers report; `default_transaction_read_only` and `in_hot_standby` since version 14,
/// `scram_iterations` since 16, `search_path` since 18.
const NAMES: [&str; 15] = [
    "client_encoding",
    "DateStyle",
    "TimeZone",
    "IntervalStyle",
    "standard_conforming_strings",
    "application_name",
    "is_superuser",
    "session_authorization",
    "server_version",
    "server_encoding",
    "integer_datetimes",
    "default_transaction_read_only",
    "in_hot_standby",
    "scram_iterations",
    "search_path",
];

fn reports(client: &Client) -> Vec<(&'static str, Option<String>)> {
    NAMES.iter().map(|name| (*name, client.reported(name))).collect()
}

#[test]
fn values_are_reported_in_the_spelling_of_the_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    for (name, value) in [
        ("client_encoding", "utf8"),
        ("client_encoding", "Unicode"),
        ("client_encoding", "latin-1"),
        ("client_encoding", "'iso8859-15'"),
        ("client_encoding", "win1252"),
        ("client_encoding", "koi8"),
        ("client_encoding", "euc_jp"),
        ("client_encoding", "SHIFT_JIS"),
        ("DateStyle", "iso"),
        ("datestyle", "german"),
        ("DateStyle", "sql,european"),
        ("DateStyle", "postgres, ymd"),
        ("TimeZone", "utc"),
        ("IntervalStyle", "ISO_8601"),
        ("standard_conforming_strings", "TRUE"),
        ("application_name", "x"),
        ("application_name", "caf\u{e9}\n"),
        ("search_path", "tenant, \"$user\""),
    ] {
        let parameters = [("user", "app"), ("database", "app"), (name, value)];
        let mut direct = Client::log_in_with(postgres().port(), &parameters);
        let mut pooled = Client::log_in_with(bouncer.port, &parameters);
        assert_eq!(reports(&pooled), reports(&direct), "{name} = {value}");
        // The server has the value without a further SET.
        let show = format!("SHOW {name}");
        assert_eq!(pooled.value(&show), direct.value(&show), "{name} = {value}");
    }
}

#[test]
fn every_parameter_that_the_server_reports_is_reported_to_clients() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut direct = Client::log_in(postgres().port(), "app", "app");
    let names: Vec<String> = direct.greeting.iter().filter_map(reported_name).collect();
    let pooled = bouncer.client();
    for name in &names {
        assert!(NAMES.contains(&name.as_str()), "{name} is new");
        assert_eq!(pooled.reported(name), direct.reported(name), "{name}");
    }
    let version: u32 = direct.value("SHOW server_version_num").parse().unwrap();
    assert_eq!(names.iter().any(|name| name == "search_path"), version >= 180_000);
}

fn reported_name(message: &Message) -> Option<String> {
    let is_report = message.tag == b'S';
    is_report.then(|| wire::backend::parameter_status(&message.bytes).unwrap().0.to_owned())
}

#[test]
fn session_authorization_and_is_superuser_are_the_servers_values() {
    let server = postgres();
    let databases = format!(
        "app = host=127.0.0.1 port={0}\nroot = host=127.0.0.1 port={0} dbname=app user=postgres",
        server.port()
    );
    let bouncer = Start::databases(&databases).start();
    let plain = bouncer.client();
    assert_eq!(plain.reported("is_superuser").as_deref(), Some("off"));
    assert_eq!(plain.reported("session_authorization").as_deref(), Some("app"));
    let forced = Client::log_in(bouncer.port, "app", "root");
    assert_eq!(forced.reported("is_superuser").as_deref(), Some("on"));
    assert_eq!(forced.reported("session_authorization").as_deref(), Some("postgres"));
}

#[test]
fn tracked_parameters_in_options_apply_where_options_are_ignored() {
    let bouncer = Bouncer::in_front_of(postgres(), &["ignore_startup_parameters = options"]);
    let options = "-c TimeZone=Asia/Tokyo -c geqo=off --datestyle=SQL -e -c";
    let mut client =
        Client::log_in_with(bouncer.port, &[("user", "app"), ("database", "app"), ("options", options)]);
    assert_eq!(client.reported("TimeZone").as_deref(), Some("Asia/Tokyo"));
    assert_eq!(client.value("SHOW TimeZone"), "Asia/Tokyo");
    assert_eq!(client.value("SHOW DateStyle"), "SQL, MDY");
    assert_eq!(client.value("SHOW geqo"), "on");
    let strict = Bouncer::in_front_of(postgres(), &[]);
    let mut refused =
        Client::start(strict.port, &[("user", "app"), ("database", "app"), ("options", "-c geqo=off")]);
    assert_eq!(refused.read().unwrap().error().0, "08P01");
}

/// Sends an invalid first packet; returns the SQLSTATE of the answer, if any.
fn answer(port: u16, packet: &[u8]) -> Option<String> {
    let mut client = Client::connect(port);
    client.send(packet);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.read().map(|message| message.error().0)
}

#[test]
fn malformed_startup_packets_are_treated_as_by_postgresql() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let packets: [(&str, &[u8]); 10] = [
        ("no packet", b""),
        ("half a length", &[0, 0]),
        ("a length of nothing", &[0, 0, 0, 0]),
        ("too short", &[0, 0, 0, 7, 0, 3, 0]),
        ("too long", &[0, 1, 0, 0, 0, 3, 0, 0]),
        ("less than announced", &[0, 0, 0, 20, 0, 3, 0, 0, b'u']),
        ("a cancel request without a key", &[0, 0, 0, 8, 4, 210, 22, 46]),
        ("a name without a value", b"\0\0\0\x0e\0\x03\0\0user\0\0"),
        ("a cancel request with half a key", &[0, 0, 0, 14, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0]),
        ("no user", b"\0\0\0\x09\0\x03\0\0\0"),
    ];
    for (what, packet) in packets {
        assert_eq!(answer(bouncer.port, packet), answer(postgres().port(), packet), "{what}");
    }
}

#[test]
fn an_ignored_startup_parameter_is_ignored_although_it_is_tracked() {
    let bouncer = Bouncer::in_front_of(postgres(), &["ignore_startup_parameters = timezone, intervalstyle"]);
    let parameters = [
        ("user", "app"),
        ("database", "app"),
        ("TimeZone", "Asia/Tokyo"),
        ("DateStyle", "german"),
        ("options", "-c intervalstyle=iso_8601"),
    ];
    let mut client = Client::log_in_with(bouncer.port, &parameters);
    let mut plain = bouncer.client();
    for name in ["TimeZone", "IntervalStyle"] {
        assert_eq!(client.value(&format!("SHOW {name}")), plain.value(&format!("SHOW {name}")), "{name}");
    }
    assert!(client.value("SHOW DateStyle").starts_with("German"));
}

#[test]
fn an_option_without_a_name_is_refused() {
    let bouncer = Bouncer::in_front_of(postgres(), &["ignore_startup_parameters = extra_float_digits"]);
    for options in ["-c=", "--=", "-c =", "-c"] {
        let parameters = [("user", "app"), ("database", "app"), ("options", options)];
        let mut client = Client::start(bouncer.port, &parameters);
        assert_eq!(client.until_end().pop().unwrap().error().0, "08P01", "{options}");
    }
}
