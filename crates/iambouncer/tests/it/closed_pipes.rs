//! Commands whose output pipe was closed by the reader, as with `| head`: they exit, and none panics.

use crate::support::bouncer;
use crate::support::postgres;
use std::os::fd::OwnedFd;
use std::process::Stdio;

/// The write end of a pipe without a reader.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    Stdio::from(OwnedFd::from(writer))
}

#[test]
fn every_command_survives_a_closed_pipe() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good.ini");
    let databases = format!("app = host=127.0.0.1 port={}", postgres().port());
    // This file causes a warning on standard error and a line on standard output.
    std::fs::write(&good, format!("[databases]\n{databases}\n[pgbouncer]\nsyslog = 1\n")).unwrap();
    let bad = dir.path().join("bad.ini");
    std::fs::write(&bad, "[pgbouncer]\npool_mode = x\n").unwrap();
    let (good, bad) = (good.display().to_string(), bad.display().to_string());
    let host = "db.c1.eu-west-1.rds.amazonaws.com";
    let commands: [&[&str]; 14] = [
        &["check", &good],
        &["check", &bad],
        &["run", &bad],
        &["doctor", &good],
        &["doctor", "--json", &good],
        &["token", host, "--user", "app"],
        &["policy", host, "--user", "app", "--account", "1", "--resource-id", "db-x"],
        &["exec", host, "--user", "app", "--", "/does/not/exist"],
        &["healthcheck", "--address", "127.0.0.1:1"],
        &["hash"],
        &["authorities"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
    ];
    let environment = [
        ("AWS_ACCESS_KEY_ID".to_owned(), "AKIDEXAMPLE".to_owned()),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), "secret".to_owned()),
    ];
    for words in commands {
        let arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut command = bouncer::command(&arguments, &environment);
        let status = command.stdout(closed()).stderr(closed()).status().unwrap();
        // 101 is a panic; without a code the command was killed by a signal.
        assert!(status.code().is_some_and(|code| code != 101), "{words:?}: {status}");
    }
}

#[test]
fn a_pooler_keeps_running_when_its_log_pipe_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let ini = dir.path().join("pooler.ini");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let server = postgres().port();
    let text = format!(
        "[databases]\napp = host=127.0.0.1 port={server} user=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         http_port = 0\nunix_socket_dir =\nauth_type = any\n"
    );
    std::fs::write(&ini, text).unwrap();
    let mut child = bouncer::command(&[ini.display().to_string()], &[]).stderr(closed()).spawn().unwrap();
    crate::support::eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut client = crate::support::Client::log_in(port, "app", "app");
    assert_eq!(client.value("select 1"), "1");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}
