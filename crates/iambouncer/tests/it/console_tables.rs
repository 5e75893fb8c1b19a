//! The tables of the console: their values, and the queries of tools of PgBouncer.

use crate::support::raw::{self, Client, tags};
use crate::support::{Bouncer, bouncer::Start, eventually, postgres};
use std::collections::BTreeMap;

/// The rows of a table by their first value, each as column and value.
fn rows(console: &mut Client, command: &str) -> BTreeMap<String, BTreeMap<String, Option<String>>> {
    let answer = console.query(command);
    let names: Vec<String> = answer[0].headers().into_iter().map(|(name, _)| name).collect();
    let rows = answer.iter().filter(|message| message.tag == b'D').map(|message| {
        let values = message.row();
        (values[0].clone().unwrap(), names.iter().cloned().zip(values).collect())
    });
    rows.collect()
}

fn text<'a>(row: &'a BTreeMap<String, Option<String>>, column: &str) -> &'a str {
    row[column].as_deref().unwrap_or("NULL")
}

#[test]
fn the_console_is_a_database_and_a_pool_with_true_counts() {
    let bouncer = Bouncer::in_front_of(postgres(), &["server_lifetime = 77", "max_db_connections = 9"]);
    let (_other, mut console) = (bouncer.console(), bouncer.console());
    let pool = &rows(&mut console, "SHOW POOLS")["pgbouncer"];
    for (column, value) in [
        ("user", "pgbouncer"),
        ("cl_active", "2"),
        ("cl_waiting", "0"),
        ("sv_active", "0"),
        ("pool_mode", "statement"),
        ("load_balance_hosts", "NULL"),
    ] {
        assert_eq!(text(pool, column), value, "{column}");
    }
    let databases = rows(&mut console, "SHOW DATABASES");
    let database = &databases["pgbouncer"];
    for (column, value) in [
        ("host", "NULL"),
        ("database", "pgbouncer"),
        ("force_user", "pgbouncer"),
        ("pool_size", "2"),
        ("server_lifetime", "77"),
        ("pool_mode", "statement"),
        ("max_connections", "9"),
        ("current_connections", "0"),
        ("current_client_connections", "2"),
    ] {
        assert_eq!(text(database, column), value, "{column}");
    }
    assert_eq!(text(&databases["app"], "load_balance_hosts"), "NULL", "one host");
    assert_eq!(text(&databases["app"], "pool_mode"), "NULL", "none of its own");
    // The queries above, and this one.
    let stats = rows(&mut console, "SHOW STATS_TOTALS");
    let own = &stats["pgbouncer"];
    assert_eq!((text(own, "client_login_count"), text(own, "query_count")), ("2", "3"));
    assert_eq!((text(own, "xact_count"), text(own, "server_assignment_count")), ("3", "0"));
    assert_eq!(console.column("SHOW POOLS", "database"), ["pgbouncer"], "no pool but the console's");
}

#[test]
fn several_hosts_have_an_order() {
    let line = format!("app = host=127.0.0.1,localhost port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&line).start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let mut console = bouncer.console();
    for (command, key) in [("SHOW DATABASES", "app"), ("SHOW POOLS", "app")] {
        assert_eq!(text(&rows(&mut console, command)[key], "load_balance_hosts"), "round-robin");
    }
}

#[test]
fn clients_and_servers_have_numbers_of_one_sequence() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session"]);
    let mut console = bouncer.console();
    let ids = |console: &mut Client, what: &str| -> Vec<u64> {
        let ids = console.column(&format!("SHOW {what}"), "id");
        ids.iter().map(|id| id.parse().unwrap()).collect()
    };
    let first = ids(&mut console, "SOCKETS")[0];
    let mut client = bouncer.client();
    assert_eq!(client.value("SELECT 1"), "1");
    assert_eq!(ids(&mut console, "SERVERS"), [first + 2], "a server after its client");
    let mut all = ids(&mut console, "SOCKETS");
    all.sort_unstable();
    assert_eq!(all, [first, first + 1, first + 2]);
    // A login that is not complete is a socket, but not a client.
    let _half = Client::connect(bouncer.port);
    eventually("it is accepted", || console.column("SHOW SOCKETS", "state").contains(&"cl_login".to_owned()));
    assert_eq!(ids(&mut console, "CLIENTS").len(), 2);
    assert_eq!(console.column("SHOW ACTIVE_SOCKETS", "state"), ["sv_active"]);
}

#[test]
fn numbers_of_transactions_and_queries_are_those_of_pgbouncer() {
    let bouncer = Bouncer::in_front_of(postgres(), &["pool_mode = session"]);
    for _ in 0..4 {
        let mut client = bouncer.client();
        assert_eq!(client.value("SELECT 1"), "1");
    }
    let mut client = bouncer.client();
    for _ in 0..2 {
        client.query("BEGIN");
        for _ in 0..3 {
            client.query("SELECT 1");
        }
        client.query("COMMIT");
    }
    let mut console = bouncer.console();
    let counts = |console: &mut Client| {
        let stats = rows(console, "SHOW STATS");
        let value = |column: &str| text(&stats["app"], column).parse::<u64>().unwrap();
        ["total_server_assignment_count", "total_client_login_count", "total_xact_count", "total_query_count"]
            .map(value)
    };
    assert_eq!(counts(&mut console), [5, 5, 6, 14]);
    // A transaction counts from its beginning, and once.
    client.query("BEGIN");
    client.send_query("SELECT pg_sleep(60)");
    eventually("the query runs", || counts(&mut console) == [5, 5, 7, 16]);
    drop(client);
    eventually("the server is closed", || console.pools("sv_active") == ["0"]);
    assert_eq!(counts(&mut console), [5, 5, 7, 16]);
    // The sums include the console.
    let totals = rows(&mut console, "SHOW TOTALS");
    assert_eq!(text(&totals["total_client_login_count"], "value"), "6");
    assert_eq!(text(&totals["total_server_assignment_count"], "value"), "5");
}

#[test]
fn averages_are_shown_in_the_first_period() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut client = bouncer.client();
    for _ in 0..200 {
        client.query("SELECT 1");
    }
    let mut console = bouncer.console();
    let stats = rows(&mut console, "SHOW STATS");
    for column in ["avg_query_count", "avg_xact_count", "avg_recv", "avg_sent"] {
        assert_ne!(text(&stats["app"], column), "0", "{column}");
    }
    let averages = rows(&mut console, "SHOW STATS_AVERAGES");
    assert_ne!(text(&averages["app"], "query_count"), "0");
}

#[test]
fn users_are_shown_with_their_own_values_only() {
    let bouncer = Start::databases(&format!("app = host=127.0.0.1 port={}", postgres().port()))
        .set("max_user_connections = 8")
        .set("[users]\ntest1 = pool_size=1 reserve_pool_size=2 pool_mode=session max_user_connections=3\ntest2 =")
        .start();
    let _client = bouncer.client();
    let users = rows(&mut bouncer.console(), "SHOW USERS");
    let values = |user: &str| {
        ["pool_size", "reserve_pool_size", "pool_mode", "max_user_connections"]
            .map(|column| text(&users[user], column).trim().to_owned())
    };
    assert_eq!(values("test1"), ["1", "2", "session", "3"]);
    assert_eq!(values("test2"), ["", "", "NULL", "8"]);
    let connections = |user: &str| {
        ["current_connections", "current_client_connections"].map(|column| text(&users[user], column))
    };
    assert_eq!(connections("app"), ["1", "1"]);
    assert_eq!(connections("postgres"), ["0", "1"], "the client of the console");
    assert_eq!(bouncer.show("LISTS", "items")[1], users.len().to_string());
}

#[test]
fn memory_is_that_of_all_workers() {
    let bouncer = Bouncer::in_front_of(postgres(), &["workers = 2"]);
    let mut clients: Vec<Client> = (0..5).map(|_| bouncer.client()).collect();
    assert_eq!(clients[0].value("SELECT 1"), "1");
    let memory = rows(&mut bouncer.console(), "SHOW MEM");
    assert_eq!(text(&memory["client_cache"], "used"), "6");
    for row in memory.values() {
        let [size, used, free, total] =
            ["size", "used", "free", "memtotal"].map(|column| text(row, column).parse::<u64>().unwrap());
        assert_eq!(size * (used + free), total);
    }
}

#[test]
fn host_names_are_shown_with_their_addresses() {
    let line = format!("app = host=localhost port={} dbname=app", postgres().port());
    let bouncer = Start::databases(&line).start();
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let hosts = rows(&mut bouncer.console(), "SHOW DNS_HOSTS");
    assert!(text(&hosts["localhost"], "addrs").contains("127.0.0.1"), "{hosts:?}");
    assert!(text(&hosts["localhost"], "ttl").parse::<u64>().unwrap() <= 15);
}

#[test]
fn the_version_is_that_of_the_command_line_and_the_file_is_shown() {
    let bouncer = Bouncer::in_front_of(postgres(), &[]);
    let mut console = bouncer.console();
    let version = console.value("SHOW VERSION");
    let printed = crate::support::program::run(&["--version"], &[]);
    assert_eq!((printed.code, printed.stdout.lines().next()), (Some(0), Some(version.as_str())));
    assert!(version.starts_with("PgBouncer 1.25.2 ") && version.contains("iambouncer"), "{version}");
    let config = rows(&mut console, "SHOW CONFIG");
    assert_eq!(text(&config["conffile"], "value"), bouncer.ini().display().to_string());
    console.query("RELOAD");
    assert_eq!(console.value("SHOW VERSION"), version);
    assert_eq!(
        text(&rows(&mut console, "SHOW CONFIG")["conffile"], "value"),
        bouncer.ini().display().to_string()
    );
}

#[test]
fn parameters_at_login_name_the_pooler_and_its_settings() {
    let bouncer = Bouncer::in_front_of(postgres(), &["max_prepared_statements = 7"]);
    let of = |client: &Client| {
        ["version", "max_prepared_statements", "pool_mode"]
            .map(|name| client.reported(&format!("pgbouncer.{name}")).unwrap_or_default())
    };
    assert_eq!(of(&bouncer.client()), ["1.25.2", "7", "transaction"]);
    let mut console = bouncer.console();
    assert_eq!(of(&console), ["1.25.2", "0", "statement"]);
    assert_eq!(console.reported("server_version").as_deref(), Some("1.25.2/bouncer"));
    assert_eq!(tags(&console.query("SET pool_mode = session")), "CZ");
    assert_eq!(of(&bouncer.client()), ["1.25.2", "7", "session"]);
}

/// The queries of the exporter for Prometheus, of Datadog's check, and of Telegraf's plugin.
#[test]
fn queries_of_the_exporters_are_answered_in_both_protocols() {
    let bouncer = Bouncer::in_front_of(postgres(), &["stats_users = other"]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let parameters = [("user", "other"), ("database", "pgbouncer"), ("extra_float_digits", "2")];
    let mut exporter = Client::log_in_with(bouncer.port, &parameters);
    for command in [
        "SHOW STATS",
        "SHOW VERSION;",
        "SHOW LISTS;",
        "SHOW CONFIG;",
        "SHOW databases;",
        "SHOW stats_totals;",
        "SHOW pools;",
        "SHOW CLIENTS",
        "SHOW SERVERS",
        "SHOW MEM",
        "SHOW STATS;",
        "SHOW POOLS;",
        "SHOW DATABASES;",
        "SET extra_float_digits = 3",
        "SET application_name = 'exporter'",
        "set client_encoding to 'UTF8'",
    ] {
        let simple = exporter.query(command);
        assert!(tags(&simple).ends_with("CZ"), "{command}: {}", tags(&simple));
        let batch = [raw::parse("", command), raw::bind("", "", &[]), raw::execute(), raw::sync()];
        exporter.send(&batch.concat());
        let extended = tags(&exporter.until_ready());
        assert!(extended.starts_with("12") && extended.ends_with("CZ"), "{command}: {extended}");
    }
    let config = rows(&mut exporter, "SHOW CONFIG");
    for key in ["max_client_conn", "max_user_connections"] {
        assert!(text(&config[key], "value").parse::<f64>().is_ok(), "{key}");
    }
    // Datadog parses both times so.
    let connected = &exporter.column("SHOW CLIENTS", "connect_time")[0];
    let words: Vec<&str> = connected.split(' ').collect();
    assert_eq!((words[0].len(), words[1].len()), (10, 8), "{connected}");
}
