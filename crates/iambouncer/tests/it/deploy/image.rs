//! The images: what they declare, and that the pooler runs in them as an unprivileged user on a read-only root file system.

use super::pod::{Container, DATABASE_HOST, Pod, VERSION, bundle};
use crate::support::Client;
use crate::support::program;
use serde_json::Value;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// The five variables of aws-pgbouncer-sidecar.
pub(super) fn five_variables() -> Vec<(String, String)> {
    let words = [
        ("RDS_HOST", DATABASE_HOST),
        ("AWS_REGION", "eu-west-1"),
        ("DB_USERNAME", "app"),
        ("DB_NAME", "app"),
        ("DB_PORT", "5432"),
    ];
    words.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn start(pod: &Pod, tag: &str, more: &[(&str, &str)]) -> Container {
    let mut environment = five_variables();
    environment.extend(pod.environment());
    environment.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    let mut container = pod.start(tag, &environment, &[]);
    container.wait_for("ready: accepting connections on");
    container
}

fn psql(host: &str, port: u16, query: &str) -> String {
    let mut psql = Command::new("psql");
    let target = format!("host={host} port={port} user=anyone dbname=app sslmode=disable");
    let output = program::to_end(psql.args(["-w", "-At", "-c", query, &target]));
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout.trim().to_owned()
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn with_five_variables_the_image_serves_both_ports_and_a_socket_for_each() {
    let pod = Pod::new();
    let mut container = start(&pod, VERSION, &[]);
    for port in [5432, 6432] {
        assert_eq!(psql("127.0.0.1", port, "SELECT current_user"), "app");
        assert_eq!(psql("@iambouncer", port, "SELECT current_user"), "app");
    }
    let checked = container.exec(&["/iambouncer", "healthcheck"]);
    assert_eq!(checked.code, Some(0), "{checked:?}\n{}", container.log());
    let log = container.log();
    assert!(log.contains("listen_port = 5432,6432 (from LISTEN_PORT)"), "{log}");
    assert!(!log.contains("WARN"), "{log}");
    assert_eq!(container.stop().code(), Some(0), "{}", container.log());
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_list_of_ports_is_shown_and_can_be_replaced() {
    let pod = Pod::new();
    let container = start(&pod, VERSION, &[("LISTEN_PORT", "6433")]);
    assert_eq!(psql("127.0.0.1", 6433, "SELECT 1"), "1");
    assert!(std::net::TcpStream::connect("127.0.0.1:5432").is_err());
    drop(container);
    let container = start(&pod, VERSION, &[]);
    // The same account as the pooler's is an administrator on the UNIX socket.
    let shown = container.exec(&["/iambouncer", "status"]);
    assert!(shown.code == Some(0) && shown.stdout.contains("app"), "{shown:?}");
    let mut console = Command::new("psql");
    console.args([
        "-w",
        "-At",
        "-c",
        "SHOW CONFIG",
        "host=@iambouncer port=6432 user=pgbouncer dbname=pgbouncer",
    ]);
    console.uid(65532).env("HOME", "/");
    let config = program::to_end(&mut console).stdout;
    assert!(config.lines().any(|line| line.starts_with("listen_port|5432, 6432|6432|")), "{config}");
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn term_closes_idle_clients_and_ends_with_status_zero_within_the_grace_period() {
    let pod = Pod::new();
    let mut container = start(&pod, VERSION, &[("IAMBOUNCER_DRAIN_MAX_SECONDS", "2")]);
    let mut client = Client::log_in(6432, "anyone", "app");
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(container.stop().code(), Some(0), "{}", container.log());
    assert_eq!(client.read().expect("a message").error().0, "57P01");
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn a_mounted_file_is_read_as_by_pgbouncer() {
    let pod = Pod::new();
    let file = format!(
        "[databases]\napp = host={DATABASE_HOST} user=app server_auth=iam\n[pgbouncer]\nauth_type = any\n\
         listen_addr = 127.0.0.1\nserver_tls_sslmode = verify-full\n"
    );
    let environment = pod.environment();
    let mut container = pod.start_with_file(VERSION, &environment, &file);
    container.wait_for("ready: accepting connections on");
    assert_eq!(psql("127.0.0.1", 6432, "SELECT current_user"), "app");
    // The ports of the image are those of a start without a file, and there is no /tmp for the default UNIX socket.
    assert!(std::net::TcpStream::connect("127.0.0.1:5432").is_err());
    assert!(container.log().contains("no UNIX socket"), "{}", container.log());
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_images_declare_an_unprivileged_user_and_the_binary_as_entry_point() {
    for tag in [VERSION.to_owned(), format!("{VERSION}-debug")] {
        let config = std::fs::read_to_string(bundle(&tag).join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["process"]["user"]["uid"], 65532, "{tag}");
        assert_eq!(config["process"]["user"]["gid"], 65532, "{tag}");
        assert_eq!(config["process"]["args"], serde_json::json!(["/iambouncer"]), "{tag}");
        assert!(config["process"]["env"].to_string().contains("LISTEN_PORT=5432,6432"), "{tag}");
        assert_eq!(config["annotations"]["org.opencontainers.image.stopSignal"], "SIGTERM", "{tag}");
    }
    let files = std::fs::read_dir(bundle(VERSION).join("rootfs")).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    // Where containers of other tests had mounts.
    let of_runtime = ["proc", "dev", "sys", "etc", "tls", "ca.pem", "pgbouncer.ini"];
    let mut own: Vec<_> = names.iter().filter(|name| !of_runtime.contains(&name.as_str())).collect();
    own.sort();
    assert_eq!(own, ["LICENSE", "iambouncer"]);
}

#[test]
#[ignore = "needs what tools/images builds: make test-deploy"]
fn the_debug_image_contains_a_shell_and_psql() {
    let pod = Pod::new();
    let tag = format!("{VERSION}-debug");
    let container = start(&pod, &tag, &[]);
    let shown = container.exec(&[
        "sh",
        "-c",
        "psql -h localhost -p 5432 -U $DB_USERNAME -d $DB_NAME -Atc 'SELECT 1'",
    ]);
    assert_eq!((shown.code, shown.stdout.trim()), (Some(0), "1"), "{shown:?}");
    let written = container.exec(&["sh", "-c", "echo x > /written"]);
    assert!(written.code != Some(0) && written.stderr.contains("Read-only"), "{written:?}");
}
