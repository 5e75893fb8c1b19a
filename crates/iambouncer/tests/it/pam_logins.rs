//! `auth_type = pam`, and `pam` in HBA rules, with the host's PAM library and a service file of the test, which a mount
//! namespace puts in place of the system's.

use crate::hba::WithRules;
use crate::login::{log_in_with_clear_text as log_in, strict_server};
use crate::support::bouncer::Start;
use crate::support::{Bouncer, postgres};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const FAILED: &str = "28000 PAM authentication failed";

/// A directory with the service `pgbouncer`: it accepts the password `secret` from 127.0.0.1 for the users `app` and
/// `other`.
fn services() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("check");
    let text = "#!/bin/sh\nIFS= read -r password\n\
                case $password/$PAM_USER/$PAM_RHOST in secret/app/127.0.0.1 | secret/other/127.0.0.1) exit 0 ;; esac\n\
                exit 1\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let lines = format!(
        "auth required pam_exec.so quiet expose_authtok {}\naccount required pam_permit.so\n",
        script.display()
    );
    std::fs::write(dir.path().join("pgbouncer"), lines).unwrap();
    dir
}

/// Runs the pooler with these services; the wrapper needs root or user namespaces.
fn in_namespace(services: &Path) -> Vec<String> {
    let mount = format!("mount --bind {} /etc/pam.d && exec \"$@\"", services.display());
    let words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"];
    words.map(str::to_owned).to_vec()
}

/// True if a mount namespace can be created here.
fn has_namespaces() -> bool {
    let made = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    made.is_ok_and(|status| status.success())
}

fn start(line: &str, services: &Path, change: impl FnOnce(Start<'_>) -> Start<'_>) -> Bouncer {
    let wrapper = in_namespace(services);
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let start = Start::databases(line).set("auth_type = pam").users("\"postgres\" \"\"\n").through(&words);
    // A program that PAM starts finds its own programs there.
    change(start.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")).start()
}

#[test]
fn pam_verifies_passwords() {
    if !has_namespaces() {
        return;
    }
    let services = services();
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = start(&line, services.path(), |start| start);
    assert_eq!(log_in(bouncer.port, "app", "secret").unwrap().value("SELECT 1"), "1");
    for (user, password) in [("app", "wrong"), ("app", ""), ("unknown_user", "secret")] {
        assert_eq!(log_in(bouncer.port, user, password).err().as_deref(), Some(FAILED), "{user} {password}");
    }
    bouncer.wait_for_line("pam_authenticate() failed: ");
    assert!(!bouncer.log().contains("secret"));
}

#[test]
fn rules_can_select_pam() {
    if !has_namespaces() {
        return;
    }
    let services = services();
    let wrapper = in_namespace(services.path());
    let words: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    let rules = "host app other all reject\nhost app all all pam\n";
    let rules = WithRules::start_with(&["app"], rules, "", "\"postgres\" \"\"\n", |start| {
        start.through(&words).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    });
    log_in(rules.bouncer.port, "app", "secret").unwrap();
    assert_eq!(log_in(rules.bouncer.port, "app", "wrong").err().as_deref(), Some(FAILED));
    assert_eq!(rules.tcp("app", "other", "secret"), Err("28000 login rejected".to_owned()));
}

#[test]
fn the_verified_password_is_used_for_logins_to_the_server() {
    if !has_namespaces() {
        return;
    }
    let services = services();
    let server = strict_server("scram-sha-256", "scram-sha-256");
    let line = format!("app = host=127.0.0.1 port={} dbname=app", server.port());
    let bouncer = start(&line, services.path(), |start| start);
    assert_eq!(log_in(bouncer.port, "app", "secret").unwrap().value("SELECT current_user"), "app");
}
