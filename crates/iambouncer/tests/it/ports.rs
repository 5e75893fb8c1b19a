//! `listen_port` with several ports: each has a TCP listener and a UNIX socket.

use crate::support::bouncer::Start;
use crate::support::postgres;
use crate::support::program::{self, EXIT_CONFIGURATION};
use crate::support::raw::Client;
use std::os::unix::net::UnixStream;

#[test]
fn each_port_has_a_listener_and_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let start = Start::databases(&line).set("listen_port = 0, 0");
    let bouncer = start.set(&format!("unix_socket_dir = {}", dir.path().display())).start();
    let ready = bouncer.wait_for_line("ready: accepting connections on ");
    let ports: Vec<u16> = ready
        .split("127.0.0.1:")
        .skip(1)
        .map(|rest| rest.split(',').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ports.len(), 2, "{ready}");
    for port in ports {
        assert_eq!(Client::log_in(port, "app", "app").value("SELECT 1"), "1");
        UnixStream::connect(dir.path().join(format!(".s.PGSQL.{port}"))).unwrap();
    }
    let mut console = bouncer.console();
    let at = console.column("SHOW CONFIG", "key").iter().position(|key| key == "listen_port").unwrap();
    assert_eq!(console.column("SHOW CONFIG", "value")[at], "0, 0");
}

#[test]
fn a_faulty_list_of_ports_is_refused_by_name() {
    for (ports, part) in [("6432,6432", "has the port 6432 twice"), ("6432 6433", "is not a whole number")] {
        let words = ["db.example", "--user", "app", "--region", "eu-west-1", "--listen-port", ports];
        let output = program::run(&words, &[]);
        assert_eq!(output.code, Some(EXIT_CONFIGURATION), "{output:?}");
        assert!(output.stderr.contains("listen_port") && output.stderr.contains(part), "{output:?}");
    }
}
