//! Signals with the meaning they have in PgBouncer since 1.23, and the files of a pooler: pidfile and
//! logfile.

use crate::support::program::{self, Logged};
use crate::support::raw::tags;
use crate::support::{Bouncer, Client, eventually, postgres};
use rustix::process::Signal;
use std::io::Read;
use std::net::TcpStream;

/// True if a new client is not answered or receives an error.
fn is_closed(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return true };
    let mut packet = Vec::new();
    wire::encode::startup(&mut packet, wire::startup::Version::V3_0, &[("user", "app"), ("database", "app")]);
    let _ = std::io::Write::write_all(&mut stream, &packet);
    let mut answer = [0];
    !matches!(stream.read(&mut answer), Ok(1)) || answer[0] == b'E'
}

#[test]
fn term_waits_for_clients() {
    let mut bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    bouncer.signal(Signal::TERM);
    eventually("new clients are refused", || is_closed(bouncer.port));
    assert_eq!(client.value("SELECT 'goes on'"), "goes on");
    client.query("BEGIN");
    assert_eq!(client.value("SELECT 'still'"), "still");
    assert_eq!(tags(&client.query("COMMIT")), "CZ");
    drop(client);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
}

#[test]
fn int_waits_for_servers() {
    let mut bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 1"]);
    let mut idle = bouncer.client();
    let mut busy = bouncer.client();
    let mut waiting = bouncer.client();
    busy.query("BEGIN");
    waiting.send_query("SELECT 1");
    let mut console = bouncer.console();
    eventually("one client waits", || console.pools("cl_waiting") == ["1"]);
    bouncer.signal(Signal::INT);
    assert_eq!(waiting.until_end()[0].error().0, "57P01");
    assert!(is_closed(bouncer.port));
    assert_eq!(busy.value("SELECT 'goes on'"), "goes on");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_eq!(bouncer.wait_for_end().code(), Some(0));
    for client in [&mut idle, &mut busy] {
        assert_eq!(client.until_end()[0].error().0, "57P01");
    }
}

#[test]
fn a_repeated_signal_or_quit_shuts_down_at_once() {
    for signals in [&[Signal::TERM, Signal::TERM][..], &[Signal::INT, Signal::INT], &[Signal::QUIT]] {
        let mut bouncer = Bouncer::in_front_of(postgres(), &[]);
        let mut client = bouncer.client();
        client.query("BEGIN");
        bouncer.signal(signals[0]);
        eventually("the signal was seen", || bouncer.log().contains("got SIG"));
        for signal in &signals[1..] {
            assert_eq!(client.value("SELECT 1"), "1");
            bouncer.signal(*signal);
        }
        assert_eq!(bouncer.wait_for_end().code(), Some(0), "{signals:?}");
        assert_eq!(client.until_end()[0].error().0, "57P01", "{signals:?}");
    }
}

#[test]
fn hup_reloads() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 4"]);
    let mut client = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let mut console = bouncer.console();
    std::fs::write(bouncer.ini(), text.replace("size = 4", "size = four")).unwrap();
    bouncer.signal(Signal::HUP);
    eventually("the error is logged", || bouncer.log().contains("the previous one remains in force"));
    assert_eq!(console.column("SHOW DATABASES", "pool_size")[0], "4");
    std::fs::write(bouncer.ini(), text.replace("size = 4", "size = 9")).unwrap();
    bouncer.signal(Signal::HUP);
    eventually("the new size is in force", || console.column("SHOW DATABASES", "pool_size")[0] == "9");
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
}

#[test]
fn usr1_pauses_and_usr2_resumes() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    let mut console = bouncer.console();
    bouncer.signal(Signal::USR1);
    eventually("paused", || console.sees_pause());
    client.send_query("SELECT 'later'");
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    bouncer.signal(Signal::USR2);
    assert_eq!(client.until_ready()[1].row(), [Some("later".to_owned())]);
}

#[test]
fn pidfile_and_logfile_are_written_reopened_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 0\nhttp_port = 0\n\
         unix_socket_dir =\nauth_type = trust\nauth_file = {}\npidfile = {}\nlogfile = {}\n",
        postgres().port(),
        path("users.txt").display(),
        path("pooler.pid").display(),
        path("pooler.log").display(),
    );
    std::fs::write(path("users.txt"), "\"app\" \"\"\n").unwrap();
    std::fs::write(path("pooler.ini"), ini).unwrap();
    let mut pooler = Logged::start(&[path("pooler.ini").display().to_string()], &[], &path("pooler.log"));
    let pid = std::fs::read_to_string(path("pooler.pid")).unwrap();
    assert_eq!(pid.trim(), pooler.pid().to_string());

    let second = program::run(&[&path("pooler.ini").display().to_string()], &[]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(
        second.stderr.contains(&format!("names process {}, which is running", pooler.pid())),
        "{second:?}"
    );

    std::fs::rename(path("pooler.log"), path("pooler.log.1")).unwrap();
    pooler.signal(Signal::HUP);
    eventually("a new log file", || path("pooler.log").exists());
    assert_eq!(Client::log_in(pooler.port, "app", "app").value("SELECT 1"), "1");
    eventually("lines in the new log file", || pooler.log().contains("login attempt"));
    assert!(!std::fs::read_to_string(path("pooler.log.1")).unwrap().contains("login attempt"));

    pooler.signal(Signal::TERM);
    assert_eq!(pooler.wait_for_end().code(), Some(0));
    assert!(!path("pooler.pid").exists());
}
