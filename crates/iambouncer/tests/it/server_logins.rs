//! Servers that violate the order of a login: none of them counts as logged in to.

use crate::support::bouncer::Start;
use crate::support::scripted::{self, key_data, message, ready};
use crate::support::sim::{RDS_HOST, REGION, Sim};
use crate::support::tls_client::{ClientSide, TlsClient};
use crate::tls::server_config_with;
use rds_iam::{Credentials, TokenRequest, sign};
use rds_sim::Certificates;
use std::time::SystemTime;

fn request(code: u32) -> Vec<u8> {
    message(b'R', &code.to_be_bytes())
}

fn parameter() -> Vec<u8> {
    message(b'S', b"server_version\x0017\0")
}

#[test]
fn login_messages_out_of_order_are_a_failed_login() {
    let (ok, asks) = (|| request(0), || request(3));
    let scripts: Vec<(&str, Vec<Vec<u8>>, &str)> = vec![
        ("ready at once", vec![ready(b'I')], "before AuthenticationOk"),
        ("ready after a request", vec![asks(), ready(b'I')], "before AuthenticationOk"),
        ("a key before", vec![key_data(7), ok(), ready(b'I')], "before AuthenticationOk"),
        ("a parameter before", vec![parameter(), ok(), ready(b'I')], "before AuthenticationOk"),
        ("two answers", vec![ok(), ok(), ready(b'I')], "after AuthenticationOk"),
        ("a request after", vec![ok(), asks(), ok(), ready(b'I')], "after AuthenticationOk"),
        ("two requests", vec![asks(), asks(), ok(), ready(b'I')], "second authentication"),
        ("two keys", vec![ok(), key_data(7), key_data(8), ready(b'I')], "after AuthenticationOk"),
        ("in a transaction", vec![ok(), ready(b'T')], "inside a transaction"),
        ("rows", vec![ok(), message(b'D', &[0, 0]), ready(b'I')], "after AuthenticationOk"),
    ];
    let lines: Vec<String> = scripts
        .iter()
        .enumerate()
        .map(|(at, (_, script, _))| {
            let bytes = script.concat();
            let port = scripted::serve(move |mut connection| {
                connection.first()?;
                connection.send(&bytes)?;
                while connection.message().is_ok() {}
                Ok(())
            });
            format!("d{at} = host=127.0.0.1 port={port}")
        })
        .collect();
    let bouncer = Start::databases(&lines.join("\n")).set("query_wait_timeout = 1").start();
    std::thread::scope(|scope| {
        for (at, (what, _, reason)) in scripts.iter().enumerate() {
            let bouncer = &bouncer;
            scope.spawn(move || {
                let (code, text, _) = bouncer.refused_login("app", &format!("d{at}"));
                assert_eq!(code, "08001", "{what}: {text}");
                assert!(text.contains(reason), "{what}: {text}");
            });
        }
    });
}

#[test]
fn a_regular_login_succeeds_with_and_without_a_cancel_key() {
    for greeting in
        [vec![request(0), parameter(), key_data(7), ready(b'I')], vec![request(3), request(0), ready(b'I')]]
    {
        let bytes = greeting.concat();
        let port = scripted::serve(move |mut connection| {
            connection.first()?;
            connection.send(&bytes)?;
            while connection.message().is_ok() {}
            Ok(())
        });
        let line = format!("app = host=127.0.0.1 port={port}");
        let bouncer = Start::databases(&line).start();
        bouncer.client();
    }
}

/// The token is well-formed but not verified: the server requests none.
#[test]
fn a_token_that_the_server_did_not_request_lets_no_client_in() {
    let sim = Sim::in_front_of(crate::support::postgres());
    let certificates = Certificates::generate(&[RDS_HOST.to_owned()]).unwrap();
    std::fs::write(sim.ca_file(), certificates.ca_pem()).unwrap();
    for script in [vec![ready(b'I')], vec![request(0), ready(b'I')], vec![request(3), ready(b'I')]] {
        let bytes = script.concat();
        let port = scripted::serve_tls(server_config_with(&certificates), move |mut connection| {
            connection.first()?;
            connection.send(&bytes)?;
            while connection.message().is_ok() {}
            Ok(())
        });
        let side = ClientSide::new();
        let line = format!("app = host=localhost port={port} server_auth=iam iam_host={RDS_HOST}");
        let start = side.set(sim.start(&line), "allow").set("auth_type = iam").set("query_wait_timeout = 1");
        let bouncer = start.start();
        let credentials = Credentials::new("AKIDNOBODY", "not/the+secret", None, None, "tests");
        let region = REGION.parse().unwrap();
        let request = TokenRequest { host: RDS_HOST, port, user: "app", region: &region };
        let token = sign(&request, &credentials, SystemTime::now()).unwrap();
        let outcome = TlsClient::log_in_with(bouncer.port, side.config(), "app", "app", token.expose());
        let (code, text, _) = outcome.err().expect("the token was not verified");
        assert!(code == "08001" || code == "28000", "{code} {text}");
    }
}

/// A server that impersonates the database could log in with the token for fifteen minutes.
#[test]
fn a_token_stored_as_a_password_is_not_sent_to_a_server_without_a_verified_name() {
    let (sent_password, password_was_sent) = std::sync::mpsc::channel();
    let sent_password = std::sync::Mutex::new(sent_password);
    let port = scripted::serve(move |mut connection| {
        connection.first()?;
        connection.send(&request(3))?;
        let _ = sent_password.lock().unwrap().send(connection.message().is_ok());
        Ok(())
    });
    let token = format!(
        "{RDS_HOST}:5432/?Action=connect&DBUser=app&X-Amz-Credential=A&X-Amz-Date=20240115T123456Z\
         &X-Amz-Expires=900&X-Amz-Signature={}",
        "0".repeat(64)
    );
    let line = format!("app = host=127.0.0.1 port={port} user=app password='{token}'");
    let bouncer = Start::databases(&line).start();
    let (code, text, hint) = bouncer.refused_login("app", "app");
    assert_eq!(code, "28000");
    assert!(text.contains("host name was verified") && hint.ends_with("[IAM006]"), "{text} {hint}");
    assert!(!password_was_sent.recv().unwrap(), "a password was sent");
}
