//! Tokens go only to servers whose host name was verified, and only where their role is the one that is served:
//! whatever says otherwise is refused, in files, at start and while running.

use crate::support::program;
use crate::support::raw::tags;
use crate::support::sim::{RDS_HOST, Sim};
use crate::support::tls_client::ClientSide;
use crate::support::{Bouncer, postgres};

const SECRET_ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/app-AbCdEf";

/// What `check` and a start say of a running pooler's file after this change.
fn refused(bouncer: &Bouncer, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    assert!(text.contains(from), "{text}");
    let file = bouncer.dir().join("changed.ini");
    std::fs::write(&file, text.replace(from, to)).unwrap();
    let file = file.display().to_string();
    let checked = program::run(&["check", &file], &[]);
    let started = program::run(&[&file], &[]);
    for ended in [&checked, &started] {
        assert!(ended.code.is_some_and(|code| code != 0), "{ended:?}");
    }
    assert!(started.stderr.contains("error: "), "{started:?}");
    checked.stdout + &checked.stderr
}

#[test]
fn verify_ca_is_not_enough_for_tokens() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&[]);
    let told = refused(&bouncer, "server_tls_sslmode = verify-full", "server_tls_sslmode = verify-ca");
    assert!(told.contains("a token is sent only to a server whose host name was verified"), "{told}");
    for mode in ["verify-ca", "require"] {
        let answer = bouncer.console().query(&format!("SET server_tls_sslmode = '{mode}'"));
        let (code, text) = answer[0].error();
        assert_eq!(code, "22023");
        assert!(text.contains("host name was verified"), "{text}");
    }
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn verify_ca_is_not_enough_for_tokens_of_clients() {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = format!("app = host=localhost port={} iam_host={RDS_HOST}", sim.port());
    let bouncer = side.set(sim.start(&line), "allow").set("auth_type = iam").start();
    let told = refused(&bouncer, "server_tls_sslmode = verify-full", "server_tls_sslmode = verify-ca");
    assert!(told.contains("auth_type = iam needs server_tls_sslmode = verify-full"), "{told}");
}

#[test]
fn tokens_of_clients_do_not_open_a_line_whose_user_comes_from_a_secret() {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = format!("app = host=localhost port={} secret_arn={SECRET_ARN}", sim.port());
    let bouncer = side.set(sim.start(&line), "allow").start();
    let told = refused(&bouncer, "auth_type = trust", "auth_type = iam");
    assert!(told.contains("secret_arn and auth_type = iam exclude each other"), "{told}");
    let answer = bouncer.console().query("SET auth_type = 'iam'");
    assert!(answer[0].error().1.contains("exclude each other"), "{}", tags(&answer));
}
