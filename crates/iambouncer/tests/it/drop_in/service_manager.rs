//! systemd without a running systemd: notifications, the watchdog, sockets that were opened for the pooler, and the unit
//! file.

use super::write_ini;
use crate::support::bouncer::{command, command_through};
use crate::support::program::{self, Logged};
use crate::support::{Client, eventually};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn next(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 1000];
    let length = manager.recv(&mut bytes).expect("a notification");
    String::from_utf8(bytes[..length].to_vec()).unwrap().trim().to_owned()
}

#[test]
fn each_state_of_the_service_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(crate::support::TIMEOUT)).unwrap();
    let environment = [("NOTIFY_SOCKET".to_owned(), socket.display().to_string())];
    let log = dir.path().join("pooler.log");
    let mut pooler = Logged::spawn(command(&[write_ini(dir.path(), "")], &environment), &log);
    assert_eq!(next(&manager), "READY=1");
    pooler.signal(Signal::HUP);
    let reloading = next(&manager);
    let (state, at) = reloading.split_once('\n').expect(&reloading);
    assert_eq!(state, "RELOADING=1");
    assert!(at.strip_prefix("MONOTONIC_USEC=").is_some_and(|at| at.parse::<u64>().is_ok()), "{at}");
    assert_eq!(next(&manager), "READY=1");
    pooler.signal(Signal::TERM);
    assert_eq!(next(&manager), "STOPPING=1");
    assert_eq!(pooler.wait_for_end().code(), Some(0));
}

#[test]
fn the_watchdog_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(crate::support::TIMEOUT)).unwrap();
    let period = Duration::from_millis(200).as_micros().to_string();
    let environment =
        [("NOTIFY_SOCKET".to_owned(), socket.display().to_string()), ("WATCHDOG_USEC".to_owned(), period)];
    let log = dir.path().join("pooler.log");
    let _pooler = Logged::spawn(command(&[write_ini(dir.path(), "")], &environment), &log);
    assert_eq!(next(&manager), "READY=1");
    for _ in 0..3 {
        assert_eq!(next(&manager), "WATCHDOG=1");
    }
}

#[test]
fn sockets_of_the_service_manager_replace_the_configured_ones() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join(".s.PGSQL.6432");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let wrapper: Vec<String> = [
        "systemd-socket-activate",
        "-l",
        &format!("127.0.0.1:{port}"),
        "-l",
        &socket.display().to_string(),
        "-E",
        "IAMBOUNCER_USER",
    ]
    .map(str::to_owned)
    .into();
    // listen_addr of the file is not bound: its port is in use.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = format!("listen_port = {}\n", taken.local_addr().unwrap().port());
    let ini = write_ini(dir.path(), "").replace("pgbouncer.ini", "activated.ini");
    let text = super::ini(dir.path(), "").replace("listen_port = 0\n", &settings);
    std::fs::write(&ini, text).unwrap();
    let mut started = command_through(&wrapper, &[ini], &[]);
    started.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut manager = started.spawn().unwrap();
    eventually("the socket is open", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    // The first connection starts the pooler.
    assert_eq!(Client::log_in(port, "app", "app").value("SELECT 1"), "1");
    let mut psql = Command::new("psql");
    let target = format!("host={} port=6432 user=app dbname=app", dir.path().display());
    let output = program::to_end(psql.args(["-w", "-At", "-c", "SELECT 2", &target]));
    assert_eq!(output.stdout.trim(), "2", "{output:?}");
    rustix::process::kill_process(rustix::process::Pid::from_child(&manager), Signal::QUIT).unwrap();
    assert_eq!(manager.wait().unwrap().code(), Some(0));
    assert!(socket.exists(), "the file belongs to the service manager");
}

#[test]
fn the_unit_file_is_valid() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    let dir = tempfile::tempdir().unwrap();
    for name in ["iambouncer.service", "iambouncer.socket"] {
        let text = std::fs::read_to_string(deploy.join(name)).unwrap();
        // The package installs the program there.
        let text = text.replace("/usr/bin/iambouncer", env!("CARGO_BIN_EXE_iambouncer"));
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(dir.path().join("iambouncer.service"));
    let output = program::to_end(verify.arg(dir.path().join("iambouncer.socket")));
    let about_ours: Vec<_> = output.stderr.lines().filter(|line| line.contains("iambouncer")).collect();
    assert!(about_ours.is_empty(), "{output:?}");
}
