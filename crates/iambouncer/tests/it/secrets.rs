//! Databases whose user and password are in Secrets Manager: logins, both ways of rotation, bad days of Secrets Manager,
//! and clients that show the same secret. The secrets are moto's, the server is a real PostgreSQL that asks for SCRAM.

use crate::iam::all_that_is_shown;
use crate::login::driver;
use crate::support::bouncer::Start;
use crate::support::http::{get, scrape};
use crate::support::moto::{CURRENT, Moto};
use crate::support::sim::Sim;
use crate::support::{Bouncer, Client, eventually, postgres, program};
use rds_sim::CredentialSettings;
use rds_sim::postgres::{Postgres, PostgresOptions};
use serde_json::json;

const NAME: &str = "prod/app";
/// Passwords that stand nowhere else, so that a place that shows one is found.
const FIRST: &str = "hush-one";
const SECOND: &str = "hush-two";
const MISTYPED: &str = "hush-mistyped";

/// A server, a secret with the password of its role `app`, and where both are.
struct Site {
    server: Postgres,
    moto: Moto,
    arn: String,
}

impl Site {
    fn new() -> Self {
        let hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n".to_owned();
        let server =
            crate::support::postgres::start(PostgresOptions { hba: Some(hba), ..Default::default() });
        server.sql(&format!("CREATE ROLE app LOGIN PASSWORD '{FIRST}'")).unwrap();
        server.sql("CREATE ROLE app_clone LOGIN PASSWORD 'clone'").unwrap();
        server.sql("CREATE DATABASE app OWNER app").unwrap();
        let moto = Moto::start();
        moto.create_secret(NAME, &value("app", FIRST));
        let described = moto.call("DescribeSecret", &json!({ "SecretId": NAME })).unwrap();
        let arn = described["ARN"].as_str().unwrap().to_owned();
        Self { server, moto, arn }
    }

    fn line(&self) -> String {
        let port = self.server.port();
        format!("app = host=127.0.0.1 port={port} dbname=app secret_arn={}", self.arn)
    }

    fn start<'a>(&self, line: &'a str) -> Start<'a> {
        let start = Start::databases(line).set("server_tls_sslmode = disable");
        self.moto.environment().into_iter().fold(start, |start, (key, value)| start.env(key, &value))
    }

    fn pooler(&self, settings: &[&str]) -> Bouncer {
        let line = self.line();
        settings.iter().fold(self.start(&line), |start, setting| start.set(setting)).start()
    }

    /// What a rotation in place does: the role gets a new password, then the secret holds it.
    fn rotate(&self, password: &str) {
        self.set_password(password);
        self.moto.rotate(NAME, &value("app", password));
    }

    fn set_password(&self, password: &str) {
        self.server.sql(&format!("ALTER ROLE app PASSWORD '{password}'")).unwrap();
    }
}

/// A secret as RDS writes it.
fn value(user: &str, password: &str) -> String {
    json!({ "engine": "postgres", "host": "elsewhere", "port": 1, "username": user, "password": password })
        .to_string()
}

fn shown(bouncer: &Bouncer, column: &str) -> String {
    bouncer.show("SECRETS", column).remove(0)
}

#[test]
fn an_unknown_user_is_asked_like_the_one_of_the_secret() {
    let site = Site::new();
    let bouncer = site.pooler(&["auth_type = md5", "auth_file ="]);
    let asked = |user: &str| {
        let mut client = Client::start(bouncer.port, &[("user", user), ("database", "app")]);
        client.expect(b'R').bytes[..9].to_vec()
    };
    let known = asked("app");
    for unknown in ["ghost", "app_clone", "x"] {
        assert_eq!(asked(unknown), known, "{unknown}");
    }
}

#[test]
fn a_login_takes_user_and_password_from_the_secret_and_reads_it_once() {
    let site = Site::new();
    let bouncer = site.pooler(&["default_pool_size = 3", "http_port = auto"]);
    let mut clients: Vec<Client> =
        ["app", "other", "app"].iter().map(|user| Client::log_in(bouncer.port, user, "app")).collect();
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(client.value("SELECT current_user"), "app");
    }
    assert_eq!(bouncer.show("POOLS", "user"), [NAME]);
    let columns = ["secret", "identity", "user", "reads", "failed_reads", "rotations"];
    let row: Vec<String> = columns.iter().map(|column| shown(&bouncer, column)).collect();
    assert_eq!(row, [&site.arn, "default", "app", "1", "0", "0"]);
    assert_eq!(shown(&bouncer, "version"), site.moto.secret_value(NAME, CURRENT).1);
    let figures = scrape(bouncer.http_port());
    let secret = ("secret", site.arn.as_str());
    assert_eq!(figures.sum("iambouncer_secret_reads_total", &[secret, ("result", "ok")]), Some(1.0));
    assert_eq!(figures.sum("iambouncer_secret_rotations_total", &[secret]), Some(0.0));
    assert!(figures.sum("iambouncer_secret_age_seconds", &[secret]) > Some(0.0));
    bouncer.wait_for_line(&format!("secret={} identity=default", site.arn));
    for told in [bouncer.log(), all_that_is_shown(&bouncer)] {
        assert!(!told.contains(FIRST), "{told}");
    }
}

#[test]
fn a_rotated_password_is_used_at_once_and_drops_nobody() {
    let site = Site::new();
    let bouncer = site.pooler(&["default_pool_size = 2"]);
    let mut old = bouncer.client();
    old.query("BEGIN");
    let pid = old.value("SELECT pg_backend_pid()");
    // After a refusal a secret is read again unless that was done within two seconds.
    eventually("the first read is some time ago", || shown(&bouncer, "age").parse::<u32>().unwrap() >= 3);
    site.rotate(SECOND);
    let mut new = bouncer.client();
    new.query("BEGIN");
    assert_eq!(new.value("SELECT current_user"), "app");
    assert_eq!(old.value("SELECT pg_backend_pid()"), pid);
    assert_eq!(shown(&bouncer, "rotations"), "1");
    assert!(!shown(&bouncer, "previous_until").is_empty());
    bouncer.wait_for_line("secret rotated");
    assert!(!bouncer.log().contains("ERROR"), "{}", bouncer.log());
}

/// Until the secret follows the role, nobody has the right password. RDS takes about a minute for that.
#[test]
fn in_the_middle_of_a_rotation_clients_wait_and_are_served() {
    let site = Site::new();
    let bouncer = site.pooler(&[]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    site.set_password(SECOND);
    bouncer.console().query("RECONNECT");
    bouncer.wait_for_servers(0);
    let mut waiting = bouncer.client();
    waiting.send_query("SELECT 'served'");
    bouncer.wait_for_line("may be in the middle of a rotation");
    site.moto.rotate(NAME, &value("app", SECOND));
    assert_eq!(waiting.until_ready()[1].row(), [Some("served".to_owned())]);
}

#[test]
fn alternating_users_take_turns_and_running_sessions_stay() {
    let site = Site::new();
    let bouncer = site.pooler(&["default_pool_size = 2", "secret_refresh = 1"]);
    let mut old = bouncer.client();
    old.query("BEGIN");
    assert_eq!(old.value("SELECT current_user"), "app");
    site.moto.rotate(NAME, &value("app_clone", "clone"));
    // Both passwords are good, so no refusal tells: the next read does.
    eventually("the other user's turn is known", || {
        let mut one = bouncer.client();
        one.query("SELECT 1");
        bouncer.console().query("RECONNECT");
        shown(&bouncer, "user") == "app_clone"
    });
    let mut new = bouncer.client();
    new.query("BEGIN");
    assert_eq!(new.value("SELECT current_user"), "app_clone");
    assert_eq!(old.value("SELECT current_user"), "app");
    assert_eq!(bouncer.show("POOLS", "user"), [NAME], "one pool, whoever's turn it is");
}

#[test]
fn while_secrets_manager_is_away_logins_go_on() {
    let site = Site::new();
    let bouncer = site.pooler(&["secret_refresh = 1"]);
    assert_eq!(bouncer.client().value("SELECT 1"), "1");
    let Site { server: _server, moto, .. } = site;
    drop(moto);
    eventually("a read has failed", || {
        bouncer.console().query("RECONNECT");
        assert_eq!(bouncer.client().value("SELECT 1"), "1");
        shown(&bouncer, "failed_reads") != "0"
    });
    assert!(shown(&bouncer, "last_error").contains("cannot be asked"));
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
}

#[test]
fn a_secret_that_cannot_be_had_is_told_by_its_cause() {
    let site = Site::new();
    let told = |start: Start<'_>| {
        let bouncer = start.set("query_wait_timeout = 2").start();
        let (code, text, hint) = bouncer.turned_away("app", "app");
        let id = hint.rsplit('[').next().unwrap().trim_end_matches(']');
        bouncer.wait_for_line(&format!("cause=\"{id}\""));
        for told in [&text, &hint, &bouncer.log()] {
            assert!(!told.contains("hunter2"), "{told}");
        }
        (code, text, hint)
    };
    let line = site.line();
    let missing = line.replace("prod/app", "prod/none");
    let (code, text, hint) = told(site.start(&missing));
    assert_eq!(code, "28000");
    assert!(text.contains("Secrets Manager refuses secret") && text.contains("ResourceNotFound"), "{text}");
    assert!(hint.contains("secretsmanager:GetSecretValue") && hint.ends_with("[IAM027]"), "{hint}");

    let other = |name: &str, value: &str| {
        site.moto.create_secret(name, value);
        let described = site.moto.call("DescribeSecret", &json!({ "SecretId": name })).unwrap();
        line.replace(&site.arn, described["ARN"].as_str().unwrap())
    };
    let malformed = other("odd", r#"{"user":"app","password":"hunter2"}"#);
    let (code, text, hint) = told(site.start(&malformed));
    assert_eq!(code, "28000");
    assert!(text.contains("\"username\" is missing") && hint.ends_with("[IAM028]"), "{text} {hint}");

    let wrong = other("wrong", &value("app", "hunter2"));
    let (code, text, hint) = told(site.start(&wrong));
    assert_eq!(code, "28P01");
    assert!(
        text.contains("password authentication failed for user \"app\"") && text.contains("wrong"),
        "{text}"
    );
    assert!(hint.contains("must have the same password") && hint.ends_with("[IAM030]"), "{hint}");

    let nobody = site.start(&line).env("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1");
    let (code, text, hint) = told(nobody);
    assert_eq!(code, "28000");
    assert!(text.contains("cannot be asked") && hint.ends_with("[IAM029]"), "{text} {hint}");
}

#[test]
fn clients_show_the_same_secret_before_and_after_its_rotation() {
    for method in ["scram-sha-256", "md5", "plain"] {
        let site = Site::new();
        let bouncer = site.pooler(&[&format!("auth_type = {method}"), "secret_grace = 3600"]);
        let try_with = |user: &str, password: &str| driver(bouncer.port, user, password);
        assert_eq!(try_with("app", FIRST), Ok("app".to_owned()), "{method}");
        let refused = "28P01 password authentication failed for user \"app\"";
        assert_eq!(try_with("app", "wrong").unwrap_err(), refused, "{method}");
        // A name that the secret does not hold is looked up in auth_file.
        assert_eq!(try_with("other", "other"), Ok("app".to_owned()), "{method}");
        site.rotate(SECOND);
        // The client knows before the pooler does. A read of a moment ago stands for two seconds.
        eventually("the new password counts", || try_with("app", SECOND) == Ok("app".to_owned()));
        assert_eq!(try_with("app", FIRST), Ok("app".to_owned()), "{method}: still counts");
        assert_eq!(try_with("app", "third").unwrap_err(), refused, "{method}");
        assert!(!bouncer.log().contains(SECOND), "{}", bouncer.log());
    }
}

/// The pooler holds the one user, and the secret has the other by now.
#[test]
fn a_client_that_knows_of_the_other_users_turn_first_is_let_in() {
    for method in ["scram-sha-256", "md5", "plain"] {
        let site = Site::new();
        let bouncer = site.pooler(&[&format!("auth_type = {method}")]);
        assert_eq!(driver(bouncer.port, "app", FIRST), Ok("app".to_owned()), "{method}");
        site.moto.rotate(NAME, &value("app_clone", "clone"));
        eventually("the clone is let in", || driver(bouncer.port, "app_clone", "clone").is_ok());
        assert!(driver(bouncer.port, "app_clone", "wrong").is_err(), "{method}");
        assert!(driver(bouncer.port, "app", FIRST).is_ok(), "{method}: still counts");
    }
}

/// Every name but the secret's own belongs to `auth_file`, and so does the console.
#[test]
fn a_secret_of_the_fallback_line_is_no_key_to_the_console() {
    let site = Site::new();
    let line = site.line().replacen("app = ", "* = ", 1);
    let users = "\"app\" \"from-the-file\"\n";
    let start = site.start(&line).set("auth_type = md5").set("admin_users = app").users(users);
    let bouncer = start.start();
    let console = |password: &str| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url =
            format!("host=127.0.0.1 port={} user=app password={password} dbname=pgbouncer", bouncer.port);
        runtime.block_on(async { tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok() })
    };
    assert!(!console(FIRST));
    assert!(console("from-the-file"));
}

#[test]
fn without_grace_the_password_before_counts_no_more() {
    let site = Site::new();
    let bouncer = site.pooler(&["auth_type = scram-sha-256", "secret_grace = 0"]);
    assert_eq!(driver(bouncer.port, "app", FIRST), Ok("app".to_owned()));
    site.rotate(SECOND);
    eventually("the new password counts", || driver(bouncer.port, "app", SECOND).is_ok());
    assert!(driver(bouncer.port, "app", FIRST).is_err());
}

#[test]
fn no_password_is_shown_at_the_most_verbose_level() {
    let site = Site::new();
    let line = site.line();
    let start =
        site.start(&line).set("auth_type = plain").set("http_port = auto").env("IAMBOUNCER_LOG", "trace");
    let bouncer = start.start();
    assert!(driver(bouncer.port, "app", FIRST).is_ok());
    site.rotate(SECOND);
    eventually("the new password counts", || driver(bouncer.port, "app", SECOND).is_ok());
    assert!(driver(bouncer.port, "app", MISTYPED).is_err());
    let metrics = get(bouncer.http_port(), "/metrics").body;
    for (place, told) in [("log", bouncer.log()), ("metrics", metrics)] {
        assert!(!told.is_empty(), "{place}");
        assert_eq!(told.lines().find(|line| line.contains("hush-")), None, "{place}");
    }
}

#[test]
fn a_role_of_another_account_reads_the_secret() {
    let site = Site::new();
    let sim = Sim::in_front_of(postgres());
    let sts = sim.credentials(CredentialSettings::default());
    let line = site.line() + " aws_role_arn=arn:aws:iam::210987654321:role/reader";
    let mut start = site.start(&line);
    for (key, value) in
        sts.sts_environment().into_iter().map(|(k, v)| (k.to_owned(), v)).chain(sim.environment())
    {
        start = start.env(&key, &value);
    }
    let bouncer = start.start();
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
    assert_eq!(sts.calls().assume_role, 1);
    assert_eq!(shown(&bouncer, "identity"), "role=arn:aws:iam::210987654321:role/reader");
}

#[test]
fn without_a_file_a_secret_is_enough() {
    let site = Site::new();
    let variables: Vec<(String, String)> = site
        .moto
        .environment()
        .into_iter()
        .chain([
            ("DB_HOST", "127.0.0.1".to_owned()),
            ("DB_PORT", site.server.port().to_string()),
            ("DB_NAME", "app".to_owned()),
            ("DB_SECRET_ARN", site.arn.clone()),
            ("IAMBOUNCER_SERVER_TLS_SSLMODE", "disable".to_owned()),
        ])
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    let answer = program::run(&["connect", "--", "-Atc", "SELECT current_user"], &variables);
    assert_eq!((answer.code, answer.stdout.as_str()), (Some(0), "app\n"), "{answer:?}");
    let ended = program::run(&["doctor"], &variables);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for part in ["✔ secret       user app, version ", "✔ request      SCRAM", "✔ login", "✔ sql"] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
    assert!(!ended.stdout.contains(FIRST), "{ended:?}");
    site.set_password("changed");
    let ended = program::run(&["doctor"], &variables);
    assert!(ended.stdout.contains("✘ login") && ended.stdout.contains("[IAM030]"), "{ended:?}");
}
