//! Databases whose user and password are in Secrets Manager: logins, both rotation strategies, outages of
//! Secrets Manager, and clients that use the same secret. The secrets are moto's, the server is a real
//! PostgreSQL with SCRAM.

use crate::iam::console_output;
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
/// Unique passwords, so that a search finds every place that shows one.
const FIRST: &str = "hush-one";
const SECOND: &str = "hush-two";
const MISTYPED: &str = "hush-mistyped";

/// A server, a secret with the password of its role `app`, and the secret's ARN.
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

    /// A rotation in place: first the role gets a new password, then the secret.
    fn rotate(&self, password: &str) {
        self.set_password(password);
        self.moto.rotate(NAME, &value("app", password));
    }

    fn set_password(&self, password: &str) {
        self.server.sql(&format!("ALTER ROLE app PASSWORD '{password}'")).unwrap();
    }
}

/// A secret in the format of RDS.
fn value(user: &str, password: &str) -> String {
    json!({ "engine": "postgres", "host": "elsewhere", "port": 1, "username": user, "password": password })
        .to_string()
}

fn shown(bouncer: &Bouncer, column: &str) -> String {
    bouncer.show("SECRETS", column).remove(0)
}

#[test]
fn an_unknown_user_gets_the_same_request_as_the_secrets_user() {
    let site = Site::new();
    let bouncer = site.pooler(&["auth_type = md5", "auth_file ="]);
    let first_message = |user: &str| {
        let mut client = Client::start(bouncer.port, &[("user", user), ("database", "app")]);
        client.expect(b'R').bytes[..9].to_vec()
    };
    let known = first_message("app");
    for unknown in ["ghost", "app_clone", "x"] {
        assert_eq!(first_message(unknown), known, "{unknown}");
    }
}

#[test]
fn logins_use_user_and_password_of_the_secret_and_read_it_once() {
    let site = Site::new();
    let bouncer = site.pooler(&["default_pool_size = 3", "http_port = auto"]);
    let mut clients: Vec<Client> =
        ["app", "other", "app"].iter().map(|user| Client::log_in(bouncer.port, user, "app")).collect();
    for client in &mut clients {
        client.query("BEGIN");
        assert_eq!(client.value("SELECT current_user"), "app");
    }
    assert_eq!(bouncer.console().pools("user"), [NAME]);
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
    for text in [bouncer.log(), console_output(&bouncer)] {
        assert!(!text.contains(FIRST), "{text}");
    }
}

#[test]
fn a_rotated_password_is_used_at_once_without_disconnects() {
    let site = Site::new();
    let bouncer = site.pooler(&["default_pool_size = 2"]);
    let mut old = bouncer.client();
    old.query("BEGIN");
    let pid = old.value("SELECT pg_backend_pid()");
    // After a refusal a secret is read again unless the last read was less than two seconds ago.
    eventually("the first read is three seconds ago", || shown(&bouncer, "age").parse::<u32>().unwrap() >= 3);
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

/// Until the secret follows the role, no known password is valid. With RDS this takes about a minute.
#[test]
fn clients_wait_during_a_rotation_and_are_served_after_it() {
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
fn a_rotation_with_alternating_users_keeps_running_sessions() {
    let site = Site::new();
    let bouncer = site.pooler(&["default_pool_size = 2", "secret_refresh = 1"]);
    let mut old = bouncer.client();
    old.query("BEGIN");
    assert_eq!(old.value("SELECT current_user"), "app");
    site.moto.rotate(NAME, &value("app_clone", "clone"));
    // Both passwords are valid, so no refusal reveals the change; the next read does.
    eventually("the change of the user is noticed", || {
        let mut one = bouncer.client();
        one.query("SELECT 1");
        bouncer.console().query("RECONNECT");
        shown(&bouncer, "user") == "app_clone"
    });
    let mut new = bouncer.client();
    new.query("BEGIN");
    assert_eq!(new.value("SELECT current_user"), "app_clone");
    assert_eq!(old.value("SELECT current_user"), "app");
    assert_eq!(bouncer.console().pools("user"), [NAME], "one pool for both users");
}

#[test]
fn logins_continue_while_secrets_manager_is_unreachable() {
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
    assert!(shown(&bouncer, "last_error").contains("the request to Secrets Manager"));
    assert_eq!(bouncer.client().value("SELECT current_user"), "app");
}

#[test]
fn an_unusable_secret_is_reported_with_its_cause() {
    let site = Site::new();
    let refused = |start: Start<'_>| {
        let bouncer = start.set("query_wait_timeout = 2").start();
        let (code, text, hint) = bouncer.refused_login("app", "app");
        let id = hint.rsplit('[').next().unwrap().trim_end_matches(']');
        bouncer.wait_for_line(&format!("cause=\"{id}\""));
        for text in [&text, &hint, &bouncer.log()] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        (code, text, hint)
    };
    let line = site.line();
    let missing = line.replace("prod/app", "prod/none");
    let (code, text, hint) = refused(site.start(&missing));
    assert_eq!(code, "28000");
    assert!(text.contains("Secrets Manager refuses secret") && text.contains("ResourceNotFound"), "{text}");
    assert!(hint.contains("secretsmanager:GetSecretValue") && hint.ends_with("[IAM027]"), "{hint}");

    let other = |name: &str, value: &str| {
        site.moto.create_secret(name, value);
        let described = site.moto.call("DescribeSecret", &json!({ "SecretId": name })).unwrap();
        line.replace(&site.arn, described["ARN"].as_str().unwrap())
    };
    let malformed = other("odd", r#"{"user":"app","password":"hunter2"}"#);
    let (code, text, hint) = refused(site.start(&malformed));
    assert_eq!(code, "28000");
    assert!(text.contains("\"username\" is missing") && hint.ends_with("[IAM028]"), "{text} {hint}");

    let wrong = other("wrong", &value("app", "hunter2"));
    let (code, text, hint) = refused(site.start(&wrong));
    assert_eq!(code, "28P01");
    assert!(
        text.contains("password authentication failed for user \"app\"") && text.contains("wrong"),
        "{text}"
    );
    assert!(hint.contains("must have the same password") && hint.ends_with("[IAM030]"), "{hint}");

    let unreachable = site.start(&line).env("AWS_ENDPOINT_URL_SECRETS_MANAGER", "http://127.0.0.1:1");
    let (code, text, hint) = refused(unreachable);
    assert_eq!(code, "28000");
    assert!(text.contains("the request to Secrets Manager") && hint.ends_with("[IAM029]"), "{text} {hint}");
}

#[test]
fn clients_log_in_with_the_secret_before_and_after_its_rotation() {
    for method in ["scram-sha-256", "md5", "plain"] {
        let site = Site::new();
        let bouncer = site.pooler(&[&format!("auth_type = {method}"), "secret_grace = 3600"]);
        let try_with = |user: &str, password: &str| driver(bouncer.port, user, password);
        assert_eq!(try_with("app", FIRST), Ok("app".to_owned()), "{method}");
        let kind = if method == "scram-sha-256" { "SASL" } else { "password" };
        let refused = format!("28P01 {kind} authentication failed");
        assert_eq!(try_with("app", "wrong").unwrap_err(), refused, "{method}");
        // A user other than the secret's is looked up in auth_file.
        assert_eq!(try_with("other", "other"), Ok("app".to_owned()), "{method}");
        site.rotate(SECOND);
        // The client uses the new password before the pooler has read it. A secret is read at most every two seconds.
        eventually("the new password is accepted", || try_with("app", SECOND) == Ok("app".to_owned()));
        assert_eq!(try_with("app", FIRST), Ok("app".to_owned()), "{method}: still accepted");
        assert_eq!(try_with("app", "third").unwrap_err(), refused, "{method}");
        assert!(!bouncer.log().contains(SECOND), "{}", bouncer.log());
    }
}

/// The pooler has cached one user, while the secret already has the other.
#[test]
fn a_client_with_the_other_user_of_a_rotation_is_accepted_before_the_pooler_has_read_it() {
    for method in ["scram-sha-256", "md5", "plain"] {
        let site = Site::new();
        let bouncer = site.pooler(&[&format!("auth_type = {method}")]);
        assert_eq!(driver(bouncer.port, "app", FIRST), Ok("app".to_owned()), "{method}");
        site.moto.rotate(NAME, &value("app_clone", "clone"));
        eventually("the clone is accepted", || driver(bouncer.port, "app_clone", "clone").is_ok());
        assert!(driver(bouncer.port, "app_clone", "wrong").is_err(), "{method}");
        assert!(driver(bouncer.port, "app", FIRST).is_ok(), "{method}: still accepted");
    }
}

/// Users other than the secret's are looked up in `auth_file`, and so are console users.
#[test]
fn the_secret_of_a_fallback_line_does_not_open_the_console() {
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
fn without_grace_the_previous_password_is_refused() {
    let site = Site::new();
    let bouncer = site.pooler(&["auth_type = scram-sha-256", "secret_grace = 0"]);
    assert_eq!(driver(bouncer.port, "app", FIRST), Ok("app".to_owned()));
    site.rotate(SECOND);
    eventually("the new password is accepted", || driver(bouncer.port, "app", SECOND).is_ok());
    assert!(driver(bouncer.port, "app", FIRST).is_err());
}

#[test]
fn no_password_is_logged_at_the_most_verbose_level() {
    let site = Site::new();
    let line = site.line();
    let start =
        site.start(&line).set("auth_type = plain").set("http_port = auto").env("IAMBOUNCER_LOG", "trace");
    let bouncer = start.start();
    assert!(driver(bouncer.port, "app", FIRST).is_ok());
    site.rotate(SECOND);
    eventually("the new password is accepted", || driver(bouncer.port, "app", SECOND).is_ok());
    assert!(driver(bouncer.port, "app", MISTYPED).is_err());
    let metrics = get(bouncer.http_port(), "/metrics").body;
    for (place, text) in [("log", bouncer.log()), ("metrics", metrics)] {
        assert!(!text.is_empty(), "{place}");
        assert_eq!(text.lines().find(|line| line.contains("hush-")), None, "{place}");
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
fn without_a_file_a_secret_is_sufficient_configuration() {
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
    let output = program::run(&["doctor"], &variables);
    assert_eq!(output.code, Some(0), "{output:?}");
    for part in ["✔ secret       user app, version ", "✔ request      SCRAM", "✔ login", "✔ sql"] {
        assert!(output.stdout.contains(part), "{part}: {}", output.stdout);
    }
    assert!(!output.stdout.contains(FIRST), "{output:?}");
    site.set_password("changed");
    let output = program::run(&["doctor"], &variables);
    assert!(output.stdout.contains("✘ login") && output.stdout.contains("[IAM030]"), "{output:?}");
}
