//! Log lines that scripts and dashboards search for, in PgBouncer's words and layout.

use crate::support::bouncer::Start;
use crate::support::{Bouncer, Client, eventually, postgres};

/// The line with this text, without its time.
fn line(bouncer: &Bouncer, part: &str) -> String {
    let line = bouncer.wait_for_line(part);
    let (time, rest) = line.split_once(" [").expect(&line);
    assert!(time.len() >= "2026-01-01 00:00:00.000 UTC".len(), "{line}");
    let (process, rest) = rest.split_once("] ").expect(&line);
    assert_eq!(process, bouncer.pid().as_raw_nonzero().to_string(), "{line}");
    rest.to_owned()
}

/// Expects `prefix`, an ID in hexadecimal digits, and `rest` with a port in place of `PORT`.
#[track_caller]
fn assert_line(line: &str, prefix: &str, rest: &str) {
    let (id, text) = line.strip_prefix(prefix).and_then(|line| line.split_once(": ")).expect(line);
    assert!(!id.is_empty() && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{line}");
    let mut text = text;
    for (at, part) in rest.split("PORT").enumerate() {
        if at > 0 {
            text = text.trim_start_matches(|c: char| c.is_ascii_digit());
        }
        text = text.strip_prefix(part).unwrap_or_else(|| panic!("{line}\nnot\n{rest}"));
    }
}

#[test]
fn the_life_of_a_client_and_its_server() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    drop(bouncer.client());
    let lines = [
        (
            "login attempt",
            "LOG C-0x",
            "app/app@127.0.0.1:PORT login attempt: db=app user=app tls=no replication=no",
        ),
        (
            "new connection to server",
            "LOG S-0x",
            "app/app@127.0.0.1:PORT new connection to server (from 127.0.0.1:PORT)",
        ),
        (
            "client unexpected eof",
            "LOG C-0x",
            "app/app@127.0.0.1:PORT closing because: client unexpected eof (age=0s)",
        ),
    ];
    for (part, prefix, rest) in lines {
        assert_line(&line(&bouncer, part), prefix, rest);
    }
    let mut client = bouncer.client();
    client.send(&crate::support::raw::terminate());
    line(&bouncer, "closing because: client close request (age=0s)");
    bouncer.console().query("RECONNECT");
    assert_line(
        &line(&bouncer, "database configuration changed"),
        "LOG S-0x",
        "app/app@127.0.0.1:PORT closing because: database configuration changed (age=",
    );
}

#[test]
fn each_setting_silences_its_lines() {
    let silent = ["log_connections = 0", "log_disconnections = 0", "log_pooler_errors = 0"];
    let bouncer = Bouncer::in_front_of(postgres(), &silent);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let mut refused = Client::start(bouncer.port, &[("user", "app"), ("database", "nowhere")]);
    assert_eq!(refused.until_end().last().unwrap().error().0, "3D000");
    let mut console = bouncer.console();
    console.query("RECONNECT");
    bouncer.wait_for_servers(0);
    let log = bouncer.log();
    for part in ["login attempt", "new connection to server", "closing because", "pooler error"] {
        assert!(!log.contains(part), "{part}: {log}");
    }
}

#[test]
fn a_refused_client_is_logged_as_an_error_and_as_a_close() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut refused = Client::start(bouncer.port, &[("user", "app"), ("database", "nowhere")]);
    assert_eq!(refused.until_end().last().unwrap().error().0, "3D000");
    assert_line(
        &line(&bouncer, "pooler error"),
        "WARNING C-0x",
        "nowhere/app@127.0.0.1:PORT pooler error: no such database: nowhere",
    );
    line(&bouncer, "closing because: no such database: nowhere (age=0s)");
}

#[test]
fn a_database_of_the_fallback_line_and_the_reserve_are_reported() {
    let databases = format!("* = host=127.0.0.1 port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&databases)
        .set("default_pool_size = 1")
        .set("reserve_pool_size = 1")
        .set("reserve_pool_timeout = 0.1")
        .start();
    let mut clients =
        [Client::log_in(bouncer.port, "app", "app"), Client::log_in(bouncer.port, "app", "app")];
    line(&bouncer, "registered new auto-database: app");
    clients[0].query("BEGIN");
    assert_eq!(clients[1].value("SELECT 1"), "1");
    line(&bouncer, "taking connection from reserve_pool");
}

#[test]
fn other_formats_follow_the_setting_and_reload() {
    let bouncer = Bouncer::in_front_of(postgres(), &["log_format = text"]);
    bouncer.client();
    let attempt = bouncer.wait_for_line("login attempt");
    assert!(attempt.contains("Z  INFO login attempt") && attempt.contains(" client=127.0.0.1:"), "{attempt}");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    std::fs::write(bouncer.ini(), text.replace("log_format = text", "log_format = json")).unwrap();
    bouncer.console().query("RELOAD");
    bouncer.client();
    eventually("a line in JSON", || {
        bouncer.log().lines().filter(|line| line.starts_with('{')).any(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["database"] == "app" && line["message"].as_str().unwrap().starts_with("login attempt")
        })
    });
}
