//! The console: commands, columns, rights, both protocols.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, eventually, postgres};

#[test]
fn every_show_command_answers_in_both_protocols() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let mut console = bouncer.console();
    for command in
        iambouncer::admin::table::COMMANDS.iter().filter(|command| command.words.starts_with("SHOW"))
    {
        let simple = tags(&console.query(command.words));
        assert!(simple.ends_with("CZ"), "{}: {simple}", command.words);
        let batch = [
            raw::parse("", command.words),
            raw::describe_statement(""),
            raw::bind("", "", &[]),
            raw::execute(),
        ];
        console.send(&[batch.concat(), raw::sync()].concat());
        let extended = tags(&console.until_ready());
        assert!(extended.starts_with("1t") && extended.ends_with("CZ"), "{}: {extended}", command.words);
    }
}

#[test]
fn a_real_driver_reads_the_console() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(async {
        let url = format!("host=127.0.0.1 port={} user=postgres dbname=pgbouncer", bouncer.port);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let rows = client.simple_query("SHOW DATABASES").await.unwrap().len();
        drop(client);
        connection.await.unwrap().unwrap();
        rows
    });
    assert!(rows >= 3);
}

#[test]
fn only_admin_users_may_change_the_pooler() {
    let bouncer = Bouncer::in_front_of(postgres(), &["stats_users = other"]);
    let mut reader = Client::log_in(bouncer.port, "other", "pgbouncer");
    assert_eq!(tags(&reader.query("SHOW STATE")), "TDDDCZ");
    let messages = reader.query("PAUSE");
    assert_eq!(messages[0].error(), ("08P01".to_owned(), "admin access needed".to_owned()));
    let mut stranger = Client::start(bouncer.port, &[("user", "app"), ("database", "pgbouncer")]);
    assert_eq!(stranger.read().unwrap().error().0, "42501");
    let mut unknown = Client::start(bouncer.port, &[("user", "ghost"), ("database", "pgbouncer")]);
    assert_eq!(unknown.read().unwrap().error().0, "28P01");
}

#[test]
fn the_limits_of_clients_hold_on_the_console_except_for_admin_users() {
    for limit in ["max_user_client_connections", "max_db_client_connections"] {
        let bouncer = Bouncer::in_front_of(postgres(), &["stats_users = other"]);
        bouncer.console().query(&format!("SET {limit} = 2"));
        eventually("the console is free", || bouncer.show("CLIENTS", "user").len() == 1);
        let readers = [(); 2].map(|()| Client::log_in(bouncer.port, "other", "pgbouncer"));
        let mut third = Client::start(bouncer.port, &[("user", "other"), ("database", "pgbouncer")]);
        let error = third.until_end().pop().unwrap().error();
        assert_eq!(error, ("53300".to_owned(), format!("client connections exceeded ({limit})")));
        let admins = [(); 3].map(|()| bouncer.console());
        drop(readers);
        drop(admins);
        eventually("there is room again", || {
            let mut reader = Client::start(bouncer.port, &[("user", "other"), ("database", "pgbouncer")]);
            reader.read().is_some_and(|message| message.tag == b'R')
        });
    }
}

#[test]
fn an_unknown_command_is_an_error_and_the_session_continues() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let messages = console.query("SHOW NONSENSE");
    let text = "invalid command 'SHOW NONSENSE', use SHOW HELP;";
    assert_eq!(messages[0].error(), ("08P01".to_owned(), text.to_owned()));
    assert_eq!(tags(&console.query("SHOW VERSION")), "TDCZ");
    console.send(&[raw::parse("", "SHOW NONSENSE"), raw::bind("", "", &[]), raw::sync()].concat());
    assert_eq!(tags(&console.until_ready()), "EZ");
}

#[test]
fn set_changes_a_setting_and_refuses_invalid_ones() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let value = |console: &mut Client, key: &str| {
        let keys = console.column("SHOW CONFIG", "key");
        let at = keys.iter().position(|known| known == key).unwrap();
        console.column("SHOW CONFIG", "value")[at].clone()
    };
    assert_eq!(tags(&console.query("SET query_wait_timeout = 7")), "CZ");
    assert_eq!(value(&mut console, "query_wait_timeout"), "7");
    assert_eq!(tags(&console.query("SET default_pool_size='3'")), "CZ");
    assert_eq!(value(&mut console, "default_pool_size"), "3");
    for (command, reason) in [
        ("SET default_pool_size = many", "value \"many\""),
        ("SET defualt_pool_size = 3", "unknown setting"),
        ("SET listen_port = 3", "without a restart"),
    ] {
        let answer = console.query(command);
        assert_eq!(answer[0].error(), ("08P01".to_owned(), "SET failed".to_owned()));
        assert!(answer[0].detail().contains(reason), "{}", answer[0].detail());
    }
    assert_eq!(console.query("SET defualt_pool_size = 3")[0].hint(), "did you mean \"default_pool_size\"?");
    assert_eq!(value(&mut console, "default_pool_size"), "3");
}

#[test]
fn reload_applies_the_whole_file_or_nothing() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 4"]);
    let mut client = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    let text = std::fs::read_to_string(bouncer.ini()).unwrap();
    let mut console = bouncer.console();
    std::fs::write(bouncer.ini(), text.replace("default_pool_size = 4", "default_pool_size = nine")).unwrap();
    let messages = console.query("RELOAD");
    let failed = "RELOAD failed, see logs for additional details";
    assert_eq!(messages[0].error(), ("F0000".to_owned(), failed.to_owned()));
    assert!(messages[0].detail().contains("default_pool_size"), "{:?}", messages[0].detail());
    bouncer.wait_for_line("RELOAD Failed, see logs for more details");
    assert_eq!(console.column("SHOW DATABASES", "pool_size")[0], "4");
    std::fs::write(bouncer.ini(), text.replace("default_pool_size = 4", "default_pool_size = 9")).unwrap();
    assert_eq!(tags(&console.query("RELOAD")), "CZ");
    assert_eq!(console.column("SHOW DATABASES", "pool_size")[0], "9");
    assert_eq!(client.value("SELECT pg_backend_pid()"), pid);
    // A changed database line replaces the servers.
    std::fs::write(bouncer.ini(), text.replace("dbname=app", "dbname=postgres")).unwrap();
    console.query("RELOAD");
    assert_eq!(client.value("SELECT current_database()"), "postgres");
}

#[test]
fn pause_waits_for_transactions_and_holds_clients_back_until_resume() {
    let bouncer = Bouncer::in_front_of(postgres(), &["default_pool_size = 2"]);
    let mut busy = bouncer.client();
    busy.query("BEGIN");
    let mut pauser = bouncer.console();
    pauser.send_query("PAUSE");
    let mut console = bouncer.console();
    eventually("PAUSE is in force", || console.sees_pause());
    let mut late = bouncer.client();
    late.send_query("SELECT 'late'");
    eventually("the late client waits", || console.pools("cl_waiting") == ["1"]);
    assert_eq!(busy.value("SELECT 'goes on'"), "goes on");
    assert_eq!(tags(&busy.query("COMMIT")), "CZ");
    assert_eq!(tags(&pauser.until_ready()), "CZ");
    assert_eq!(console.column("SHOW SERVERS", "state").len(), 0);
    assert_eq!(tags(&console.query("RESUME")), "CZ");
    assert_eq!(tags(&late.until_ready()), "TDCZ");
}

#[test]
fn kill_client_and_disable_and_reconnect() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    let pid = client.value("SELECT pg_backend_pid()");
    let mut console = bouncer.console();
    console.query("RECONNECT app");
    assert_ne!(client.value("SELECT pg_backend_pid()"), pid);
    console.query("DISABLE app");
    let mut refused = Client::start(bouncer.port, &[("user", "app"), ("database", "app")]);
    assert_eq!(refused.read().unwrap().error().0, "57P03");
    assert_eq!(client.value("SELECT 1"), "1");
    console.query("ENABLE app");
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let databases = console.column("SHOW CLIENTS", "database");
    let at = databases.iter().position(|name| name == "app").unwrap();
    let id = console.column("SHOW CLIENTS", "id")[at].clone();
    assert_eq!(tags(&console.query(&format!("KILL_CLIENT {id}"))), "CZ");
    assert_eq!(client.read().unwrap().error().0, "57P01");
}
