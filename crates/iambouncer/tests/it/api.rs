//! The API of the dashboard: its tables are those of the console, it is bounded, and it is open to those who may read it.

use crate::support::bouncer::Start;
use crate::support::http::{Answer, connect, get, request, send};
use crate::support::{Bouncer, Client, eventually, postgres};
use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

const AUTO: &str = "http_port = auto";
const TOKEN: &str = "a-token-of-the-tests";

fn json(port: u16, path: &str) -> Value {
    let answer = get(port, path);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

fn rows(bouncer: &Bouncer, table: &str) -> Vec<Value> {
    json(bouncer.http_port(), &format!("/api/v1/{table}"))["rows"].as_array().unwrap().clone()
}

/// A request with one more header line.
fn get_with(port: u16, path: &str, host: &str, header: &str) -> Answer {
    let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n");
    send(port, text.as_bytes()).unwrap()
}

fn basic(user: &str, password: &str) -> String {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {pair}\r\n")
}

#[test]
fn every_table_of_the_api_has_the_columns_of_its_show_command() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO, "workers = 2"]);
    let _client = bouncer.client();
    let mut console = bouncer.console();
    let index = json(bouncer.http_port(), "/api/v1");
    let tables = index["tables"].as_array().unwrap();
    assert!(tables.len() >= 30, "{index}");
    for table in tables {
        let name = table["name"].as_str().unwrap();
        let answer = json(bouncer.http_port(), table["path"].as_str().unwrap());
        let messages = console.query(&format!("SHOW {name}"));
        let headers: Vec<String> = messages[0].headers().into_iter().map(|(name, _)| name).collect();
        assert_eq!(table["columns"], serde_json::json!(headers), "{name}");
        let rows = answer["rows"].as_array().unwrap();
        assert_eq!(answer["total"], rows.len(), "{name}");
        for row in rows {
            let columns: BTreeSet<&String> = row.as_object().unwrap().keys().collect();
            assert_eq!(columns, headers.iter().collect(), "{name}");
        }
    }
    let pools = rows(&bouncer, "pools");
    let app = pools.iter().find(|row| row["database"] == "app").unwrap();
    assert_eq!((&app["sv_idle"], &app["cl_active"], &app["user"]), (&1.into(), &1.into(), &"app".into()));
}

#[test]
fn wrong_requests_are_answered_with_an_error() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    for (path, status) in [
        ("/api/v1/nonsense", 404),
        ("/api/v1/pools/app", 404),
        ("/api/v1/datestyle", 404),
        ("/api/v2", 404),
        ("/api/v1/pools?limit=0", 400),
        ("/api/v1/pools?limit=1000000", 400),
        ("/api/v1/pools?what=1", 400),
    ] {
        assert_eq!(get(port, path).status, status, "{path}");
    }
    assert_eq!(request(port, "POST", "/api/v1/pools").status, 405);
    assert_eq!(request(port, "HEAD", "/api/v1/stream").status, 200);
    assert_eq!(json(port, "/api/v1/settings?limit=3")["rows"].as_array().unwrap().len(), 3);
    let page = get(port, "/");
    assert!(
        page.status == 200 && page.head.contains("content-security-policy: default-src 'none'"),
        "{}",
        page.head
    );
}

#[test]
fn a_name_that_resolves_to_loopback_cannot_read_the_api() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    for host in ["127.0.0.1", "localhost:9127", "[::1]:9127"] {
        assert_eq!(get_with(port, "/api/v1/pools", host, "").status, 200, "{host}");
    }
    for path in ["/", "/dashboard.js", "/api/v1", "/api/v1/pools", "/api/v1/stream"] {
        assert_eq!(get_with(port, path, "rebound.example", "").status, 403, "{path}");
    }
    for path in ["/liveness", "/metrics"] {
        assert_eq!(get_with(port, path, "rebound.example", "").status, 200, "{path}");
    }
}

#[test]
fn on_other_addresses_a_password_or_the_token_is_required() {
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, TOKEN).unwrap();
    let start = || Start::databases(&line).set(AUTO).set("http_addr = 0.0.0.0");
    let port_of = |bouncer: &Bouncer| -> u16 {
        let line = bouncer.wait_for_line("probes and metrics on http://");
        line.rsplit_once(':').unwrap().1.trim().parse().unwrap()
    };

    // Without either, no request can succeed, and the answer says why.
    let bouncer = start().set("admin_users = absent").start();
    let refusal = get(port_of(&bouncer), "/api/v1/pools");
    assert!(refusal.status == 403 && refusal.body.contains("http_token_file"), "{refusal:?}");
    assert_eq!(get(port_of(&bouncer), "/metrics").status, 200);

    let bouncer = start()
        .set("admin_users = postgres")
        .set("stats_users = other")
        .set(&format!("http_token_file = {}", file.display()))
        .start();
    let port = port_of(&bouncer);
    let status = |path: &str, header: &str| get_with(port, path, "pooler.example", header).status;
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/", "/dashboard.js", "/api/v1", "/api/v1/pools"] {
        assert_eq!(status(path, ""), 401, "{path}");
        assert_eq!(status(path, &bearer), 200, "{path}");
        assert_eq!(status(path, &basic("any", TOKEN)), 200, "{path}");
        assert_eq!(status(path, &basic("other", "other")), 200, "{path}");
    }
    // Not a reader, a wrong password, an empty one, a wrong token.
    for header in [
        basic("app", "secret"),
        basic("other", "wrong"),
        basic("postgres", ""),
        "Authorization: Bearer a-token-of-the-test\r\n".to_owned(),
    ] {
        // Wrong passwords are verified a few times per second.
        eventually("the request is rejected", || status("/api/v1/pools", &header) == 401);
    }
    for path in ["/liveness", "/startup", "/metrics"] {
        assert_eq!(status(path, ""), 200, "{path}");
    }
    // The file is read at each request.
    std::fs::write(&file, "another-token-of-the-tests").unwrap();
    assert_eq!(status("/api/v1", &bearer), 401);
    assert!(!bouncer.log().contains(TOKEN));
}

/// A stream of updates.
struct Updates(BufReader<TcpStream>);

impl Updates {
    fn open(port: u16) -> Self {
        let mut stream = connect(port);
        stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        Self(BufReader::new(stream))
    }

    /// The next update.
    fn next(&mut self) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the stream has ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

#[test]
fn a_stream_shows_changes_and_the_number_of_streams_is_bounded() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO]);
    let port = bouncer.http_port();
    let mut updates = Updates::open(port);
    let in_use = |update: &Value| {
        let rows = update["pools"]["rows"].as_array().unwrap();
        rows.iter().find(|row| row["database"] == "app").map(|row| row["sv_active"].clone())
    };
    assert_eq!(in_use(&updates.next()), None);
    let mut client = bouncer.client();
    client.query("BEGIN");
    eventually("the transaction is shown", || in_use(&updates.next()) == Some(1.into()));

    let mut others: Vec<Updates> = (0..7).map(|_| Updates::open(port)).collect();
    others.iter_mut().for_each(|other| drop(other.next()));
    let refusal = get(port, "/api/v1/stream");
    assert!(refusal.status == 503 && refusal.head.contains("retry-after"), "{refusal:?}");
    assert_eq!(get(port, "/liveness").status, 200);
    others.pop();
    eventually("a place is free", || {
        let mut stream = connect(port);
        stream.write_all(b"GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.contains(" 200 ")
    });
    assert!(in_use(&updates.next()).is_some());
}

/// The rows of SHOW WAITING as `database reason`.
fn reasons(bouncer: &Bouncer) -> Vec<String> {
    let texts = |row: &Value| format!("{} {}", row["database"], row["reason"]).replace('"', "");
    let mut all: Vec<String> = rows(bouncer, "waiting").iter().map(texts).collect();
    all.sort();
    all
}

#[test]
fn the_reason_of_each_wait_is_the_limit_that_holds_it() {
    let port = postgres().port();
    let lines = format!(
        "full = host=127.0.0.1 port={port} dbname=app pool_size=1\n\
         limited = host=127.0.0.1 port={port} dbname=app user=other max_db_connections=1\n\
         paused = host=127.0.0.1 port={port} dbname=app\n\
         absent = host=127.0.0.1 port=1 dbname=app user=other\n\
         one = host=127.0.0.1 port={port} dbname=app\n\
         two = host=127.0.0.1 port={port} dbname=app"
    );
    let start = Start::databases(&lines).set(AUTO).set("server_login_retry = 300");
    let bouncer = start.set("query_wait_notify = 0").set("max_user_connections = 3").start();
    let mut holders: Vec<Client> = Vec::new();
    for database in ["full", "limited", "paused", "one"] {
        let mut client = Client::log_in(bouncer.port, "app", database);
        client.query("BEGIN");
        holders.push(client);
    }
    let mut waiters: Vec<Client> = Vec::new();
    for database in ["full", "limited", "paused", "two"] {
        waiters.push(Client::start(bouncer.port, &[("user", "app"), ("database", database)]));
    }
    // A client that waits for its startup response waits for a server, too.
    waiters.push(Client::start(bouncer.port, &[("user", "app"), ("database", "absent")]));
    for waiter in &mut waiters[..3] {
        waiter.until_ready();
        waiter.send_query("SELECT 1");
    }
    let mut console = bouncer.console();
    console.send_query("PAUSE paused");
    let expected =
        ["absent login_failed", "full pool_full", "limited database_full", "paused paused", "two user_full"];
    eventually("each wait has its reason", || reasons(&bouncer) == expected);
    let waiting = rows(&bouncer, "waiting");
    let of = |database: &str| waiting.iter().find(|row| row["database"] == database).unwrap();
    assert!(of("absent")["detail"].as_str().unwrap().contains("is tried again in"), "{}", of("absent"));
    assert!(of("limited")["detail"].as_str().unwrap().contains("max_db_connections"));
}

#[test]
fn failures_are_kept_after_logins_have_succeeded_again() {
    let line = format!("app = host=127.0.0.1 port={} dbname=absent", postgres().port());
    let bouncer = Start::databases(&line).set(AUTO).start();
    bouncer.refused_login("app", "app");
    let failure = rows(&bouncer, "login_failures").remove(0);
    assert!(failure["message"].as_str().unwrap().contains("absent"), "{failure}");
    assert!(
        failure["recovered"].is_null() && failure["remedy"].as_str().is_some_and(|text| !text.is_empty())
    );
    let ini = std::fs::read_to_string(bouncer.ini()).unwrap();
    std::fs::write(bouncer.ini(), ini.replace("dbname=absent", "dbname=app")).unwrap();
    bouncer.console().query("RELOAD");
    bouncer.client();
    let failure = rows(&bouncer, "login_failures").remove(0);
    assert!(failure["recovered"].is_string(), "{failure}");
    let events = rows(&bouncer, "events");
    let kinds: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    for kind in ["started", "login_failed", "command", "reloaded"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let failed = events.iter().find(|event| event["event"] == "login_failed").unwrap();
    assert_eq!((&failed["database"], &failed["level"]), (&"app".into(), &"error".into()));
}

#[test]
fn the_origin_of_each_setting_is_shown() {
    let line = format!("app = host=127.0.0.1 port={} dbname=app", postgres().port());
    let start = Start::databases(&line).set(AUTO).set("default_pool_size = 7");
    let bouncer = start.env("IAMBOUNCER_MIN_POOL_SIZE", "0").start();
    bouncer.console().query("SET query_timeout = 5");
    let settings = rows(&bouncer, "settings");
    let of = |key: &str| {
        let row = settings.iter().find(|row| row["key"] == key).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["origin"].as_str().unwrap().to_owned())
    };
    let (value, origin) = of("default_pool_size");
    assert!(value == "7" && origin.contains("pooler.ini:"), "{value} {origin}");
    assert_eq!(of("min_pool_size").1, "from IAMBOUNCER_MIN_POOL_SIZE");
    assert_eq!(of("query_timeout"), ("5".to_owned(), "SET".to_owned()));
    assert_eq!(of("server_lifetime").1, "default");
}

#[test]
fn the_history_and_the_percentiles_are_those_of_the_queries() {
    let bouncer = Bouncer::in_front_of(postgres(), &[AUTO, "workers = 2"]);
    let mut client = bouncer.client();
    eventually("a minute with queries", || {
        client.query("SELECT pg_sleep(0.005)");
        rows(&bouncer, "latencies")
            .iter()
            .any(|row| row["database"] == "app" && row["query_p50_us"].is_number())
    });
    let latencies = rows(&bouncer, "latencies");
    let app = latencies.iter().find(|row| row["database"] == "app").unwrap();
    let number = |column: &str| app[column].as_u64().unwrap();
    assert!(number("query_p50_us") >= 4096 && number("query_p99_us") >= number("query_p50_us"), "{app}");
    assert!(number("wait_p50_us") <= 64 && number("queries_per_s") > 0, "{app}");
    // The first sample of a pool has no rate.
    eventually("a rate in the history", || {
        client.query("SELECT 1");
        let history = rows(&bouncer, "history");
        history.iter().any(|row| row["database"] == "app" && row["queries_per_s"].as_u64() > Some(0))
    });
    let workers = rows(&bouncer, "workers");
    assert_eq!(workers.len(), 2);
    assert!(workers.iter().all(|worker| worker["cpu_time"].as_u64() > Some(0)), "{workers:?}");
}
