//! The Debian package, installed by apt into a root file system of its own.

use super::pod::{DATABASE_HOST, Pod, VERSION, released, target_dir};
use crate::support::bouncer::end_with_the_test;
use crate::support::program;
use crate::support::{Bouncer, Client};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Time limit for unpacking and for apt.
const INSTALL_LIMIT: Duration = Duration::from_secs(120);

fn run_in(root: &Path, script: &str) -> String {
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(root).args(["sh", "-ec", script]).env_clear();
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
    let output = program::to_end_within(&mut command, INSTALL_LIMIT);
    assert_eq!(output.code, Some(0), "{script}: {output:?}");
    output.stdout
}

/// A root file system of Debian with apt, without the package.
fn debian() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let tarball = target_dir().join("image/context/debug-root.tar");
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(&tarball).arg("-C").arg(root.path()).args(["--exclude", "./dev/*"]);
    let unpacked = program::to_end_within(&mut tar, INSTALL_LIMIT);
    assert_eq!(unpacked.code, Some(0), "{unpacked:?}");
    let null = root.path().join("dev/null");
    let made = program::to_end(Command::new("mknod").args(["-m", "666"]).arg(&null).args(["c", "1", "3"]));
    assert_eq!(made.code, Some(0), "{made:?}");
    root
}

/// Installs the package with apt, offline: its dependencies are there.
fn install(root: &Path) {
    let name = format!("iambouncer_{VERSION}-1_amd64.deb");
    std::fs::copy(released(&name), root.join(&name)).unwrap();
    run_in(root, &format!("apt-get install -y -qq ./{name}"));
}

/// The value of a key of the unit.
fn unit_value(root: &Path, key: &str) -> String {
    let unit = std::fs::read_to_string(root.join("usr/lib/systemd/system/iambouncer.service")).unwrap();
    let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {key} in {unit}")).to_owned()
}

/// Does what systemd does before it starts the service: its runtime directory.
fn make_runtime_directory(root: &Path) {
    let name = unit_value(root, "RuntimeDirectory");
    let user = unit_value(root, "User");
    run_in(root, &format!("install -d -o {user} -g {user} /run/{name}"));
}

/// Starts the service with the command line and the account of its unit.
fn start(pod: &Pod, root: &Path) -> Bouncer {
    let (user, line) = (unit_value(root, "User"), unit_value(root, "ExecStart"));
    let ids = run_in(root, &format!("id -u {user}; id -g {user}"));
    let mut ids = ids.split_whitespace();
    let account = format!("{}:{}", ids.next().unwrap(), ids.next().unwrap());
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(format!("--userspec={account}")).arg(root).args(line.split(' '));
    command.env_clear().envs(pod.environment());
    end_with_the_test(&mut command);
    Bouncer::run(command, tempfile::tempdir().unwrap())
}

#[test]
#[ignore = "needs what tools/dist builds: make test-deploy"]
fn apt_installs_the_package_and_its_service_answers_a_query() {
    let pod = Pod::new();
    let debian = debian();
    let root = debian.path();
    install(root);
    assert!(run_in(root, "iambouncer --version").contains(VERSION));
    let files = run_in(root, "stat -c '%a %U:%G' /etc/iambouncer/*");
    assert_eq!(files.trim(), "640 root:iambouncer\n640 root:iambouncer");
    let checked = run_in(root, "iambouncer check /etc/iambouncer/iambouncer.ini");
    assert!(!checked.contains("error"), "{checked}");

    // What the administrator does: a database, and a user with a password.
    let ini = root.join("etc/iambouncer/iambouncer.ini");
    let text = std::fs::read_to_string(&ini).unwrap();
    let line = format!("[databases]\napp = host={DATABASE_HOST} dbname=app user=app server_auth=iam\n");
    std::fs::write(&ini, text.replacen("[databases]\n", &line, 1)).unwrap();
    run_in(root, "echo secret | iambouncer hash --user django >> /etc/iambouncer/userlist.txt");
    pod.copy_mounts(root);
    make_runtime_directory(root);
    let mut bouncer = start(&pod, root);
    assert_eq!(bouncer.port, 6432);
    let mut psql = Command::new("psql");
    psql.env("PGPASSWORD", "secret").args(["-w", "-At", "-c", "SELECT current_user"]);
    let answer = program::to_end(psql.arg("host=127.0.0.1 port=6432 user=django dbname=app"));
    assert_eq!((answer.code, answer.stdout.trim()), (Some(0), "app"), "{answer:?}\n{}", bouncer.log());
    bouncer.signal(rustix::process::Signal::TERM);
    assert_eq!(bouncer.wait_for_end().code(), Some(0));

    run_in(root, "apt-get purge -y -qq iambouncer");
    assert!(!root.join("usr/bin/iambouncer").exists());
}

#[test]
#[ignore = "needs what tools/dist builds: make test-deploy"]
fn the_example_configuration_has_no_database_and_starts() {
    let pod = Pod::new();
    let debian = debian();
    let root = debian.path();
    install(root);
    pod.copy_mounts(root);
    make_runtime_directory(root);
    let bouncer = start(&pod, root);
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    assert_eq!(client.read().expect("an answer").tag, b'R', "the password is asked for first");
}
