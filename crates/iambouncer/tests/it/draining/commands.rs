//! `iambouncer status`, `drain`, `reload`, `pause`, `resume` and `shutdown` against a real pooler.

use super::start_without_file;
use crate::support::bouncer::Start;
use crate::support::program::{self, ProgramOutput};
use crate::support::{Bouncer, eventually, postgres};

/// A pooler with a UNIX socket in its own directory, or in the abstract namespace.
fn start(dir: &str, settings: &[&str]) -> Bouncer {
    let databases = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let start = Start::databases(&databases).set(&format!("unix_socket_dir = {dir}"));
    settings.iter().fold(start, |start, line| start.set(line)).start()
}

/// A directory with a short path.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Runs a command at the socket in this directory.
fn run_at(dir: &str, bouncer: &Bouncer, words: &[&str]) -> ProgramOutput {
    let socket = format!("{dir}/.s.PGSQL.{}", bouncer.port);
    let mut all = words.to_vec();
    all.extend(["--socket", &socket]);
    program::run(&all, &[])
}

#[track_caller]
fn assert_succeeds(output: &ProgramOutput) {
    assert_eq!(output.code, Some(0), "{output:?}");
}

#[test]
fn status_shows_the_state_and_the_pools() {
    let dir = directory();
    let path = dir.path().display().to_string();
    let bouncer = start(&path, &[]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    let output = run_at(&path, &bouncer, &["status"]);
    assert_succeeds(&output);
    assert!(output.stdout.starts_with("PgBouncer 1.25.2 (compatible; iambouncer "), "{}", output.stdout);
    assert!(output.stdout.contains("\nrunning, ready, up for "), "{}", output.stdout);
    assert!(output.stdout.contains("\napp       app   transaction"), "{}", output.stdout);
    let output = run_at(&path, &bouncer, &["status", "--json"]);
    assert_succeeds(&output);
    let status: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let keys: Vec<_> = status.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["pid", "pools", "ready", "state", "uptime_seconds", "version"]);
    assert_eq!(status["pid"], i64::from(bouncer.pid().as_raw_nonzero().get()));
    assert_eq!((status["state"].as_str(), status["ready"].as_bool()), (Some("running"), Some(true)));
    let pool = &status["pools"][0];
    assert_eq!((pool["database"].as_str(), pool["user"].as_str()), (Some("app"), Some("app")));
    assert_eq!((pool["clients_active"].as_u64(), pool["servers_active"].as_u64()), (Some(1), Some(1)));
    assert_eq!((pool["clients_waiting"].as_u64(), pool["max_wait_seconds"].as_f64()), (Some(0), Some(0.0)));
}

#[test]
fn pause_and_resume_take_a_database() {
    let dir = directory();
    let path = dir.path().display().to_string();
    let bouncer = start(&path, &[]);
    let state = || {
        let output = run_at(&path, &bouncer, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        status["state"].as_str().unwrap().to_owned()
    };
    assert_succeeds(&run_at(&path, &bouncer, &["pause"]));
    assert_eq!(state(), "paused");
    let again = run_at(&path, &bouncer, &["pause"]);
    assert_eq!((again.code, again.stderr.as_str()), (Some(1), "error: already suspended/paused\n"));
    assert_succeeds(&run_at(&path, &bouncer, &["resume"]));
    assert_eq!(state(), "running");
    assert_succeeds(&run_at(&path, &bouncer, &["pause", "app"]));
    assert_eq!(bouncer.show("DATABASES", "paused")[0], "1");
    assert_succeeds(&run_at(&path, &bouncer, &["resume", "app"]));
    let unknown = run_at(&path, &bouncer, &["pause", "dne"]);
    assert!(unknown.code == Some(1) && unknown.stderr.contains("no such database: dne"), "{unknown:?}");
    let mut client = bouncer.client();
    client.query("BEGIN");
    let waiting = run_at(&path, &bouncer, &["pause", "--timeout", "1"]);
    assert!(waiting.code == Some(1) && waiting.stderr.contains("no answer in time"), "{waiting:?}");
}

#[test]
fn reload_reports_what_is_wrong() {
    let dir = directory();
    let path = dir.path().display().to_string();
    let bouncer = start(&path, &["default_pool_size = 4"]);
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    std::fs::write(bouncer.ini(), text.replace("size = 4", "size = four")).unwrap();
    let wrong = run_at(&path, &bouncer, &["reload"]);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("default_pool_size"), "{wrong:?}");
    std::fs::write(bouncer.ini(), text.replace("size = 4", "size = 9")).unwrap();
    assert_succeeds(&run_at(&path, &bouncer, &["reload"]));
    assert_eq!(bouncer.show("DATABASES", "pool_size")[0], "9");
}

#[test]
fn drain_waits_for_the_end_of_the_process() {
    let dir = directory();
    let path = dir.path().display().to_string();
    let mut bouncer = start(&path, &["drain_max_seconds = 2"]);
    let mut client = bouncer.client();
    client.query("BEGIN");
    assert_succeeds(&run_at(&path, &bouncer, &["drain", "--wait"]));
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    assert_eq!(client.until_end()[0].error().0, "57P01");
    let gone = run_at(&path, &bouncer, &["status"]);
    assert!(gone.code == Some(1) && gone.stderr.contains("no pooler at "), "{gone:?}");
}

#[test]
fn drain_returns_at_once_and_gives_up_waiting() {
    let dir = directory();
    let path = dir.path().display().to_string();
    let bouncer = start(&path, &["drain_min_seconds = 600", "drain_max_seconds = 900"]);
    assert_succeeds(&run_at(&path, &bouncer, &["drain"]));
    let late = run_at(&path, &bouncer, &["drain", "--wait", "--max", "1"]);
    assert!(late.code == Some(1) && late.stderr.contains("has not stopped within 1 s"), "{late:?}");
    let status = run_at(&path, &bouncer, &["status"]);
    assert!(status.stdout.contains("\ndraining, not ready, "), "{status:?}");
}

#[test]
fn shutdown_ends_the_process_at_once_or_after_its_clients() {
    let dir = directory();
    let path = dir.path().display().to_string();
    for words in [&["shutdown"][..], &["shutdown", "--wait-for-servers"], &["shutdown", "--wait-for-clients"]]
    {
        let mut bouncer = start(&path, &[]);
        let client = bouncer.client();
        assert_succeeds(&run_at(&path, &bouncer, words));
        drop(client);
        assert_eq!(bouncer.wait_for_end().code(), Some(0), "{words:?}");
    }
    let both = program::run(&["shutdown", "--wait-for-servers", "--wait-for-clients"], &[]);
    assert_eq!(both.code, Some(2), "{both:?}");
}

#[test]
fn an_abstract_socket_a_file_and_variables_name_the_pooler() {
    let name = format!("@iambouncer-test-{}", std::process::id());
    let bouncer = start(&name, &[]);
    assert_succeeds(&run_at(&name, &bouncer, &["status"]));
    let port = bouncer.port.to_string();
    let variables = [("IAMBOUNCER_UNIX_SOCKET_DIR", name.as_str()), ("IAMBOUNCER_LISTEN_PORT", &port)];
    let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_succeeds(&program::run(&["status"], &variables));
    // The file has port 0, which the kernel replaces.
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let file = bouncer.dir().join("with_port.ini");
    std::fs::write(&file, text.replace("listen_port = 0", &format!("listen_port = {port}"))).unwrap();
    let file = file.display().to_string();
    assert_succeeds(&program::run(&["status", "--config", &file], &[]));
    assert_succeeds(&program::run(&["reload", "--config", &file, "--socket", &name], &[]));
}

#[test]
fn without_a_file_the_commands_need_a_socket() {
    let name = format!("@iambouncer-test-zero-{}", std::process::id());
    let mut bouncer =
        start_without_file(&[("IAMBOUNCER_UNIX_SOCKET_DIR", &name), ("IAMBOUNCER_DRAIN_MAX_SECONDS", "3")]);
    let mut client = bouncer.client();
    assert_succeeds(&run_at(&name, &bouncer, &["drain"]));
    eventually("the client is closed", || client.has_pending_input());
    assert_eq!(client.until_end()[0].error().0, "57P01");
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    let none = [("IAMBOUNCER_UNIX_SOCKET_DIR".to_owned(), String::new())];
    let output = program::run(&["drain"], &none);
    assert!(output.code == Some(1) && output.stderr.contains("unix_socket_dir is empty"), "{output:?}");
}

#[test]
fn another_account_needs_a_password() {
    use std::os::unix::process::CommandExt;
    // Only root can become another account.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let name = format!("@iambouncer-test-other-{}", std::process::id());
    let bouncer = start(&name, &["auth_type = scram-sha-256"]);
    let socket = format!("{name}/.s.PGSQL.{}", bouncer.port);
    let arguments = ["status", "--socket", &socket].map(str::to_owned);
    // A copy that the account can run.
    let dir = directory();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("iambouncer");
    program::copy(env!("CARGO_BIN_EXE_iambouncer").as_ref(), &copy);
    let mut command = std::process::Command::new(copy);
    command.args(arguments).env_clear().uid(65534).current_dir("/");
    let output = program::to_end(&mut command);
    assert!(output.code == Some(1) && output.stderr.contains("requires a password"), "{output:?}");
}
