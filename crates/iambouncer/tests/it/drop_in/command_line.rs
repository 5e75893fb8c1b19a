//! PgBouncer's command line, and the account that the pooler runs as.

use super::write_ini;
use crate::support::program::{self, Logged, ProgramOutput};
use crate::support::{Client, eventually};
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// Removes the user that the tests set when they run as root.
const NO_USER: (&str, &str) = ("IAMBOUNCER_USER", "");

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> ProgramOutput {
    let environment: Vec<_> =
        environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    program::run(arguments, &environment)
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Ends a process that is not a child, and waits for it.
fn end(pid: Pid) {
    kill_process(pid, Signal::QUIT).unwrap();
    eventually("the background process ends", || test_kill_process(pid).is_err());
}

fn port_in(log: &str) -> u16 {
    let (_, rest) = log.split_once("ready: accepting connections on 127.0.0.1:").expect(log);
    rest.lines().next().unwrap().trim().parse().unwrap()
}

#[test]
fn the_command_returns_when_the_background_process_accepts_clients() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pooler.pid");
    let ini = write_ini(dir.path(), &format!("pidfile = {}\n", pid_file.display()));
    let output = run(&["-d", "-v", &ini], &[]);
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), ""), "{output:?}");
    let log = text(&dir.path().join("pooler.log"));
    let pid = Pid::from_raw(text(&pid_file).trim().parse().unwrap()).unwrap();
    assert_eq!(Client::log_in(port_in(&log), "app", "app").value("SELECT 1"), "1");
    let session = rustix::process::getsid(Some(pid)).unwrap();
    assert_eq!(session, pid, "the background process has left the terminal");
    end(pid);
    assert!(!pid_file.exists());
}

#[test]
fn a_background_process_that_cannot_start_reports_why() {
    let dir = tempfile::tempdir().unwrap();
    let ini = write_ini(dir.path(), "");
    let output = run(&["-d", &ini], &[]);
    assert_eq!(output.code, Some(78));
    assert!(output.stderr.contains("daemon needs pidfile configured"), "{output:?}");
    let missing = dir.path().join("missing/pooler.pid");
    let ini = write_ini(dir.path(), &format!("pidfile = {}\n", missing.display()));
    let output = run(&["--daemon", &ini], &[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("cannot write pidfile"), "{output:?}");
}

#[test]
fn quiet_silences_standard_error_only() {
    let dir = tempfile::tempdir().unwrap();
    let ini = write_ini(dir.path(), "verbose = 1\n");
    let log_file = dir.path().join("pooler.log");
    for (flags, is_silent) in [(&["-q"][..], true), (&[], false)] {
        let _ = std::fs::remove_file(&log_file);
        let arguments: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).chain([ini.clone()]).collect();
        let stderr = dir.path().join("stderr");
        let mut command = crate::support::bouncer::command(&arguments, &[]);
        command.stderr(std::fs::File::create(&stderr).unwrap());
        let mut pooler = Logged::spawn(command, &log_file);
        Client::log_in(pooler.port, "app", "app");
        eventually("the login in the log file", || pooler.log().contains("login attempt"));
        pooler.signal(Signal::QUIT);
        pooler.wait_for_end();
        assert_eq!(text(&stderr).is_empty(), is_silent, "{}", text(&stderr));
        assert!(pooler.log().contains(" LOG "), "{}", pooler.log());
    }
}

#[test]
fn reboot_is_refused_with_what_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["-R", &write_ini(dir.path(), "")], &[]);
    assert_eq!(output.code, Some(78));
    assert!(output.stderr.contains("so_reuseport"), "{output:?}");
}

#[test]
fn root_is_refused_with_a_file_and_without_a_user() {
    if !geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ini = write_ini(dir.path(), "");
    let output = run(&[&ini], &[NO_USER]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("must not run as root"), "{output:?}");
    let output = run(&["-u", "no-such-user", &ini], &[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("there is no such user"), "{output:?}");
}

/// As the first process of a container, root has no alternative.
#[test]
fn root_is_accepted_as_the_first_process_of_a_container() {
    if !geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let ini = write_ini(dir.path(), "");
    let mut command = crate::support::bouncer::command_through(
        &["unshare", "--pid", "--fork", "--kill-child=KILL"].map(str::to_owned),
        &[ini],
        &[(NO_USER.0.to_owned(), NO_USER.1.to_owned())],
    );
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let pooler = Logged::spawn(command, &dir.path().join("pooler.log"));
    assert!(pooler.log().contains("first process of a container"), "{}", pooler.log());
}

/// The account of the process: real, effective, saved and file-system user and group.
fn accounts_of(pid: u32) -> Vec<u32> {
    let status = text(Path::new(&format!("/proc/{pid}/status")));
    let lines = status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:"));
    lines.flat_map(|line| line.split_whitespace().skip(1).map(|n| n.parse().unwrap())).collect()
}

#[test]
fn the_pooler_switches_to_the_user_and_its_files_belong_to_it() {
    if !geteuid().is_root() {
        return;
    }
    let passwd = text(Path::new("/etc/passwd"));
    let daemon = passwd.lines().find(|line| line.starts_with("daemon:")).unwrap();
    let ids: Vec<u32> = daemon.split(':').skip(2).take(2).map(|n| n.parse().unwrap()).collect();
    let (uid, gid) = (ids[0], ids[1]);
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(uid), Some(gid)).unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let path = |name: &str| dir.path().join(name);
    let settings = format!(
        "pidfile = {}\nunix_socket_dir = {}\nunix_socket_group = {gid}\nunix_socket_mode = 0770\ncore_dumps = 1\n",
        path("pooler.pid").display(),
        dir.path().display()
    );
    // Both spellings; -u replaces the setting.
    let cases = [
        (vec!["-u", "daemon"], "user = root\n"),
        (vec![], "user = daemon\n"),
        (vec!["--user", "daemon"], ""),
    ];
    for (flags, line) in cases {
        let ini = write_ini(dir.path(), &format!("{settings}{line}"));
        let arguments: Vec<String> =
            [&ini[..]].into_iter().chain(flags.iter().copied()).map(str::to_owned).collect();
        let mut command = crate::support::bouncer::command(&arguments, &[]);
        command.env_remove(NO_USER.0);
        let mut pooler = Logged::spawn(command, &path("pooler.log"));
        assert_eq!(accounts_of(pooler.pid()), [[uid; 4], [gid; 4]].concat(), "{flags:?}");
        let socket = format!(".s.PGSQL.{}", pooler.port);
        for name in ["pooler.pid", "pooler.log", &socket] {
            let owner = path(name).metadata().unwrap();
            assert_eq!((owner.uid(), owner.gid()), (uid, gid), "{name}");
        }
        assert_eq!(path(&socket).metadata().unwrap().permissions().mode() & 0o777, 0o770);
        assert_eq!(Client::log_in(pooler.port, "app", "app").value("SELECT 1"), "1");
        // The log can be reopened after the switch.
        std::fs::remove_file(path("pooler.log")).unwrap();
        pooler.signal(Signal::HUP);
        eventually("the log file is reopened", || pooler.log().contains("configuration reloaded"));
        pooler.signal(Signal::TERM);
        assert_eq!(pooler.wait_for_end().code(), Some(0));
        assert!(!path("pooler.pid").exists() && !path(&socket).exists());
        std::fs::remove_file(path("pooler.log")).unwrap();
    }
}

#[test]
fn an_unknown_group_of_the_socket_prevents_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let settings = format!("unix_socket_group = no-such-group\nunix_socket_dir = {}\n", dir.path().display());
    let output = run(&[&write_ini(dir.path(), &settings)], &[]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("there is no such group"), "{output:?}");
}

#[test]
fn the_name_of_the_process_is_job_name() {
    let dir = tempfile::tempdir().unwrap();
    let ini = write_ini(dir.path(), "job_name = pooler-blue\n");
    let pooler = Logged::start(&[ini], &[], &dir.path().join("pooler.log"));
    assert_eq!(text(Path::new(&format!("/proc/{}/comm", pooler.pid()))).trim(), "pooler-blue");
}
