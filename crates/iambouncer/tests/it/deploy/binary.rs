//! The static binary and the tarballs.

use super::pod::{DATABASE_HOST, Pod, VERSION, released};
use crate::support::bouncer::end_with_the_test;
use crate::support::program::{self, EXIT_CONFIGURATION};
use crate::support::{Bouncer, Client};
use std::path::Path;
use std::process::Command;

fn run(command: &str, arguments: &[&str]) -> String {
    let output = program::to_end(Command::new(command).args(arguments));
    assert_eq!(output.code, Some(0), "{command} {arguments:?}: {output:?}");
    output.stdout
}

#[test]
#[ignore = "needs what tools/dist builds: make test-deploy"]
fn the_binary_runs_in_an_empty_root_file_system() {
    let pod = Pod::new();
    let root = tempfile::tempdir().unwrap();
    program::copy(&released("iambouncer"), &root.path().join("iambouncer"));
    std::fs::copy(pod.sim.ca_file(), root.path().join("ca.pem")).unwrap();
    // There is neither /etc/hosts nor /etc/resolv.conf, so the name server is named.
    let dns = pod.dns();
    let dns_server = dns.address().to_string();
    let mut environment = pod.environment();
    let words = [
        ("RDS_HOST", DATABASE_HOST),
        ("DB_USERNAME", "app"),
        ("DB_NAME", "app"),
        ("IAMBOUNCER_DNS_SERVER", &dns_server),
        ("IAMBOUNCER_LISTEN_PORT", "0"),
        ("IAMBOUNCER_HTTP_PORT", "auto"),
    ];
    environment.extend(words.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let root_path = root.path().display().to_string();
    let mut command = Command::new("/usr/sbin/chroot");
    command.args(["--userspec=65532:65532", &root_path, "/iambouncer"]).env_clear().envs(environment);
    end_with_the_test(&mut command);
    let bouncer = Bouncer::run(command, tempfile::tempdir().unwrap());
    assert_eq!(Client::log_in(bouncer.port, "anyone", "app").value("SELECT current_user"), "app");
    assert!(!bouncer.log().contains("root CA"), "{}", bouncer.log());
}

#[test]
#[ignore = "needs what tools/dist builds: make test-deploy"]
fn the_tarball_contains_what_is_needed_and_the_sums_are_right() {
    let dist = released("SHA256SUMS").parent().unwrap().to_owned();
    let mut check = Command::new("sha256sum");
    let sums = program::to_end(check.args(["--check", "SHA256SUMS"]).current_dir(&dist));
    assert_eq!((sums.code, sums.stdout.matches(": OK").count()), (Some(0), 4), "{sums:?}");

    let dir = tempfile::tempdir().unwrap();
    let name = format!("iambouncer-{VERSION}-x86_64-linux");
    let tarball = dist.join(format!("{name}.tar.gz")).display().to_string();
    run("tar", &["-xzf", &tarball, "-C", &dir.path().display().to_string()]);
    let path = |file: &str| dir.path().join(&name).join(file).display().to_string();
    assert!(run(&path("iambouncer"), &["--version"]).contains(&format!("iambouncer {VERSION}")));
    let elf = run("readelf", &["--program-headers", "--dynamic", &path("iambouncer")]);
    assert!(!elf.contains("INTERP") && !elf.contains("NEEDED"), "{elf}");
    run("bash", &["-n", &path("completions/iambouncer.bash")]);
    assert!(std::fs::read_to_string(path("iambouncer.1")).unwrap().contains(".SH SYNOPSIS"));
    for file in ["LICENSE", "README.md", "systemd/iambouncer.service", "iambouncer.ini"] {
        assert!(Path::new(&path(file)).exists(), "{file}");
    }
    // The file of users, which only the package installs, is the one thing that it misses.
    let checked = program::to_end(Command::new(path("iambouncer")).args(["check", &path("iambouncer.ini")]));
    let errors: Vec<_> = checked.stderr.lines().filter(|line| line.starts_with("error")).collect();
    assert!(
        checked.code == Some(EXIT_CONFIGURATION) && errors.len() == 1 && errors[0].contains("userlist.txt"),
        "{checked:?}"
    );
}

#[test]
#[ignore = "needs what tools/dist builds: make test-deploy"]
fn the_debug_symbols_belong_to_the_binary() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("iambouncer-{VERSION}-x86_64-linux-debug");
    let tarball = released(&format!("{name}.tar.gz")).display().to_string();
    run("tar", &["-xzf", &tarball, "-C", &dir.path().display().to_string()]);
    let symbols = dir.path().join(&name).join("iambouncer.debug").display().to_string();
    let build_id = |file: &str| {
        let notes = run("readelf", &["--notes", file]);
        notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ").map(str::to_owned))
    };
    let of_binary = build_id(&released("iambouncer").display().to_string());
    assert!(of_binary.is_some() && of_binary == build_id(&symbols), "{of_binary:?}");
    assert!(run("readelf", &["--section-headers", &symbols]).contains(".debug_line"));
}

#[test]
#[ignore = "needs what tools/dist builds: make test-deploy"]
fn the_bill_of_materials_names_the_dependencies() {
    let path = released(&format!("iambouncer-{VERSION}-x86_64-sbom.json"));
    let bill: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let components = bill["components"].as_array().unwrap();
    for name in ["rustls", "aws-lc-rs", "aws-config", "tokio"] {
        let found = components.iter().find(|component| component["name"] == name);
        let found = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert!(found["version"].is_string() && found["licenses"].is_array(), "{found}");
    }
}
