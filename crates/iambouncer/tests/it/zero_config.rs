//! Starts without a configuration file: common sets of environment variables, an endpoint as argument, what
//! is logged at startup and what is refused. Also `check`, which reads a file without starting.

use crate::support::program::{self, EXIT_CONFIGURATION, ProgramOutput};
use crate::support::raw::tags;
use crate::support::sim::{REGION, Sim};
use crate::support::{Bouncer, Client, postgres};
use std::net::TcpListener;

type Variables = Vec<(String, String)>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Starts without a file. The environment always contains an AWS key, the simulator's CA and a free listen
/// port.
fn start(sim: &Sim, arguments: &[&str], pairs: &[(&str, &str)]) -> Bouncer {
    let mut environment = variables(pairs);
    environment.extend(sim.environment());
    environment.push(("IAMBOUNCER_SERVER_TLS_CA_FILE".to_owned(), sim.ca_file().display().to_string()));
    environment.push(("IAMBOUNCER_LISTEN_PORT".to_owned(), "0".to_owned()));
    environment.push(("IAMBOUNCER_HTTP_PORT".to_owned(), "0".to_owned()));
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    Bouncer::spawn(&arguments, &environment, tempfile::tempdir().unwrap())
}

/// Expects that every client user is served as the configured one, and every database name as the configured
/// one.
fn assert_serves_all_users(bouncer: &Bouncer) {
    for (user, database) in [("app", "app"), ("anyone", "app"), ("Other User", "another")] {
        let mut client = Client::log_in(bouncer.port, user, database);
        let both = client.value("SELECT current_user || '@' || current_database()");
        assert_eq!(both, "app@app", "{user} {database}");
    }
}

/// Expects that the startup log gives the source of each value before it reports ready.
fn assert_log_explains(bouncer: &Bouncer, lines: &[String]) {
    let log = bouncer.log();
    let ready = log.lines().position(|line| line.contains("ready: accepting connections on 127.0.0.1:"));
    let ready = ready.unwrap_or_else(|| panic!("{log}"));
    for expected in lines {
        let at = log.lines().position(|line| line.ends_with(expected.as_str()));
        assert!(at.is_some_and(|at| at < ready), "{expected}\nin\n{log}");
    }
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn rds_host_variables_are_sufficient() {
    let sim = Sim::in_front_of(postgres());
    let port = sim.port().to_string();
    let pairs = [
        ("RDS_HOST", "localhost"),
        ("AWS_REGION", REGION),
        ("DB_USERNAME", "app"),
        ("DB_NAME", "app"),
        ("DB_PORT", &port),
    ];
    let bouncer = start(&sim, &[], &pairs);
    assert_serves_all_users(&bouncer);
    assert_log_explains(
        &bouncer,
        &[
            "host = localhost (from RDS_HOST)".to_owned(),
            format!("port = {port} (from DB_PORT)"),
            "user = app (from DB_USERNAME)".to_owned(),
            "database = app (from DB_NAME)".to_owned(),
            format!("iam_region_fallback = {REGION} (from AWS_REGION)"),
            "server_auth = iam (default without a file)".to_owned(),
            "server_tls_sslmode = verify-full (default without a file)".to_owned(),
            "listen_port = 0 (from IAMBOUNCER_LISTEN_PORT)".to_owned(),
        ],
    );
}

#[test]
fn aws_iam_variables_are_sufficient() {
    let sim = Sim::in_front_of(postgres());
    let port = sim.port().to_string();
    let pairs = [
        ("AWS_IAM", "true"),
        ("AWS_RDS_REGION", REGION),
        ("DB_NAME", "app"),
        ("DB_USER", "app"),
        ("DB_HOST", "localhost"),
        ("DB_PORT", &port),
    ];
    let bouncer = start(&sim, &[], &pairs);
    assert_serves_all_users(&bouncer);
    assert_log_explains(
        &bouncer,
        &[
            "server_auth = iam (from AWS_IAM)".to_owned(),
            format!("iam_region = {REGION} (from AWS_RDS_REGION)"),
            "host = localhost (from DB_HOST)".to_owned(),
            "user = app (from DB_USER)".to_owned(),
        ],
    );
}

#[test]
fn the_startup_parameters_of_usual_drivers_are_accepted_without_a_setting() {
    let sim = Sim::in_front_of(postgres());
    let port = sim.port().to_string();
    let words = ["localhost", "--user", "app", "--database", "app", "--port", &port, "--region", REGION];
    let bouncer = start(&sim, &words, &[]);
    let parameters =
        [("user", "any"), ("database", "app"), ("extra_float_digits", "2"), ("TimeZone", "Asia/Tokyo")];
    assert_eq!(Client::log_in_with(bouncer.port, &parameters).value("SHOW TimeZone"), "Asia/Tokyo");
}

#[test]
fn an_endpoint_and_flags_are_sufficient() {
    let sim = Sim::in_front_of(postgres());
    let port = sim.port().to_string();
    let words = ["localhost", "--user", "app", "--database", "app", "--port", &port, "--region", REGION];
    let bouncer = start(&sim, &words, &[]);
    assert_serves_all_users(&bouncer);
    assert_log_explains(
        &bouncer,
        &[
            "host = localhost (from the command line)".to_owned(),
            "user = app (from --user)".to_owned(),
            format!("iam_region = {REGION} (from --region)"),
        ],
    );
}

#[test]
fn a_variable_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pooler.ini");
    let port = postgres().port();
    let lines = [
        format!("[databases]\napp = host=127.0.0.1 port={port} user=app\n[pgbouncer]"),
        "auth_type = any\nlisten_addr = 127.0.0.1\nlisten_port = 0\nhttp_port = 0\nunix_socket_dir =\n"
            .to_owned(),
    ];
    std::fs::write(&file, lines.join("\n")).unwrap();
    // Variables for a start without a file have no effect, nor does that of the health check.
    let pairs = [
        ("IAMBOUNCER_CONFIG", file.to_str().unwrap()),
        ("RDS_HOST", "nowhere.invalid"),
        ("IAMBOUNCER_HTTP", "127.0.0.1:9127"),
    ];
    let bouncer = Bouncer::spawn(&[], &variables(&pairs), tempfile::tempdir().unwrap());
    assert_eq!(Client::log_in(bouncer.port, "app", "app").value("SELECT 1"), "1");
}

#[test]
fn the_poolers_own_listener_is_refused_as_the_database() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    for host in ["localhost", "127.0.0.1"] {
        let words = [host, "--user", "app", "--port", &free, "--listen-port", &free, "--region", REGION];
        let ProgramOutput { code, stderr, .. } = program::run(&words, &[]);
        assert_eq!(code, Some(EXIT_CONFIGURATION), "{stderr}");
        assert!(stderr.contains("own listener") && stderr.contains(&free), "{stderr}");
    }
}

/// What cannot be detected earlier is refused when the connection is made.
#[test]
fn the_poolers_own_listener_after_a_reload_is_refused_at_login() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let own = text.replace(&format!("port={}", postgres().port()), &format!("port={}", bouncer.port));
    std::fs::write(bouncer.ini(), own).unwrap();
    bouncer.console().query("RELOAD");
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    let message = client.read().unwrap();
    let (code, text) = message.error();
    assert_eq!(code, "08001");
    assert!(text.contains("own listener") && message.hint().contains("own endpoint"), "{text}");
}

#[test]
fn a_database_line_may_point_to_the_poolers_own_console() {
    let bouncer = Bouncer::in_front_of(postgres(), &["admin_users = app, postgres"]);
    let mut text = std::fs::read_to_string(bouncer.ini()).unwrap();
    text = text.replace(
        "[databases]",
        &format!("[databases]\nstatus = host=127.0.0.1 port={} dbname=pgbouncer", bouncer.port),
    );
    std::fs::write(bouncer.ini(), text).unwrap();
    assert_eq!(tags(&bouncer.console().query("RELOAD")), "CZ");
    let mut client = Client::log_in(bouncer.port, "app", "status");
    assert_eq!(tags(&client.query("SHOW STATE")), "TDDDCZ");
    assert!(!bouncer.log().contains("own listener"), "{}", bouncer.log());
}

#[test]
fn a_missing_value_is_named_with_all_its_possible_sources() {
    let ProgramOutput { code, stderr, .. } = program::run(&[], &variables(&[("DB_USER", "app")]));
    assert_eq!(code, Some(EXIT_CONFIGURATION));
    assert!(stderr.starts_with("error: no host: neither ENDPOINT nor any of "), "{stderr}");
    assert!(stderr.contains("RDS_HOST") && stderr.contains("DB_HOST"), "{stderr}");
    let ProgramOutput { code, stderr, .. } = program::run(&["db.example"], &[]);
    assert_eq!(code, Some(EXIT_CONFIGURATION));
    assert!(stderr.starts_with("error: no user: neither --user"), "{stderr}");
}

#[test]
fn a_misspelled_variable_is_refused_with_a_suggestion() {
    let pairs = [("RDS_HOST", "db"), ("DB_USER", "app"), ("IAMBOUNCER_POOL_MOD", "session")];
    let ProgramOutput { code, stderr, .. } = program::run(&[], &variables(&pairs));
    assert_eq!(code, Some(EXIT_CONFIGURATION));
    assert!(stderr.contains("IAMBOUNCER_POOL_MOD") && stderr.contains("IAMBOUNCER_POOL_MODE?"), "{stderr}");
}

fn check(text: &str) -> ProgramOutput {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pooler.ini");
    std::fs::write(&file, text).unwrap();
    program::run(&["check", &file.display().to_string()], &[])
}

#[test]
fn check_accepts_a_valid_file() {
    let right = check("[databases]\napp = host=db.example\n[pgbouncer]\nauth_type = trust\n");
    assert_eq!(right.code, Some(0), "{right:?}");
    assert!(right.stdout.ends_with("pooler.ini: ok, 1 database\n"), "{right:?}");
}

#[test]
fn check_shows_the_position_of_an_error() {
    let wrong = check(
        "[databases]\napp = host=db.example\n[pgbouncer]\nauth_type = trust\ndefault_pool_size = many\n",
    );
    assert_eq!(wrong.code, Some(EXIT_CONFIGURATION), "{wrong:?}");
    let shown = "pooler.ini:5:21\n  |\n5 | default_pool_size = many\n  |                     ^^^^\n";
    assert!(wrong.stderr.contains(shown), "{}", wrong.stderr);
    let no_tls =
        check("[databases]\napp = host=db server_auth=iam\n[pgbouncer]\nserver_tls_sslmode = require\n");
    assert_eq!(no_tls.code, Some(EXIT_CONFIGURATION), "{no_tls:?}");
    assert!(no_tls.stderr.contains("help: set server_tls_sslmode = verify-full"), "{}", no_tls.stderr);
}
