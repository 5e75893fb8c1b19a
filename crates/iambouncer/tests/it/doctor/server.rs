//! Causes on the server's side: servers, and tokens signed for them incorrectly.

use super::{Case, Report};
use crate::support::postgres;
use crate::support::sim::{RDS_HOST, REGION, Sim};
use rds_sim::postgres::PostgresOptions;
use std::time::Duration;

/// IAM003.
#[test]
fn a_missing_policy_is_reported_with_the_arn_to_allow() {
    let case = Case::new();
    case.sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let report = case.report();
    let arn = format!("arn:aws:rds-db:{REGION}:123456789012:dbuser:<resource id>/app");
    report.expect_failure("login", "IAM003", &["PAM authentication failed", &arn, "iam-db-auth-error"]);
}

/// IAM004.
#[test]
fn a_role_outside_rds_iam_is_reported_before_a_token_is_sent() {
    let report = in_front_of_passwords("scram-sha-256");
    report.expect_failure("request", "IAM004", &["SCRAM", "GRANT rds_iam TO", "enable IAM database"]);
    assert!(report.ids("skipped").contains(&"login"));
}

#[test]
fn a_server_without_iam_authentication_is_reported() {
    let report = in_front_of_passwords("password");
    report.expect_failure("login", "IAM004", &["as a password", "enable IAM database"]);
}

/// A server where `app` has a password and is not an IAM user.
fn in_front_of_passwords(method: &str) -> Report {
    let hba = format!("local all postgres trust\nlocal all all {method}\n");
    let server = crate::support::postgres::start(PostgresOptions { hba: Some(hba), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    Case::with(Sim::for_users(&server, RDS_HOST, REGION, &[])).report()
}

/// IAM006.
#[test]
fn an_iam_user_without_encryption_is_reported() {
    let case = Case::new();
    let line = format!("app = host=localhost port={} dbname=app user=app password=secret", case.sim.port());
    let case = Case { settings: vec!["server_tls_sslmode = disable".to_owned()], ..case.line(line) };
    case.report().expect_failure("request", "IAM006", &["no encryption", "verify-full"]);
}

/// IAM007, IAM008, IAM012: the token is signed for something other than the server.
#[test]
fn a_token_for_another_name_port_or_region_is_reported() {
    let broken = |change: &dyn Fn(&str) -> String| {
        let case = Case::new();
        case.sim.simulator.faults().set(|faults| faults.refuse_next = 2);
        let line = change(&case.line);
        let port = case.sim.port();
        (case.line(line).report(), port)
    };
    let (report, port) = broken(&|line| {
        let line = line.replace(&format!("iam_host={RDS_HOST}"), &format!("iam_region={REGION}"));
        line.split_whitespace().filter(|word| !word.starts_with("iam_port=")).collect::<Vec<_>>().join(" ")
    });
    report.expect_failure("login", "IAM007", &[&format!("signed for localhost:{port}"), "iam_host"]);
    let (report, port) = broken(&|line| {
        line.split_whitespace().filter(|word| !word.starts_with("iam_port=")).collect::<Vec<_>>().join(" ")
    });
    report.expect_failure("login", "IAM008", &[&format!("signed for port {port}"), "iam_port"]);
    let (report, _) = broken(&|line| format!("{line} iam_region=eu-central-1"));
    report.expect_failure("login", "IAM012", &[REGION, "eu-central-1"]);
    let (report, _) = broken(&|line| line.replace(RDS_HOST, "db.example.com"));
    report.expect_failure(
        "token",
        "IAM033",
        &["db.example.com is not the name of an RDS endpoint", "iam_host"],
    );
    let other = RDS_HOST.replace("db.", "other.");
    let (report, _) = broken(&|line| line.replace(RDS_HOST, &other));
    report.expect_failure("tls", "IAM007", &["The server's certificate is for localhost, ", RDS_HOST]);
}

/// IAM011.
#[test]
fn a_password_for_a_user_that_needs_a_token_is_an_inherited_grant() {
    let case = Case::new();
    let line = format!("app = host=localhost port={} dbname=app user=app password=secret", case.sim.port());
    case.line(line).report().expect_failure("login", "IAM011", &["REVOKE rds_iam"]);
}

#[test]
fn the_roles_through_which_a_password_user_inherits_rds_iam_are_reported() {
    let server = crate::support::postgres::start(PostgresOptions::default());
    for sql in [
        "CREATE ROLE rds_iam",
        "CREATE ROLE workers IN ROLE rds_iam",
        "CREATE ROLE app LOGIN PASSWORD 'secret' IN ROLE workers",
        "CREATE ROLE small LOGIN PASSWORD 'secret' CONNECTION LIMIT 3",
    ] {
        server.sql(sql).unwrap();
    }
    let with = |user: &str| {
        let port = server.port();
        let line = format!("app = host=127.0.0.1 port={port} dbname=postgres user={user} password=secret");
        Case { settings: vec!["server_tls_sslmode = disable".to_owned()], ..Case::new().line(line) }.report()
    };
    with("app").expect_warning("sql", "IAM011", &["workers > rds_iam"]);
    with("small").expect_warning("sql", "IAM024", &["20 servers", "CONNECTION LIMIT allows 3"]);
}

/// IAM014.
#[test]
fn a_server_that_verifies_a_token_too_slowly_is_reported() {
    let case = Case::new().set("server_connect_timeout = 1");
    case.sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_secs(30));
    case.report().expect_failure("login", "IAM014", &["did not finish the login", "memory"]);
}

/// IAM017.
#[test]
fn an_untrusted_authority_is_named_with_the_certificate() {
    let case = Case::new();
    let stranger = Sim::in_front_of(postgres());
    let line = stranger.database() + " user=app";
    let parts = ["not a trusted authority", "The server's certificate is for localhost", "signed by CN="];
    case.line(line).report().expect_failure("tls", "IAM017", &parts);
    assert_eq!(stranger.simulator.log().attempts(), []);
}

#[test]
fn a_region_whose_authorities_are_not_built_in_is_reported() {
    let host = "db.c9akciq32rgh.il-central-1.rds.amazonaws.com";
    let sim = Sim::for_users(postgres(), host, "il-central-1", &["app"]);
    let dns = sim.dns();
    dns.set(host, crate::aliases::loopback());
    let port = sim.port();
    let case = Case::new();
    let settings =
        vec!["server_tls_sslmode = verify-full".to_owned(), format!("dns_server = {}", dns.address())];
    let line = format!("app = host={host} port={port} dbname=app user=app server_auth=iam");
    let report = Case { settings, ..case.line(line) }.report();
    report.expect_failure("tls", "IAM017", &["il-central-1 are not built in", "server_tls_ca_file = rds, "]);
}

/// IAM019.
#[test]
fn an_rds_proxy_is_reported_with_its_own_resource_id() {
    let host = "p.proxy-c9akciq32rgh.eu-west-1.rds.amazonaws.com";
    let sim = Sim::for_users(postgres(), host, REGION, &["app"]);
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let case = Case::with(sim);
    let line = case.line.replace(RDS_HOST, host);
    case.line(line).report().expect_failure("login", "IAM019", &["prx-"]);
}

/// IAM031, IAM032.
#[test]
fn an_unreachable_server_is_reported_by_the_step_that_fails() {
    // Nothing listens on the local port of an outgoing connection.
    let case = Case::new();
    let connection = std::net::TcpStream::connect(("127.0.0.1", case.sim.port())).unwrap();
    let port = connection.local_addr().unwrap().port();
    let line =
        format!("app = host=localhost port={port} dbname=app user=app server_auth=iam iam_host={RDS_HOST}");
    case.line(line).report().expect_failure("tcp", "IAM032", &["refused", "security groups"]);
    let line = format!(
        "app = host=nowhere.invalid port={port} dbname=app user=app server_auth=iam iam_host={RDS_HOST}"
    );
    Case::new().line(line).report().expect_failure("dns", "IAM031", &["nowhere.invalid"]);
}

/// IAM024, IAM025, IAM026.
#[test]
fn failures_other_than_iam_are_distinguished() {
    let case = Case::new();
    let line = case.line.replace("dbname=app", "dbname=nowhere");
    case.line(line).report().expect_failure("login", "IAM026", &["\"nowhere\"", "dbname="]);
    let case = Case::new();
    case.sim.simulator.faults().set(|faults| faults.drop_next = 9);
    case.report().expect_failure("tls", "IAM025", &["host and port"]);
}

/// IAM017, by expiry date.
#[test]
fn a_certificate_that_expired_or_expires_soon_is_reported_with_the_days() {
    let with = |days| {
        Case::with(Sim::with_certificate_until(Some(days), postgres(), RDS_HOST, REGION, &["app"])).report()
    };
    with(-3).expect_failure(
        "tls",
        "IAM017",
        &["certificate expired", "expired 3 days ago", "let RDS issue another one"],
    );
    with(5).expect_warning("tls", "IAM017", &["expires in ", " days", "expires soon"]);
}

/// IAM014, with the error of a server that is short of memory for the check.
#[test]
fn an_authentication_timeout_is_not_reported_as_a_missing_policy() {
    let case = Case::new();
    case.sim.simulator.faults().set(|faults| faults.time_out_next = 1);
    case.report().expect_failure("login", "IAM014", &["canceling authentication due to timeout", "memory"]);
}

/// IAM020, without any answer: the listener's queue is full, and further packets are dropped.
#[test]
fn a_server_that_drops_packets_is_reported_at_the_connection() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let mut queued = Vec::new();
    // The queue holds one connection, and Linux adds one.
    while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    let case = Case::new().set("server_connect_timeout = 1");
    let port = address.port();
    let line =
        format!("app = host=127.0.0.1 port={port} dbname=app user=app server_auth=iam iam_host={RDS_HOST}");
    case.line(line).report().expect_failure(
        "tcp",
        "IAM020",
        &["no connection was established", "security groups"],
    );
}

/// IAM023, IAM024.
#[test]
fn a_wrong_password_and_a_starting_server_are_distinguished() {
    let hba = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n".to_owned();
    let server = crate::support::postgres::start(PostgresOptions { hba: Some(hba), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    let port = server.port();
    let line = format!("app = host=127.0.0.1 port={port} dbname=postgres user=app password=wrong");
    let mut case = Case::new().line(line);
    case.settings = vec!["server_tls_sslmode = disable".to_owned()];
    case.report().expect_failure("login", "IAM023", &["password authentication failed", "auth_file"]);

    let sim = Sim::for_users(&server, RDS_HOST, REGION, &["app"]);
    drop(server);
    Case::with(sim).report().expect_failure("login", "IAM024", &["starting up"]);
}

#[test]
fn an_alias_is_reported_with_its_target() {
    let case = Case::new();
    let dns = case.sim.dns();
    dns.set("orders.internal.example", rds_sim::DnsEntry::Alias(RDS_HOST.to_owned()));
    dns.set(RDS_HOST, crate::aliases::loopback());
    let port = case.sim.port();
    let line = format!("app = host=orders.internal.example port={port} dbname=app user=app server_auth=iam");
    let report = case.line(line).set(&format!("dns_server = {}", dns.address())).report();
    let summary = report.check("dns")["summary"].as_str().unwrap().to_owned();
    assert_eq!(summary, format!("127.0.0.1; alias of {RDS_HOST}"));
    assert_eq!(report.check("login")["status"], "pass");
}
