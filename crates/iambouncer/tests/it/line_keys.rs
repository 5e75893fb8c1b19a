//! Keys of `[databases]` and `[users]` lines that replace a setting: each is in force for its line, and only there. Keys with
//! tests of their own are not repeated here: hosts, passwords, `auth_query`, `max_db_connections`, `min_pool_size` and
//! `server_lifetime`.

use crate::support::bouncer::Start;
use crate::support::raw::tags;
use crate::support::{Bouncer, Client, eventually, postgres};

/// Two lines for one database, of which the second has these keys.
fn with_keys(keys: &str, settings: &[&str]) -> Bouncer {
    let to = format!("host=127.0.0.1 port={} dbname=app", postgres().port());
    let lines = format!("plain = {to}\nkeyed = {to} {keys}");
    settings.iter().fold(Start::databases(&lines), |start, line| start.set(line)).start()
}

fn with_user(keys: &str, settings: &[&str]) -> Bouncer {
    let lines = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let start = settings.iter().fold(Start::databases(&lines), |start, line| start.set(line));
    start.set(&format!("[users]\nother = {keys}")).start()
}

/// The error of a second transaction that begins while one is open, if it fails.
fn second_transaction(bouncer: &Bouncer, user: &str, database: &str) -> Option<String> {
    let mut first = Client::log_in(bouncer.port, user, database);
    let begun = first.query("BEGIN");
    if let Some(error) = begun.iter().find(|message| message.tag == b'E') {
        return Some(error.error().1);
    }
    let mut second = Client::start(bouncer.port, &[("user", user), ("database", database)]);
    let greeting = second.until_ready();
    let messages = if tags(&greeting).ends_with('Z') { second.query("BEGIN") } else { greeting };
    messages.iter().find(|message| message.tag == b'E').map(|message| message.error().1)
}

const WAITED: &str = "query_wait_timeout";

#[test]
fn limits_of_a_database_line_replace_the_settings() {
    for (keys, settings, of_plain, of_keyed) in [
        ("pool_size=1", &["query_wait_timeout = 2"][..], None, Some(WAITED)),
        ("pool_size=2", &["query_wait_timeout = 2", "default_pool_size = 1"], Some(WAITED), None),
        (
            "reserve_pool_size=1",
            &["query_wait_timeout = 3", "default_pool_size = 1", "reserve_pool_timeout = 1"],
            Some(WAITED),
            None,
        ),
        (
            "reserve_pool=1",
            &["query_wait_timeout = 3", "default_pool_size = 1", "reserve_pool_timeout = 1"],
            Some(WAITED),
            None,
        ),
        (
            "max_db_client_connections=1",
            &[],
            None,
            Some("client connections exceeded (max_db_client_connections)"),
        ),
        ("pool_mode=statement", &[], None, Some("transaction blocks not allowed in statement pooling mode")),
    ] {
        let bouncer = with_keys(keys, settings);
        assert_eq!(second_transaction(&bouncer, "app", "plain").as_deref(), of_plain, "{keys}: plain");
        assert_eq!(second_transaction(&bouncer, "app", "keyed").as_deref(), of_keyed, "{keys}: keyed");
    }
}

#[test]
fn limits_of_a_user_replace_the_settings() {
    for (keys, settings, of_app, of_other) in [
        ("pool_size=1", &["query_wait_timeout = 2"][..], None, Some(WAITED)),
        (
            "reserve_pool_size=1",
            &["query_wait_timeout = 3", "default_pool_size = 1", "reserve_pool_timeout = 1"],
            Some(WAITED),
            None,
        ),
        ("max_user_connections=1", &["query_wait_timeout = 2"], None, Some(WAITED)),
        (
            "max_user_connections=0",
            &["query_wait_timeout = 2", "max_user_connections = 1"],
            Some(WAITED),
            None,
        ),
        (
            "max_user_client_connections=1",
            &[],
            None,
            Some("client connections exceeded (max_user_client_connections)"),
        ),
        ("pool_mode=statement", &[], None, Some("transaction blocks not allowed in statement pooling mode")),
    ] {
        let bouncer = with_user(keys, settings);
        assert_eq!(second_transaction(&bouncer, "app", "app").as_deref(), of_app, "{keys}: app");
        assert_eq!(second_transaction(&bouncer, "other", "app").as_deref(), of_other, "{keys}: other");
    }
}

#[test]
fn timeouts_of_a_user_replace_the_settings() {
    for (key, query, text) in [
        ("query_timeout", Some("SELECT pg_sleep(60)"), "query timeout"),
        ("idle_transaction_timeout", Some("BEGIN"), "idle transaction timeout"),
        ("transaction_timeout", Some("BEGIN"), "transaction timeout"),
        ("client_idle_timeout", None, "client_idle_timeout"),
    ] {
        let bouncer = with_user(&format!("{key}=1"), &[]);
        let start = |user| {
            let mut client = Client::log_in(bouncer.port, user, "app");
            client.send_query(query.unwrap_or("SELECT 1"));
            if query != Some("SELECT pg_sleep(60)") {
                client.until_ready();
            }
            client
        };
        let mut app = start("app");
        assert_eq!(start("other").until_end().pop().unwrap().error().1, text, "{key}");
        assert!(!app.has_pending_input(), "{key} is in force for a user without it");
        app.send(&crate::support::raw::terminate());
    }
}

#[test]
fn query_wait_timeout_of_a_line_replaces_the_setting() {
    let to = format!("host=127.0.0.1 port={} dbname=app", postgres().port());
    let lines = format!("app = {to}\nkeyed = {to} query_wait_timeout=60");
    let bouncer = Start::databases(&lines)
        .set("default_pool_size = 1")
        .set("query_wait_timeout = 1\n[users]\nother = query_wait_timeout=60")
        .start();
    // Those with their own value wait first, and are still waiting when the others have given up.
    let mut waiting = [("other", "app"), ("app", "keyed")].map(|(user, database)| {
        let mut holder = Client::log_in(bouncer.port, user, database);
        holder.query("BEGIN");
        let mut waiting = Client::log_in(bouncer.port, user, database);
        waiting.send_query("SELECT 1");
        (holder, waiting)
    });
    assert_eq!(second_transaction(&bouncer, "app", "app").as_deref(), Some(WAITED));
    for (holder, waiting) in &mut waiting {
        assert!(!waiting.has_pending_input());
        holder.query("COMMIT");
        assert_eq!(tags(&waiting.until_ready()), "TDCZ");
    }
}

#[test]
fn pool_mode_session_of_a_line_keeps_the_server() {
    let bouncer = with_keys("pool_mode=session", &[]);
    let mut clients = ["plain", "keyed"].map(|database| Client::log_in(bouncer.port, "app", database));
    clients.iter_mut().for_each(|client| drop(client.query("SELECT 1")));
    let mut console = bouncer.console();
    let names = console.column("SHOW SERVERS", "database");
    let states = console.column("SHOW SERVERS", "state");
    let mut found: Vec<_> =
        names.iter().zip(&states).map(|(name, state)| format!("{name} {state}")).collect();
    found.sort();
    assert_eq!(found, ["keyed active", "plain idle"]);
}

#[test]
fn parameters_and_queries_of_a_line_reach_the_server() {
    for (key, show, expected) in [
        ("client_encoding=LATIN1", "SHOW client_encoding", "LATIN1"),
        ("datestyle='German, DMY'", "SHOW datestyle", "German, DMY"),
        ("timezone='Asia/Tokyo'", "SHOW timezone", "Asia/Tokyo"),
        ("application_name=of_the_line", "SHOW application_name", "of_the_line"),
        ("connect_query='SET my.key = ''seven'''", "SHOW my.key", "seven"),
        ("user=other", "SELECT current_user", "other"),
        ("dbname=postgres", "SELECT current_database()", "postgres"),
    ] {
        let bouncer = with_keys(key, &[]);
        assert_eq!(Client::log_in(bouncer.port, "app", "keyed").value(show), expected, "{key}");
        let plain = Client::log_in(bouncer.port, "app", "plain").query(show);
        let value = plain.iter().find(|message| message.tag == b'D').map(|message| message.row()[0].clone());
        assert_ne!(value.flatten().as_deref(), Some(expected), "{key} is in force for a line without it");
    }
}

/// PostgreSQL listens on the first address only.
#[test]
fn load_balance_hosts_of_a_line_selects_the_hosts() {
    for (keys, is_second_tried) in
        [("load_balance_hosts=disable", false), ("load_balance_hosts=round-robin", true)]
    {
        let to = format!("host=127.0.0.1,127.0.0.9 port={} dbname=app {keys}", postgres().port());
        let bouncer = Start::databases(&format!("app = {to}")).start();
        let mut clients: Vec<Client> = (0..3).map(|_| bouncer.client()).collect();
        clients.iter_mut().for_each(|client| client.send_query("BEGIN"));
        if is_second_tried {
            bouncer.wait_for_line("127.0.0.9");
        } else {
            clients.iter_mut().for_each(|client| drop(client.until_ready()));
            eventually("three servers", || bouncer.show("SERVERS", "addr") == ["127.0.0.1"; 3]);
            assert!(!bouncer.log().contains("127.0.0.9"), "{}", bouncer.log());
        }
    }
}
