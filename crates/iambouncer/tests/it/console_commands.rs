//! The checks of the console's commands: texts, SQLSTATE, tags and log lines are those of PgBouncer.

use crate::support::raw::{Client, tags};
use crate::support::{Bouncer, eventually, postgres};

/// A command is refused with this text.
#[track_caller]
fn refused(console: &mut Client, command: &str, text: &str) {
    let answer = console.query(command);
    assert_eq!(tags(&answer), "EZ", "{command}");
    assert_eq!(answer[0].error(), ("08P01".to_owned(), text.to_owned()), "{command}");
}

/// A command succeeds with this tag.
#[track_caller]
fn done(console: &mut Client, command: &str, tag: &str) {
    let answer = console.query(command);
    assert!(tags(&answer).ends_with("CZ"), "{command}: {}", tags(&answer));
    assert_eq!(answer[answer.len() - 2].command_tag(), tag, "{command}");
}

#[test]
fn commands_name_what_is_wrong_as_pgbouncer_does() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    for command in ["PAUSE", "RESUME", "DISABLE", "ENABLE", "RECONNECT", "KILL", "WAIT_CLOSE"] {
        refused(&mut console, &format!("{command} dne"), "no such database: dne");
    }
    for (command, text) in [
        ("PAUSE pgbouncer", "cannot pause admin db: pgbouncer"),
        ("DISABLE pgbouncer", "cannot disable admin db: pgbouncer"),
        ("ENABLE \"pgbouncer\"", "cannot enable admin db: pgbouncer"),
        ("RECONNECT pgbouncer", "cannot reconnect admin db: pgbouncer"),
        ("KILL pgbouncer", "cannot kill admin db: pgbouncer"),
        ("WAIT_CLOSE pgbouncer", "cannot wait in admin db: pgbouncer"),
        ("RESUME pgbouncer", "database pgbouncer is not paused"),
        ("RESUME app", "database app is not paused"),
        ("RESUME", "pooler is not paused/suspended"),
        ("DISABLE", "a database is required"),
        ("ENABLE", "a database is required"),
        ("KILL_CLIENT", "invalid client pointer supplied"),
        ("KILL_CLIENT non_existant_client_id", "invalid client pointer supplied"),
        ("KILL_CLIENT 1000", "client not found"),
        ("SHUTDOWN later", "invalid command 'SHUTDOWN later', use SHOW HELP;"),
        ("RELOAD app", "invalid command 'RELOAD app', use SHOW HELP;"),
        ("PAUSE app now", "invalid command 'PAUSE app now', use SHOW HELP;"),
        ("SET pool_mode", "invalid command 'SET pool_mode', use SHOW HELP;"),
    ] {
        refused(&mut console, command, text);
    }
    for command in ["SUSPEND", "SHOW FDS"] {
        let answer = console.query(command);
        let (code, text) = answer[0].error();
        assert!(code == "08P01" && text.contains("deprecated"), "{text}");
        assert!(answer[0].hint().contains("so_reuseport"), "{}", answer[0].hint());
    }
    bouncer.wait_for_line("pooler error: no such database: dne");
}

#[test]
fn commands_need_admin_rights() {
    let bouncer = Bouncer::in_front_of(postgres(), &["stats_users = other"]);
    let mut reader = Client::log_in(bouncer.port, "other", "pgbouncer");
    for command in iambouncer::admin::table::COMMANDS.iter().filter(|command| command.admin_only) {
        let argument = if command.arguments.is_empty() { "" } else { " 1" };
        refused(&mut reader, &format!("{}{argument}", command.words), "admin access needed");
    }
    refused(&mut reader, "SET pool_mode = session", "admin access needed");
    refused(&mut reader, "SHOW FDS", "admin access needed");
    done(&mut reader, "SET extra_float_digits = 2", "SET");
}

#[test]
fn tags_and_log_lines_are_those_of_pgbouncer() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    for (command, tag, line) in [
        ("PAUSE app", "PAUSE", "PAUSE 'app' command issued"),
        ("RESUME app", "RESUME", "RESUME 'app' command issued"),
        ("PAUSE", "PAUSE", "PAUSE command issued"),
        ("RESUME;", "RESUME", "RESUME command issued"),
        ("disable \"app\"", "DISABLE", "DISABLE 'app' command issued"),
        ("enable 'app'", "ENABLE", "ENABLE 'app' command issued"),
        ("RECONNECT", "RECONNECT", "RECONNECT command issued"),
        ("WAIT_CLOSE app", "WAIT_CLOSE", "WAIT_CLOSE 'app' command issued"),
        ("KILL app", "KILL", "KILL 'app' command issued"),
        ("RELOAD", "RELOAD", "RELOAD command issued"),
        ("SET query_timeout = '7'", "SET query_timeout=7", "SET query_timeout"),
        ("set \"query_timeout\" to 8", "SET query_timeout=8", "SET query_timeout"),
        ("SHOW HELP", "SHOW", ""),
    ] {
        done(&mut console, command, tag);
        bouncer.wait_for_line(line);
    }
    let ignored = console.query("SET extra_float_digits = 2");
    assert_eq!((tags(&ignored).as_str(), ignored[1].command_tag().as_str()), ("NCZ", "SET"));
    assert_eq!(ignored[0].notice(), "SET ignored");
    let help = console.query("SHOW HELP");
    assert_eq!(help[0].notice(), "Console usage");
}

#[test]
fn resume_of_all_does_not_resume_a_database_that_was_paused_alone() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let paused = |console: &mut Client| console.column("SHOW DATABASES", "paused");
    done(&mut console, "PAUSE app", "PAUSE");
    // As often as desired.
    done(&mut console, "PAUSE app", "PAUSE");
    assert_eq!(paused(&mut console), ["1", "0"]);
    assert!(!console.sees_pause());
    done(&mut console, "PAUSE", "PAUSE");
    for command in ["PAUSE", "PAUSE app", "KILL", "KILL app"] {
        refused(&mut console, command, "already suspended/paused");
    }
    assert!(console.sees_pause());
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    eventually("the client waits", || console.pools("cl_waiting") == ["1"]);
    done(&mut console, "RESUME", "RESUME");
    assert_eq!((paused(&mut console)[0].as_str(), console.sees_pause()), ("1", false));
    assert!(!client.has_pending_input());
    done(&mut console, "RESUME app", "RESUME");
    client.until_ready();
    assert_eq!(client.value("SELECT 1"), "1");
    // A pause of all leaves the marks of single databases alone.
    done(&mut console, "PAUSE", "PAUSE");
    assert_eq!(paused(&mut console), ["0", "0"]);
    done(&mut console, "RESUME", "RESUME");
}

#[test]
fn killed_clients_are_gone_when_the_command_is_answered() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let mut clients = [bouncer.client(), bouncer.client()];
    let at = console.column("SHOW CLIENTS", "database").iter().position(|name| name == "app").unwrap();
    let id = console.column("SHOW CLIENTS", "id")[at].clone();
    done(&mut console, &format!("KILL_CLIENT {id}"), "KILL_CLIENT");
    assert_eq!(console.column("SHOW CLIENTS", "id").len(), 2);
    done(&mut console, "KILL", "KILL");
    assert_eq!(console.column("SHOW CLIENTS", "id").len(), 1);
    let mut texts: Vec<_> = clients.iter_mut().map(|client| client.until_end()[0].error().1).collect();
    texts.sort();
    assert_eq!(texts, ["admin forced disconnect", "database removed"]);
    // KILL without a name pauses the databases that were in use; each is resumed by its name.
    assert_eq!(console.column("SHOW DATABASES", "paused"), ["1", "0"]);
    done(&mut console, "RESUME app", "RESUME");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
}

#[test]
fn a_disabled_database_is_reported_as_pgbouncer_does() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    done(&mut console, "DISABLE app", "DISABLE");
    assert_eq!(bouncer.refused_login("app", "app").1, "database \"app\" is disabled");
    assert_eq!(console.column("SHOW DATABASES", "disabled"), ["1", "0"]);
}

#[test]
fn users_are_kept_while_auth_file_is_missing() {
    let bouncer = Bouncer::in_front_of(postgres(), &["auth_type = plain"]);
    let users = bouncer.dir().join("users.txt");
    let text = std::fs::read_to_string(&users).unwrap();
    let mut console = Client::start(bouncer.port, &[("user", "postgres"), ("database", "pgbouncer")]);
    drop(console.expect(b'R'));
    std::fs::remove_file(&users).unwrap();
    bouncer.signal(rustix::process::Signal::HUP);
    bouncer.wait_for_line("the previous users remain");
    bouncer.wait_for_line("configuration reloaded");
    let mut password = vec![b'p'];
    password.extend_from_slice(&11_u32.to_be_bytes());
    password.extend_from_slice(b"secret\0");
    let mut client = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    client.expect(b'R');
    client.send(&password);
    assert_eq!(client.until_ready().last().unwrap().tag, b'Z');
    std::fs::write(&users, text).unwrap();
}
