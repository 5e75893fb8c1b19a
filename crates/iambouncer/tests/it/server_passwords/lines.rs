//! Database lines and HBA rules of clients whose passwords the server verifies: forced users, tokens, several hosts, and
//! databases that do not exist.

use super::{Passwords, refusal};
use crate::support::Client;
use crate::support::bouncer::Start;
use crate::support::postgres::start;
use crate::support::sim::{RDS_HOST, REGION, Sim};
use crate::support::tls_client::{ClientSide, TlsClient};
use rds_sim::postgres::PostgresOptions;

#[test]
fn a_database_that_does_not_exist_is_not_revealed() {
    let pooler = Passwords::start();
    assert_eq!(pooler.log_in_to("absent", "app", "secret").err(), Some(refusal("app")));
    pooler.bouncer.wait_for_line("the database does not exist");
    // The server reports it only after the password.
    let line = format!("* = host=127.0.0.1 port={}", pooler.server.port());
    let with_all = pooler.side.set(Start::databases(&line), "allow").set("auth_type = server").start();
    let log_in = |password| {
        let config = pooler.side.config();
        TlsClient::log_in_with(with_all.port, config, "app", "absent", password).err().unwrap()
    };
    assert_eq!(log_in("wrong").0, "28P01");
    let (code, text, _) = log_in("secret");
    assert_eq!(code, "3D000");
    assert!(text.contains("database \"absent\" does not exist"), "{text}");
}

#[test]
fn a_host_that_cannot_be_reached_is_skipped() {
    let pooler = Passwords::start();
    // Nothing listens on this address at the port.
    let line = format!("app = host=127.0.0.3,127.0.0.1 port={}", pooler.server.port());
    let bouncer = pooler.side.set(Start::databases(&line), "allow").set("auth_type = server").start();
    let log_in =
        |password| TlsClient::log_in_with(bouncer.port, pooler.side.config(), "app", "app", password);
    assert_eq!(log_in("wrong").err().unwrap().0, "28P01");
    assert_eq!(log_in("secret").ok().unwrap().value("SELECT current_user"), "app");
}

#[test]
fn the_pool_of_a_forced_user_has_its_own_password() {
    let pooler = Passwords::with("scram-sha-256", "user=other password=second", |start| {
        start.set("auth_type = server")
    });
    let mut client = pooler.log_in("app", "secret").unwrap();
    assert_eq!(client.value("SELECT current_user"), "other");
    pooler.refused("app", "second");
    pooler.server.sql("REVOKE CONNECT ON DATABASE app FROM public").unwrap();
    pooler.server.sql("GRANT CONNECT ON DATABASE app TO other").unwrap();
    pooler.server.sql("CREATE ROLE stranger LOGIN PASSWORD 'third'").unwrap();
    // Who may not connect to the database is not served as a user who may.
    let error = pooler.log_in("stranger", "third").err().unwrap();
    assert!(error.contains("permission denied for database"), "{error}");
}

#[test]
fn a_pool_with_tokens_serves_clients_with_passwords() {
    // The simulator connects through the UNIX socket.
    let hba = "local all app scram-sha-256\nlocal all all trust\n".to_owned();
    let server = start(PostgresOptions { hba: Some(hba), ..PostgresOptions::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    server.sql("CREATE ROLE pool_user LOGIN PASSWORD 'unused'").unwrap();
    server.sql("CREATE DATABASE app").unwrap();
    let sim = Sim::for_users(&server, RDS_HOST, REGION, &["pool_user"]);
    let side = ClientSide::new();
    let line = format!("{} user=pool_user", sim.database());
    let bouncer = side.set(sim.start(&line), "allow").set("auth_type = server").start();
    let log_in = |user: &str, password: &str| {
        TlsClient::log_in_with(bouncer.port, side.config(), user, "app", password)
    };
    assert_eq!(log_in("app", "secret").ok().unwrap().value("SELECT current_user"), "pool_user");
    assert_eq!(log_in("app", "wrong").err().unwrap().0, "28P01");
    // RDS does not accept passwords of such a user.
    assert_eq!(log_in("pool_user", "unused").err().unwrap().0, "28P01");
    let line = bouncer.wait_for_line("PAM authentication failed");
    assert!(line.contains("RDS uses PAM for members of rds_iam"), "{line}");
}

#[test]
fn rules_can_select_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hba.conf");
    let rules = "hostssl app all all server\nhostnossl app other all server\nhost all all all reject\n";
    std::fs::write(&file, rules).unwrap();
    let file = format!("auth_hba_file = {}", file.display());
    let pooler = Passwords::with("md5", "", |start| start.set("auth_type = hba").set(&file));
    assert_eq!(pooler.log_in("app", "secret").unwrap().value("SELECT current_user"), "app");
    pooler.refused("app", "wrong");
    assert!(pooler.log_in_to("absent", "app", "secret").err().unwrap().contains("login rejected"));
    pooler.bouncer.wait_for_line("hba line 2: server refuses every client without TLS");
    let mut client = Client::start(pooler.bouncer.port, &[("user", "other"), ("database", "app")]);
    assert_eq!(client.read().unwrap().error().0, "28000");
}
