//! `auth_file` while the pooler runs: changes are noticed, faults keep the previous users, tokens are not used.

use crate::support::bouncer::Start;
use crate::support::{Bouncer, Client, eventually, postgres};
use std::path::PathBuf;

fn start(users: &str) -> (Bouncer, PathBuf) {
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let bouncer = Start::databases(&line).users(users).start();
    let file = bouncer.dir().join("users.txt");
    (bouncer, file)
}

fn can_log_in(bouncer: &Bouncer, user: &str) -> bool {
    let mut client = Client::start(bouncer.port, &[("user", user), ("database", "app")]);
    client.read().is_some_and(|message| message.tag == b'R')
}

/// Replaces the file as editors and `kubectl` do.
fn replace(file: &PathBuf, text: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, file).unwrap();
}

#[test]
fn a_changed_file_is_read_without_reload() {
    let (bouncer, file) = start("\"app\" \"\"\n");
    assert!(!can_log_in(&bouncer, "newcomer"));
    std::fs::write(&file, "\"app\" \"\"\n\"newcomer\" \"\"\n").unwrap();
    eventually("the newcomer is known", || can_log_in(&bouncer, "newcomer"));
    replace(&file, "\"app\" \"\"\n\"another\" \"\"\n");
    eventually("the file was replaced", || {
        can_log_in(&bouncer, "another") && !can_log_in(&bouncer, "newcomer")
    });
}

#[test]
fn a_faulty_or_missing_file_leaves_the_previous_users() {
    let (bouncer, file) = start("\"app\" \"\"\n");
    replace(&file, "\"app\" \"\"\n\"broken\n");
    bouncer.wait_for_line("auth_file has changed and could not be read");
    assert!(can_log_in(&bouncer, "app") && !can_log_in(&bouncer, "broken"));
    std::fs::remove_file(&file).unwrap();
    assert!(can_log_in(&bouncer, "app"));
    replace(&file, "\"later\" \"\"\n");
    eventually("the file is there again", || can_log_in(&bouncer, "later"));
}

#[test]
fn tokens_are_not_passwords() {
    let token = "db.example:5432/?Action=connect&DBUser=app&X-Amz-Date=20240115T123456Z&X-Amz-Signature=00ff";
    let users = format!("\"app\" \"{token}\"\n\"postgres\" \"\"\n");
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&line).users(&users).set("auth_type = plain").start();
    let line = bouncer.wait_for_line("IAM tokens that are stored as passwords are not used");
    assert!(line.contains("user=\"app\"") && line.contains("server_auth = iam"), "{line}");
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    client.expect(b'R');
    let mut message = Vec::new();
    wire::encode::password(&mut message, token);
    client.send(&message);
    assert_eq!(client.until_end().last().unwrap().error().0, "28P01");
    assert!(!bouncer.log().contains("X-Amz-Signature"));
}

#[test]
fn a_password_of_64_kib_is_accepted() {
    let password = "p".repeat(65_530);
    let line = format!("app = host=127.0.0.1 port={} dbname=app user=app", postgres().port());
    let users = format!("\"app\" \"{password}\"\n");
    let bouncer = Start::databases(&line).users(&users).set("auth_type = plain").start();
    for (given, is_right) in [(password.clone(), true), (format!("{}q", &password[1..]), false)] {
        let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
        client.expect(b'R');
        let mut message = Vec::new();
        wire::encode::password(&mut message, &given);
        client.send(&message);
        let answer = client.read().unwrap();
        assert_eq!(answer.tag == b'R', is_right, "{answer:?}");
    }
}
