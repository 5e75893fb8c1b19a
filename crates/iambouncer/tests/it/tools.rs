//! The commands besides the pooler itself: tokens, policies, password hashes, and a pooler for a single
//! command.

use crate::support::program::{self, ProgramOutput};
use crate::support::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use crate::support::{bouncer, bouncer::Start, eventually, postgres};
use rds_sim::{TokenTarget, verify};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

type Variables = Vec<(String, String)>;

fn endpoint_of(sim: &Sim) -> Variables {
    let mut environment = sim.environment();
    environment.extend(
        [
            ("PATH", std::env::var("PATH").unwrap().as_str()),
            ("IAMBOUNCER_SERVER_TLS_CA_FILE", &sim.ca_file().display().to_string()),
            ("IAMBOUNCER_DB_HOST", "localhost"),
            ("IAMBOUNCER_DB_PORT", &sim.port().to_string()),
            ("IAMBOUNCER_DB_USER", "app"),
            ("IAMBOUNCER_DB_NAME", "app"),
            ("IAMBOUNCER_IAM_HOST", RDS_HOST),
            ("IAMBOUNCER_IAM_PORT", &sim.port().to_string()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    environment
}

fn ok(output: ProgramOutput) -> String {
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout
}

#[test]
fn a_token_is_printed_in_every_format_and_accepted_by_rds() {
    let sim = Sim::in_front_of(postgres());
    let environment = endpoint_of(&sim);
    let target =
        TokenTarget { hosts: vec![RDS_HOST.to_owned()], port: sim.port(), region: REGION.to_owned() };
    let verified =
        |token: &str| verify(token, "app", &target, sim.simulator.keys(), sim.simulator.clock().now());
    let raw = ok(program::run(&["token"], &environment));
    assert!(verified(raw.strip_suffix('\n').unwrap()).is_ok(), "{raw}");

    let json = ok(program::run(&["token", "--format", "json"], &environment));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(verified(json["token"].as_str().unwrap()).is_ok());
    assert_eq!((json["region"].as_str(), json["access_key_id"].as_str()), (Some(REGION), Some(KEY_ID)));

    let pgpass = ok(program::run(&["token", "--format", "pgpass"], &environment));
    let token = pgpass.trim_end().split_once(":app:app:").unwrap().1.replace("\\:", ":");
    assert!(verified(&token).is_ok(), "{token}");

    let lines = ok(program::run(&["token", "--format", "env"], &environment));
    let script = format!("{lines}printf %s \"$PGPASSWORD\"");
    let shell = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(verified(&String::from_utf8(shell.stdout).unwrap()).is_ok());

    let url = ok(program::run(&["token", "--format", "url"], &environment));
    assert!(url.starts_with("postgresql://app:db.") && url.contains("%3FAction%3Dconnect"), "{url}");
}

#[test]
fn token_reports_missing_credentials_region_or_user() {
    let none = program::run(&["token", RDS_HOST, "--user", "app"], &[]);
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.stderr.contains("no AWS credentials") && none.stdout.is_empty(), "{none:?}");
    let sim = Sim::in_front_of(postgres());
    let nowhere = program::run(&["token", "10.0.0.7", "--user", "app"], &sim.environment());
    assert!(nowhere.stderr.contains("does not contain an AWS region"), "{nowhere:?}");
    let no_user = program::run(&["token", RDS_HOST], &sim.environment());
    assert_eq!(no_user.code, Some(78), "{no_user:?}");
    assert!(no_user.stderr.contains("no user"), "{no_user:?}");
}

#[test]
fn a_policy_contains_the_exact_arn() {
    let words =
        ["policy", RDS_HOST, "--user", "app", "--account", "123456789012", "--resource-id", "db-ABC1"];
    let all = ok(program::run(&words, &[]));
    let arn = "arn:aws:rds-db:eu-west-1:123456789012:dbuser:db-ABC1/app";
    assert_eq!(all.matches(arn).count(), 2, "{all}");
    assert!(all.contains("GRANT rds_iam TO \"app\";"), "{all}");
    let json = ok(program::run(&[&words[..], &["--format", "json"]].concat(), &[]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["Statement"][0]["Resource"], arn);
    let name = program::run(
        &["policy", RDS_HOST, "-U", "app", "--account", "123456789012", "--resource-id", "mydb"],
        &[],
    );
    assert_eq!(name.code, Some(2), "{name:?}");
    assert!(name.stderr.contains("DbiResourceId"), "{name:?}");
}

#[test]
fn a_hashed_password_is_accepted_by_postgresql_and_the_pooler() {
    let mut child = bouncer::command(&["hash".to_owned(), "--user".to_owned(), "hashed".to_owned()], &[])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let line = String::from_utf8(output.stdout).unwrap();
    let secret = line.trim_end().strip_prefix("\"hashed\" \"").unwrap().strip_suffix('"').unwrap();
    postgres().sql(&format!("CREATE ROLE hashed LOGIN PASSWORD '{secret}'")).unwrap();
    let stored = postgres().sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'hashed'").unwrap();
    assert!(stored.contains(secret), "{stored}");
    let database = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = Start::databases(&database).set("auth_type = scram-sha-256").users(&line).start();
    let psql = |password: &str| {
        std::process::Command::new("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &bouncer.port.to_string(),
                "-U",
                "hashed",
                "-Atc",
                "SELECT 1",
                "app",
            ])
            .env("PGPASSWORD", password)
            .output()
            .unwrap()
    };
    assert_eq!(psql("correct horse").stdout, b"1\n");
    assert!(!psql("wrong").status.success());
}

#[test]
fn completions_and_the_manual_page_list_every_command() {
    let bash = ok(program::run(&["completions", "bash"], &[]));
    let man = ok(program::run(&["man"], &[]));
    for command in ["run", "check", "token", "policy", "exec", "connect", "healthcheck", "wait", "hash"] {
        assert!(bash.contains(command) && man.contains(command), "{command}");
    }
    assert!(man.starts_with(".ie") || man.contains(".TH iambouncer"), "{man}");
}

#[test]
fn exec_runs_a_command_with_its_own_pooler_and_returns_its_exit_code() {
    let sim = Sim::in_front_of(postgres());
    let environment = endpoint_of(&sim);
    let run = |script: &str| program::run(&["exec", "--", "sh", "-c", script], &environment);
    assert_eq!(ok(run("psql -Atc 'SELECT current_user'")), "app\n");
    assert_eq!(ok(run("psql -Atc 'SELECT current_database()' \"$DATABASE_URL\"")), "app\n");
    assert_eq!(run("exit 7").code, Some(7));
    assert_eq!(run("kill -KILL $$").code, Some(128 + 9));
    let stranger = run("PGPASSWORD=guess psql -Atc 'SELECT 1' 2>&1; exit 0");
    for text in ["SASL authentication failed", "password authentication failed for user"] {
        assert!(stranger.stdout.contains(text), "{stranger:?}");
    }
    let missing = program::run(&["exec", "--", "/nowhere/program"], &environment);
    assert_eq!(missing.code, Some(127), "{missing:?}");
    assert!(missing.stderr.contains("/nowhere/program"), "{missing:?}");
}

#[test]
fn signals_are_forwarded_to_the_command() {
    let sim = Sim::in_front_of(postgres());
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let words = ["exec", "--", "sh", "-c", script].map(str::to_owned);
    let mut child = bouncer::command(&words, &endpoint_of(&sim)).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut status = None;
    eventually("it exits", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(42));
}

#[test]
fn psql_connects_through_its_own_pooler() {
    let sim = Sim::in_front_of(postgres());
    let answer = program::run(&["connect", "--", "-Atc", "SELECT current_user"], &endpoint_of(&sim));
    assert_eq!(ok(answer), "app\n");
}

#[test]
fn refused_logins_of_a_command_are_printed_with_a_hint() {
    let sim = Sim::in_front_of(postgres());
    let mut environment = endpoint_of(&sim);
    environment.push(("IAMBOUNCER_IAM_REGION".to_owned(), "eu-central-1".to_owned()));
    let output = program::run(&["connect", "--", "-Atc", "SELECT 1"], &environment);
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("HINT") && output.stderr.contains("[IAM012]"), "{output:?}");
}

#[test]
fn healthcheck_queries_a_running_pooler() {
    let bouncer = crate::support::Bouncer::in_front_of(postgres(), &["http_port = auto"]);
    let log = bouncer.log();
    let line = log.lines().find_map(|line| line.split_once("http://")).unwrap_or_else(|| panic!("{log}")).1;
    let address = line.split(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).next().unwrap();
    let check = |words: &[&str]| program::run(&[words, &["--address", address]].concat(), &[]);
    assert_eq!(check(&["wait"]).code, Some(0));
    for probe in ["startup", "liveness", "readiness"] {
        assert_eq!(check(&["healthcheck", probe]).code, Some(0), "{probe}");
    }
    drop(bouncer);
    let gone = program::run(&["healthcheck", "--address", address], &[]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    let late = program::run(&["wait", "--max", "1", "--address", address], &[]);
    assert!(late.code == Some(1) && late.stderr.contains("has not started within 1 s"), "{late:?}");
}
