//! Output and exit codes of the smaller commands; and a pooler listens only on the configured ports.

use crate::support::program::{self, ProgramOutput};
use crate::support::sim::{RDS_HOST, Sim};
use crate::support::{Bouncer, postgres};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

fn ok(ended: ProgramOutput) -> String {
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    ended.stdout
}

/// TCP ports on which this process listens.
fn listening(bouncer: &Bouncer) -> BTreeSet<u16> {
    let pid = bouncer.pid().as_raw_nonzero();
    let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let sockets: BTreeSet<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for fields in text.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>()) {
            // Local address, state (0A is LISTEN), inode.
            if fields[3] == "0A" && sockets.contains(fields[9]) {
                let port = fields[1].rsplit(':').next().unwrap();
                ports.insert(u16::from_str_radix(port, 16).unwrap());
            }
        }
    }
    ports
}

#[test]
fn without_http_the_pooler_listens_on_its_own_port_only() {
    // A process that is not root may inspect another only if that is dumpable.
    let on = Bouncer::in_front_of(postgres(), &["http_port = auto", "core_dumps = 1"]);
    assert_eq!(listening(&on), BTreeSet::from([on.port, on.http_port()]));
    let off = Bouncer::in_front_of(postgres(), &["http_port = 0", "core_dumps = 1"]);
    assert_eq!(listening(&off), BTreeSet::from([off.port]));
    assert!(!off.log().contains("probes and metrics on"), "{}", off.log());
    let words = ["healthcheck", "--address", &format!("127.0.0.1:{}", on.http_port())];
    assert_eq!(program::run(&words, &[]).code, Some(0));
}

#[test]
fn all_built_in_authorities_are_listed_with_expiry_and_origin() {
    let all = rds_iam::roots::authorities();
    let text = ok(program::run(&["authorities"], &[]));
    assert_eq!(text.lines().count(), all.len());
    assert!(all.len() > 80, "{text}");
    for (line, authority) in text.lines().zip(&all) {
        let words: Vec<&str> = line.strip_prefix(authority.subject).expect(line).split_whitespace().collect();
        assert_eq!(words[0], authority.ends_on, "{line}");
        assert_eq!(words[1..].join(" "), authority.origin, "{line}");
        assert!(authority.ends_on.len() == 10 && authority.origin.contains("npm"), "{line}");
    }
}

#[test]
fn completions_of_every_shell_and_the_manual_list_all_commands() {
    let texts = [["completions", "bash"], ["completions", "zsh"], ["completions", "fish"]]
        .map(|words| ok(program::run(&words, &[])));
    let manual = ok(program::run(&["man"], &[]));
    for command in ["doctor", "authorities", "check", "exec", "hash", "healthcheck", "policy", "run", "token"]
    {
        for text in texts.iter().chain([&manual]) {
            assert!(text.contains(command), "{command}: {text}");
        }
    }
    let [bash, zsh, fish] = &texts;
    assert!(bash.contains("complete -F"), "{bash}");
    assert!(zsh.starts_with("#compdef iambouncer"), "{zsh}");
    assert!(fish.contains("complete -c iambouncer"), "{fish}");
    let unknown = program::run(&["completions", "cmd.exe"], &[]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
}

#[test]
fn exec_of_a_file_that_is_not_executable_exits_as_a_shell_does() {
    let sim = Sim::in_front_of(postgres());
    let file = sim.dir().join("no-program");
    std::fs::write(&file, "not run").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = file.display().to_string();
    let mut environment = sim.environment();
    environment.push(("IAMBOUNCER_SERVER_TLS_CA_FILE".to_owned(), sim.ca_file().display().to_string()));
    let words = ["exec", "--host", RDS_HOST, "--user", "app", "--", &file];
    let ended = program::run(&words, &environment);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(126), ""), "{ended:?}");
    assert!(ended.stderr.contains(&format!("cannot run {file}: Permission denied")), "{ended:?}");
}

#[test]
fn a_policy_for_terraform_is_a_document_with_the_exact_arn() {
    let policy = |user: &str| {
        let words = ["policy", RDS_HOST, "--user", user, "--account", "123456789012"];
        let more = ["--resource-id", "db-ABC1", "--format", "terraform"];
        ok(program::run(&[&words[..], &more].concat(), &[]))
    };
    let expected = "data \"aws_iam_policy_document\" \"rds_connect\" {\n  statement {\n    \
                    actions   = [\"rds-db:connect\"]\n    \
                    resources = [\"arn:aws:rds-db:eu-west-1:123456789012:dbuser:db-ABC1/app\"]\n  }\n}\n";
    assert_eq!(policy("app"), expected);
    // No part of a name is interpreted as Terraform syntax.
    assert!(policy("${a}\"%{b}").contains("/$${a}\\\"%%{b}\"]"), "{}", policy("${a}\"%{b}"));
}
