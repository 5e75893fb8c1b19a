//! The temporary server starts, answers, survives its own crash, and never outlives its owner.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rds_sim::postgres::{Postgres, PostgresOptions};

/// Set in the child that is killed; the child prints the location of its server.
const CHILD_VARIABLE: &str = "RDS_SIM_TEST_CHILD";

#[test]
fn a_server_starts_answers_and_removes_its_files() {
    let options = PostgresOptions {
        max_connections: 17,
        config_lines: vec!["work_mem = '7MB'".into()],
        ..PostgresOptions::default()
    };
    let mut server = Postgres::start(&options).unwrap();
    assert_eq!(server.sql("show max_connections").unwrap(), "17");
    assert_eq!(server.sql("show work_mem").unwrap(), "7MB");
    assert!(server.sql("select no_such_column").unwrap_err().to_string().contains("no_such_column"));

    server.sql("create table kept (x int)").unwrap();
    server.stop();
    assert!(server.sql("select 1").is_err());
    server.start_again().unwrap();
    assert_eq!(server.sql("select count(*) from kept").unwrap(), "0");

    let (dir, pid) = (server.socket_dir().to_owned(), server.server_pid().unwrap());
    drop(server);
    assert!(!dir.exists());
    assert!(!is_alive(pid));
}

#[test]
fn a_server_ends_when_its_owner_is_killed() {
    if std::env::var_os(CHILD_VARIABLE).is_some() {
        return child_that_waits_to_be_killed();
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_ends_when_its_owner_is_killed", "--nocapture"])
        .env(CHILD_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (pid, dir) = server_of(&mut child);
    assert!(is_alive(pid) && Path::new(&dir).exists());
    child.kill().unwrap();
    child.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(15);
    while is_alive(pid) || Path::new(&dir).exists() {
        assert!(Instant::now() < deadline, "the server outlived its owner");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn child_that_waits_to_be_killed() {
    let server = Postgres::start(&PostgresOptions::default()).unwrap();
    println!("\nserver={} {}", server.server_pid().unwrap(), server.socket_dir().display());
    std::thread::sleep(Duration::from_secs(60));
}

fn server_of(child: &mut std::process::Child) -> (u32, String) {
    use std::io::{BufRead, BufReader};
    let stdout = child.stdout.take().unwrap();
    for line in BufReader::new(stdout).lines() {
        if let Some((pid, dir)) = line.unwrap().strip_prefix("server=").and_then(|rest| rest.split_once(' '))
        {
            return (pid.parse().unwrap(), dir.to_owned());
        }
    }
    panic!("the child started no server");
}

fn is_alive(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command_line| !command_line.is_empty())
}
