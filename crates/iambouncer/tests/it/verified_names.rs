//! Tokens are sent only to servers whose host name was verified, and only for the role that is served: a
//! configuration to the contrary is refused by `check`, at startup, at reload and by SET.

use crate::support::program;
use crate::support::raw::tags;
use crate::support::sim::{RDS_HOST, Sim};
use crate::support::tls_client::ClientSide;
use crate::support::{Bouncer, postgres};

const SECRET_ARN: &str = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:prod/app-AbCdEf";

/// The output of `check` for a running pooler's file after this change; a start must fail as well.
fn refused(bouncer: &Bouncer, from: &str, to: &str) -> String {
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    assert!(text.contains(from), "{text}");
    let file = bouncer.dir().join("changed.ini");
    std::fs::write(&file, text.replace(from, to)).unwrap();
    let file = file.display().to_string();
    let checked = program::run(&["check", &file], &[]);
    let started = program::run(&[&file], &[]);
    for output in [&checked, &started] {
        assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    }
    assert!(started.stderr.contains("error: "), "{started:?}");
    checked.stdout + &checked.stderr
}

#[test]
fn tokens_require_verify_full() {
    let sim = Sim::in_front_of(postgres());
    let bouncer = sim.pooler(&[]);
    let text = refused(&bouncer, "server_tls_sslmode = verify-full", "server_tls_sslmode = verify-ca");
    assert!(text.contains("a token is sent only to a server whose host name was verified"), "{text}");
    for mode in ["verify-ca", "require"] {
        let answer = bouncer.console().query(&format!("SET server_tls_sslmode = '{mode}'"));
        assert_eq!(answer[0].error(), ("08P01".to_owned(), "SET failed".to_owned()));
        let text = answer[0].detail();
        assert!(text.contains("host name was verified"), "{text}");
    }
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn tokens_of_clients_require_verify_full() {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = format!("app = host=localhost port={} iam_host={RDS_HOST}", sim.port());
    let bouncer = side.set(sim.start(&line), "allow").set("auth_type = iam").start();
    let text = refused(&bouncer, "server_tls_sslmode = verify-full", "server_tls_sslmode = verify-ca");
    assert!(text.contains("auth_type = iam needs server_tls_sslmode = verify-full"), "{text}");
}

#[test]
fn tokens_of_clients_are_refused_for_a_line_with_a_secret() {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = format!("app = host=localhost port={} secret_arn={SECRET_ARN}", sim.port());
    let bouncer = side.set(sim.start(&line), "allow").start();
    let text = refused(&bouncer, "auth_type = trust", "auth_type = iam");
    assert!(text.contains("secret_arn and auth_type = iam exclude each other"), "{text}");
    let answer = bouncer.console().query("SET auth_type = 'iam'");
    assert!(answer[0].detail().contains("exclude each other"), "{}", tags(&answer));
}
