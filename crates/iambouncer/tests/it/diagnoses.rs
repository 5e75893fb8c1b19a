//! Diagnoses of refused logins: the client's hint and the log report the same cause, for servers and
//! configurations with one fault each.

use crate::support::bouncer::Start;
use crate::support::sim::{RDS_HOST, REGION, Sim};
use crate::support::{Client, eventually, postgres};
use rds_sim::postgres::PostgresOptions;
use std::net::TcpListener;
use std::time::Duration;

/// Causes are counted in the metrics.
const WITH_METRICS: &str = "http_port = auto";

fn start_with_metrics<'a>(sim: &Sim, line: &'a str) -> Start<'a> {
    sim.start(line).set(WITH_METRICS)
}

#[test]
fn a_region_that_contradicts_the_endpoint_is_named() {
    let sim = Sim::in_front_of(postgres());
    let line = format!("{} iam_region=eu-central-1", sim.database());
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause(
        "28000",
        "IAM012",
        "wrong_region",
        &["PAM authentication failed for user \"app\"", "eu-central-1", REGION],
    );
    // One attempt, and a second with a fresh token.
    assert_eq!(sim.refusals(), ["signed for region eu-central-1"; 2]);
}

#[test]
fn an_endpoint_of_another_server_is_diagnosed_from_the_certificate() {
    let sim = Sim::in_front_of(postgres());
    let other = RDS_HOST.replace("db.", "other.");
    let line =
        format!("app = host=localhost port={} dbname=app server_auth=iam iam_host={other}", sim.port());
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause("08004", "IAM007", "signed_host", &[&other, RDS_HOST, "iam_host"]);
    assert_eq!(sim.simulator.log().attempts(), [], "no token was sent");
}

#[test]
fn a_host_that_is_not_an_endpoint_is_diagnosed() {
    let sim = Sim::in_front_of(postgres());
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let line =
        format!("app = host=localhost port={} dbname=app server_auth=iam iam_region={REGION}", sim.port());
    let bouncer = start_with_metrics(&sim, &line).start();
    let what = format!("localhost:{}, which is not the name of an RDS endpoint", sim.port());
    bouncer.expect_cause("28000", "IAM007", "signed_host", &[&what, "iam_host"]);
}

#[test]
fn the_port_of_a_tunnel_in_the_token_is_diagnosed() {
    let sim = Sim::in_front_of(postgres());
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let line =
        format!("app = host=localhost port={} dbname=app server_auth=iam iam_host={RDS_HOST}", sim.port());
    let bouncer = start_with_metrics(&sim, &line).start();
    let port = format!("signed for port {}", sim.port());
    bouncer.expect_cause("28000", "IAM008", "signed_port", &[&port, "iam_port"]);
}

#[test]
fn a_missing_policy_is_diagnosed_last_and_logins_succeed_once_it_exists() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&[WITH_METRICS]);
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let arn = "dbuser:<resource id>/app";
    bouncer.expect_cause("28000", "IAM003", "not_authorized", &["rds-db:connect", arn, "iambouncer policy"]);
    // The client receives the advice; the log also has the causes that were ruled out.
    let line = bouncer.wait_for_line("cause=\"IAM003\"");
    let endpoint = format!("{RDS_HOST}:{}", sim.port());
    for part in ["rds-db:connect", arn, &endpoint, "credentials", "clock", "iam-db-auth-error"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(bouncer.show("SERVERS", "state").len(), 0);
    crate::support::eventually("the client logs in", || {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.read().is_some_and(|message| message.tag == b'R')
    });
}

#[test]
fn a_server_without_iam_authentication_is_diagnosed() {
    let hba = "local all postgres trust\nlocal all all password\n";
    let server =
        crate::support::postgres::start(PostgresOptions { hba: Some(hba.to_owned()), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    let sim = Sim::for_users(&server, RDS_HOST, REGION, &[]);
    let line = sim.database();
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause(
        "28P01",
        "IAM004",
        "not_rds_iam",
        &["treated the token of \"app\" as a password", "enable IAM database authentication"],
    );
    assert!(!server.log().contains("X-Amz"));
}

#[test]
fn a_token_stored_as_a_password_is_diagnosed_with_its_age() {
    let sim = Sim::in_front_of(postgres());
    let token = format!(
        "{RDS_HOST}:{}/?Action=connect&DBUser=app&X-Amz-Credential=A&X-Amz-Date=20240115T123456Z&X-Amz-Expires=900\
         &X-Amz-Signature={}",
        sim.port(),
        "0".repeat(64)
    );
    let line = format!("app = host=localhost port={} dbname=app user=app password='{token}'", sim.port());
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause("28000", "IAM001", "static_token", &["a token that expired", "server_auth=iam"]);
    assert!(!bouncer.log().contains("X-Amz-Signature"), "{}", bouncer.log());
    let home_made = line.replace("Expires=900", "Expires=86400");
    let bouncer = start_with_metrics(&sim, &home_made).start();
    bouncer.expect_cause("28000", "IAM018", "token_life", &["lifetime of 86400 s"]);
    let cut = line.replace("0000'", "'");
    let bouncer = start_with_metrics(&sim, &cut).start();
    bouncer.expect_cause("28000", "IAM010", "token_broken", &["truncated or altered"]);
}

#[test]
fn a_password_for_a_user_that_needs_a_token_is_diagnosed_as_an_inherited_grant() {
    let sim = Sim::in_front_of(postgres());
    let line = format!("app = host=localhost port={} dbname=app user=app password=secret", sim.port());
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause("28000", "IAM011", "rds_iam_inherited", &["REVOKE rds_iam"]);
}

#[test]
fn an_iam_user_without_tls_is_diagnosed() {
    let sim = Sim::in_front_of(postgres());
    let line = format!("app = host=localhost port={} dbname=app user=app password=secret", sim.port());
    let bouncer = start_with_metrics(&sim, &line).set("server_tls_sslmode = disable").start();
    let parts = ["pg_hba.conf rejects connection", "no encryption", "verify-full"];
    bouncer.expect_cause("28000", "IAM006", "tls_off", &parts);
}

#[test]
fn an_unknown_certificate_authority_is_diagnosed() {
    let sim = Sim::in_front_of(postgres());
    let stranger = Sim::in_front_of(postgres());
    let line = stranger.database();
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause("08004", "IAM017", "tls_trust", &["not a trusted authority", "server_tls_ca_file"]);
    assert_eq!(stranger.simulator.log().attempts(), []);
}

#[test]
fn a_ca_file_is_added_to_the_built_in_authorities() {
    let sim = Sim::in_front_of(postgres());
    let line = sim.database();
    let built_in = start_with_metrics(&sim, &line).set("server_tls_ca_file = rds").start();
    built_in.expect_cause("08004", "IAM017", "tls_trust", &["not a trusted authority"]);
    let both = format!("server_tls_ca_file = rds, {}", sim.ca_file().display());
    let bouncer = start_with_metrics(&sim, &line).set(&both).start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn a_refused_connection_is_diagnosed_after_query_wait_timeout() {
    let sim = Sim::in_front_of(postgres());
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let line = format!("app = host=localhost port={port} dbname=app server_auth=iam iam_host={RDS_HOST}");
    let bouncer = start_with_metrics(&sim, &line).set("query_wait_timeout = 1").start();
    bouncer.expect_cause("08001", "IAM032", "connection_refused", &["refused", "security groups"]);
}

#[test]
fn a_server_that_never_answers_the_token_is_diagnosed_as_throttled() {
    let sim = Sim::in_front_of(postgres());
    sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_secs(30));
    let bouncer = sim.pooler(&["server_connect_timeout = 1", "query_wait_timeout = 2", WITH_METRICS]);
    let parts = ["server_connect_timeout", "did not finish the login", "memory"];
    bouncer.expect_cause("08001", "IAM014", "throttled", &parts);
}

#[test]
fn a_database_that_does_not_exist_is_not_diagnosed_as_an_iam_failure() {
    let sim = Sim::in_front_of(postgres());
    let line = sim.database().replace("dbname=app", "dbname=nowhere");
    let bouncer = start_with_metrics(&sim, &line).start();
    bouncer.expect_cause("3D000", "IAM026", "no_such_database", &["\"nowhere\"", "dbname="]);
}

#[test]
fn missing_credentials_are_diagnosed() {
    let sim = Sim::in_front_of(postgres());
    let line = sim.database();
    let bouncer = sim.keyless(&line).set(WITH_METRICS).set("query_wait_timeout = 3").start();
    bouncer.expect_cause("28000", "IAM002", "no_credentials", &["no AWS credentials", "aws_profile"]);
}

#[test]
fn user_names_with_every_legal_character_log_in() {
    let names = [
        "app user+ro@example.com/é~*'()!%",
        "a&DBUser=admin",
        "back\\slash",
        "semi;colon",
        "dou\"ble",
        "<tag>",
        "übergröße-数据",
        "UPPER.lower_0",
        " spaces at both ends ",
        "tab\tand\u{7f}",
        &"n".repeat(63),
    ];
    for name in names {
        postgres().sql(&format!("CREATE ROLE \"{}\" LOGIN", name.replace('"', "\"\""))).unwrap();
    }
    let sim = Sim::for_users(postgres(), RDS_HOST, REGION, &names);
    let line = sim.database();
    let bouncer = start_with_metrics(&sim, &line).set("auth_type = trust").users(&users(&names)).start();
    for name in names {
        let mut client = Client::log_in(bouncer.port, name, "app");
        assert_eq!(client.value("SELECT current_user"), name);
    }
    assert_eq!(sim.simulator.log().accepted_and_refused(), (names.len(), 0));
}

/// An `auth_file` with these names and no passwords.
fn users(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{}\" \"\"\n", name.replace('"', "\"\""))).collect()
}

#[test]
fn a_refusal_names_user_and_database_of_the_startup_packet() {
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&line).start();
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app"), ("strange", "x")]);
    assert_eq!(client.read().unwrap().error().0, "08P01");
    let line = bouncer.wait_for_line("unsupported startup parameter");
    assert!(line.contains(" app/app@127.0.0.1:"), "{line}");
}

#[test]
fn a_failed_server_login_is_logged_once() {
    let line = format!("app = host=127.0.0.1 port={} dbname=nowhere", postgres().port());
    let bouncer = Start::databases(&line).start();
    let (code, _, _) = bouncer.refused_login("app", "app");
    assert_eq!(code, "3D000");
    let line = bouncer.wait_for_line("ERROR server login failed: FATAL database \"nowhere\" does not exist");
    assert!(line.contains("database=app user=app"), "{line}");
    assert_eq!(bouncer.log().matches("ERROR server login failed").count(), 1, "{}", bouncer.log());
    // As in PgBouncer, one line for the server and one for each client.
    bouncer.wait_for_line(" LOG S-0x0: app/app@127.0.0.1:");
    let closed = "closing because: database \"nowhere\" does not exist (age=0s)";
    eventually("both are closed", || bouncer.log().matches(closed).count() == 2);
}

#[test]
fn a_client_of_the_fallback_line_receives_the_servers_error() {
    let line = format!("* = host=127.0.0.1 port={}", postgres().port());
    let bouncer = Start::databases(&line).start();
    let (code, text, hint) = bouncer.refused_login("app", "nowhere");
    assert_eq!((code.as_str(), text.as_str()), ("3D000", "database \"nowhere\" does not exist"));
    assert_eq!(hint, "");
}
