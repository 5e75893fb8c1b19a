//! `iambouncer doctor` in front of servers, configurations and environments that are broken in exactly one way each: it
//! names the check and the cause, and the exit code follows.

use crate::support::program::{self, Ended};
use crate::support::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use crate::support::{eventually, postgres};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rds_sim::postgres::PostgresOptions;
use rds_sim::{CredentialServer, CredentialSettings};
use serde_json::Value;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Variables = Vec<(String, String)>;

/// One examination. STS is always the look-alike's: nobody else is asked.
struct Case {
    sim: Sim,
    sts: CredentialServer,
    line: String,
    settings: Vec<String>,
    users: String,
    variables: Variables,
}

impl Case {
    /// All is well.
    fn new() -> Self {
        Self::with(Sim::in_front_of(postgres()))
    }

    fn with(sim: Sim) -> Self {
        let sts = sim.credentials(CredentialSettings::default());
        let (line, mut variables) = (sim.database() + " user=app", sim.environment());
        variables.extend(sts.sts_environment().into_iter().map(|(key, value)| (key.to_owned(), value)));
        let ca = format!("server_tls_ca_file = {}", sim.ca_file().display());
        let settings = vec!["server_tls_sslmode = verify-full".to_owned(), ca];
        Self { sim, sts, line, settings, users: String::new(), variables }
    }

    /// Nothing in the environment but where STS is.
    fn without_key() -> Self {
        let mut case = Self::new();
        case.variables.retain(|(key, _)| !key.contains("KEY"));
        case
    }

    fn line(self, line: String) -> Self {
        Self { line, ..self }
    }

    fn set(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    fn env(mut self, key: &str, value: &str) -> Self {
        self.variables.push((key.to_owned(), value.to_owned()));
        self
    }

    fn env_all(mut self, variables: Vec<(&'static str, String)>) -> Self {
        self.variables.extend(variables.into_iter().map(|(key, value)| (key.to_owned(), value)));
        self
    }

    fn file(&self, dir: &Path) -> PathBuf {
        let users = dir.join("users.txt");
        std::fs::write(&users, &self.users).unwrap();
        let ini = dir.join("doctor.ini");
        let settings = self.settings.join("\n");
        let text = format!(
            "[databases]\n{}\n[pgbouncer]\nauth_type = trust\nlisten_port = 6432\nauth_file = {}\n{settings}\n",
            self.line,
            users.display()
        );
        std::fs::write(&ini, text).unwrap();
        ini
    }

    fn run(&self, flags: &[&str]) -> Ended {
        let dir = tempfile::tempdir().unwrap();
        let ini = self.file(dir.path()).display().to_string();
        program::run(&[&["doctor", &ini], flags].concat(), &self.variables)
    }

    fn report(&self) -> Found {
        let ended = self.run(&["--json"]);
        let value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        Found { value, code: ended.code }
    }
}

/// What was printed.
struct Found {
    value: Value,
    code: Option<i32>,
}

impl Found {
    fn checks(&self) -> Vec<&Value> {
        let general = self.value["checks"].as_array().unwrap().iter();
        let targets = self.value["targets"].as_array().unwrap().iter();
        general.chain(targets.flat_map(|target| target["checks"].as_array().unwrap())).collect()
    }

    fn check(&self, id: &str) -> &Value {
        let found = self.checks().into_iter().find(|check| check["id"] == id);
        found.unwrap_or_else(|| panic!("no {id} in {:#}", self.value))
    }

    fn ids(&self, status: &str) -> Vec<&str> {
        let checks = self.checks().into_iter().filter(|check| check["status"] == status);
        checks.filter_map(|check| check["id"].as_str()).collect()
    }

    /// One check has failed, with this cause, in words that hold `parts`; the rest is well or not reached.
    #[track_caller]
    fn expect_failure(&self, id: &str, cause: &str, parts: &[&str]) {
        assert_eq!(self.ids("failure"), [id], "{:#}", self.value);
        assert_eq!(self.code, Some(1));
        self.expect_words(id, cause, parts);
    }

    #[track_caller]
    fn expect_warning(&self, id: &str, cause: &str, parts: &[&str]) {
        assert_eq!((self.ids("failure"), self.ids("warning")), (vec![], vec![id]), "{:#}", self.value);
        assert_eq!(self.code, Some(0));
        self.expect_words(id, cause, parts);
    }

    #[track_caller]
    fn expect_words(&self, id: &str, cause: &str, parts: &[&str]) {
        let check = self.check(id);
        assert_eq!(check["cause"]["id"], cause, "{check:#}");
        assert!(check["cause"]["docs"].as_str().unwrap().contains(&cause.to_ascii_lowercase()), "{check:#}");
        let part_of = |value: &Value| value.as_str().unwrap().to_owned();
        let text = format!("{} {}", part_of(&check["summary"]), part_of(&check["cause"]["hint"]));
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn a_healthy_way_is_told_step_by_step() {
    let case = Case::new();
    let ended = case.run(&["--strict"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let arn = "arn:aws:sts::123456789012:assumed-role/rds-sim-role/rds-sim";
    for part in [
        "✔ config",
        "✔ passwords",
        &format!("✔ credentials  key {KEY_ID} from environment, without an end"),
        &format!("✔ identity     {arn}"),
        "✔ clock        right to ",
        "✔ dns          127.0.0.1",
        &format!("✔ token        for {RDS_HOST}:{} in {REGION}", case.sim.port()),
        "✔ tcp          127.0.0.1:",
        "✔ tls          TLSv1.3",
        "✔ request      a password in clear text, so the user is a member of rds_iam",
        "✔ login        accepted",
        "✔ sql          PostgreSQL ",
    ] {
        assert!(ended.stdout.contains(part), "{part}\n{}", ended.stdout);
    }
    assert!(!ended.stdout.contains("X-Amz") && ended.stderr.is_empty(), "{ended:?}");
    assert_eq!(case.sts.calls().get_caller_identity, 1);
    assert_eq!(case.sim.simulator.log().accepted_and_refused(), (1, 0));
}

#[test]
fn without_a_file_the_same_is_examined() {
    let case = Case::new();
    let mut variables = case.variables.clone();
    for (key, value) in [
        ("RDS_HOST", "localhost".to_owned()),
        ("DB_PORT", case.sim.port().to_string()),
        ("DB_USERNAME", "app".to_owned()),
        ("DB_NAME", "app".to_owned()),
        ("IAMBOUNCER_IAM_HOST", RDS_HOST.to_owned()),
        ("IAMBOUNCER_SERVER_TLS_CA_FILE", case.sim.ca_file().display().to_string()),
    ] {
        variables.push((key.to_owned(), value));
    }
    let ended = program::run(&["doctor"], &variables);
    assert!(ended.stdout.contains("arguments and environment"), "{ended:?}");
    assert!(ended.stdout.contains("✔ login"), "{ended:?}");
    assert_eq!(ended.stdout.matches("database app:").count(), 1, "{ended:?}");
    let nothing = program::run(&["doctor"], &[]);
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.stdout.contains("✘ config") && nothing.stdout.contains("RDS_HOST"), "{nothing:?}");
}

/// IAM001, IAM018, IAM010.
#[test]
fn tokens_stored_as_passwords_are_told_with_their_age() {
    let token = |expires: &str, signature: usize| {
        let signature = "0".repeat(signature);
        format!(
            "{RDS_HOST}:5432/?Action=connect&DBUser=app&X-Amz-Credential=A&X-Amz-Date=20240115T123456Z\
             &X-Amz-Expires={expires}&X-Amz-Signature={signature}"
        )
    };
    let with = |token: String| {
        let mut case = Case::new();
        case.users = format!("\"report\" \"{token}\"\n");
        case.report()
    };
    with(token("900", 64)).expect_failure(
        "passwords",
        "IAM001",
        &["report", "auth_file", "that ended", "min ago"],
    );
    with(token("3600", 64)).expect_failure("passwords", "IAM018", &["made for 3600 s"]);
    with(token("900", 60)).expect_failure("passwords", "IAM010", &["without its end"]);
    let variable = Case::new().env("PGPASSWORD", &token("900", 64));
    variable.report().expect_warning("passwords", "IAM001", &["PGPASSWORD holds a token"]);
    let url = format!("postgresql://app:{}@db/app", rds_iam::percent_encode(&token("900", 64)));
    Case::new().env("DATABASE_URL", &url).report().expect_warning("passwords", "IAM001", &["DATABASE_URL"]);
}

/// IAM002.
#[test]
fn no_credentials_are_told_with_the_reason_of_their_place() {
    let found = Case::without_key().report();
    found.expect_failure_with_token("credentials", "IAM002", &["no AWS credentials", "AWS_ACCESS_KEY_ID"]);
    let file =
        Case::without_key().env("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token").env("AWS_ROLE_ARN", ROLE);
    let found = file.env("AWS_REGION", REGION).report();
    found.expect_failure_with_token("credentials", "IAM002", &["/nowhere/token", "cannot be read"]);
    // A service account's token that nobody has renewed.
    let case = Case::without_key();
    case.sts.set(|settings| settings.web_identity_token = Some("another".to_owned()));
    let ended = URL_SAFE_NO_PAD.encode(br#"{"exp":1700000000}"#);
    let path = case.sim.dir().join("service-account");
    std::fs::write(&path, format!("head.{ended}.signature")).unwrap();
    let case = case.env("AWS_WEB_IDENTITY_TOKEN_FILE", path.to_str().unwrap()).env("AWS_ROLE_ARN", ROLE);
    case.report().expect_failure_with_token("credentials", "IAM016", &["service-account", "ended "]);
}

const ROLE: &str = "arn:aws:iam::123456789012:role/orders";

impl Found {
    /// Without credentials there is no token either, and it says so itself.
    #[track_caller]
    fn expect_failure_with_token(&self, id: &str, cause: &str, parts: &[&str]) {
        assert_eq!(self.ids("failure"), [id, "token"], "{:#}", self.value);
        assert_eq!(self.code, Some(1));
        self.expect_words(id, cause, parts);
    }
}

/// IAM021.
#[test]
fn another_identity_than_the_one_that_was_meant_is_noticed() {
    let case = Case::new().env("AWS_ROLE_ARN", ROLE);
    case.report().expect_warning("identity", "IAM021", &[ROLE, "by role rds-sim-role"]);
}

/// IAM003.
#[test]
fn a_missing_policy_is_told_with_the_arn_to_allow() {
    let case = Case::new();
    case.sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let found = case.report();
    let arn = format!("arn:aws:rds-db:{REGION}:123456789012:dbuser:<resource id>/app");
    found.expect_failure("login", "IAM003", &["PAM authentication failed", &arn, "iam-db-auth-error"]);
}

/// IAM004.
#[test]
fn a_role_outside_rds_iam_is_told_before_a_token_is_sent() {
    let found = in_front_of_passwords("scram-sha-256");
    found.expect_failure("request", "IAM004", &["SCRAM", "GRANT rds_iam TO", "enable IAM database"]);
    assert!(found.ids("skipped").contains(&"login"));
}

#[test]
fn with_iam_off_the_token_is_taken_for_a_password() {
    let found = in_front_of_passwords("password");
    found.expect_failure("login", "IAM004", &["for a password", "enable IAM database"]);
}

/// A server where `app` has a password and is no IAM user.
fn in_front_of_passwords(method: &str) -> Found {
    let hba = format!("local all postgres trust\nlocal all all {method}\n");
    let server = crate::support::postgres::start(PostgresOptions { hba: Some(hba), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    Case::with(Sim::for_users(&server, RDS_HOST, REGION, &[])).report()
}

/// IAM006.
#[test]
fn an_iam_user_without_encryption_is_told_about_tls() {
    let case = Case::new();
    let line = format!("app = host=localhost port={} dbname=app user=app password=secret", case.sim.port());
    let case = Case { settings: vec!["server_tls_sslmode = disable".to_owned()], ..case.line(line) };
    case.report().expect_failure("request", "IAM006", &["no encryption", "verify-full"]);
}

#[test]
fn iam_without_verification_is_a_mistake_of_the_configuration() {
    let case = Case { settings: vec!["server_tls_sslmode = require".to_owned()], ..Case::new() };
    case.report().expect_failure("config", "IAM022", &["only sent inside verified TLS"]);
}

/// IAM007, IAM008, IAM012: what is signed is not what the server is.
#[test]
fn a_token_for_another_name_port_or_region_is_told() {
    let broken = |change: &dyn Fn(&str) -> String| {
        let case = Case::new();
        case.sim.simulator.faults().set(|faults| faults.refuse_next = 2);
        let line = change(&case.line);
        let port = case.sim.port();
        (case.line(line).report(), port)
    };
    let (found, port) = broken(&|line| {
        let line = line.replace(&format!("iam_host={RDS_HOST}"), &format!("iam_region={REGION}"));
        line.split_whitespace().filter(|word| !word.starts_with("iam_port=")).collect::<Vec<_>>().join(" ")
    });
    found.expect_failure("login", "IAM007", &[&format!("signed for localhost:{port}"), "iam_host"]);
    let (found, port) = broken(&|line| {
        line.split_whitespace().filter(|word| !word.starts_with("iam_port=")).collect::<Vec<_>>().join(" ")
    });
    found.expect_failure("login", "IAM008", &[&format!("signed for port {port}"), "iam_port"]);
    let (found, _) = broken(&|line| format!("{line} iam_region=eu-central-1"));
    found.expect_failure("login", "IAM012", &[REGION, "eu-central-1"]);
    let (found, _) = broken(&|line| line.replace(RDS_HOST, "db.example.com"));
    found.expect_failure("token", "IAM012", &["no region can be read from db.example.com"]);
    let other = RDS_HOST.replace("db.", "other.");
    let (found, _) = broken(&|line| line.replace(RDS_HOST, &other));
    found.expect_failure("tls", "IAM007", &["The server's certificate is for localhost, ", RDS_HOST]);
}

/// IAM009.
#[test]
fn credentials_about_to_end_are_told() {
    let case = Case::without_key();
    let life = Duration::from_secs(300);
    let endpoint = case.sim.credentials(CredentialSettings { life, ..Default::default() });
    let file = case.sim.dir().join("authorization");
    std::fs::write(&file, CredentialSettings::default().authorization).unwrap();
    let case = case.env_all(endpoint.container_environment(&file));
    let found = case.report();
    found.expect_warning("credentials", "IAM009", &["from container", "end in 2", "ends with them"]);
    endpoint.set(|settings| settings.life = Duration::from_secs(20));
    case.report().expect_failure_with_token("credentials", "IAM009", &["expired"]);
}

#[test]
fn an_instance_whose_credentials_have_ended_is_told() {
    let case = Case::without_key();
    let issue_ended = Some(Duration::from_secs(600));
    let endpoint =
        case.sim.credentials(CredentialSettings { issue_ended, reissue: false, ..Default::default() });
    let case = case.env("AWS_EC2_METADATA_DISABLED", "false").env_all(endpoint.imds_environment());
    case.report().expect_failure_with_token("credentials", "IAM009", &["instance metadata", "expired"]);
}

/// IAM011.
#[test]
fn a_password_where_a_token_is_asked_for_is_an_inherited_grant() {
    let case = Case::new();
    let line = format!("app = host=localhost port={} dbname=app user=app password=secret", case.sim.port());
    case.line(line).report().expect_failure("login", "IAM011", &["REVOKE rds_iam"]);
}

#[test]
fn the_way_a_password_user_inherits_rds_iam_is_told() {
    let server = crate::support::postgres::start(PostgresOptions::default());
    for sql in [
        "CREATE ROLE rds_iam",
        "CREATE ROLE team IN ROLE rds_iam",
        "CREATE ROLE app LOGIN PASSWORD 'secret' IN ROLE team",
        "CREATE ROLE small LOGIN PASSWORD 'secret' CONNECTION LIMIT 3",
    ] {
        server.sql(sql).unwrap();
    }
    let with = |user: &str| {
        let port = server.port();
        let line = format!("app = host=127.0.0.1 port={port} dbname=postgres user={user} password=secret");
        Case { settings: vec!["server_tls_sslmode = disable".to_owned()], ..Case::new().line(line) }.report()
    };
    with("app").expect_warning("sql", "IAM011", &["team > rds_iam"]);
    with("small").expect_warning("sql", "IAM024", &["20 servers", "CONNECTION LIMIT leaves 3"]);
}

/// IAM013.
#[test]
fn a_clock_that_is_an_hour_off_is_the_cause() {
    let case = Case::new();
    case.sim.simulator.clock().advance(3600);
    let found = case.report();
    assert_eq!(found.ids("failure"), ["clock", "login"], "{:#}", found.value);
    for check in ["clock", "login"] {
        found.expect_words(check, "IAM013", &["behind AWS's", "Synchronise the clock"]);
    }
}

/// IAM014.
#[test]
fn a_server_that_takes_too_long_over_a_token_may_be_short_of_memory() {
    let case = Case::new().set("server_connect_timeout = 1");
    case.sim.simulator.faults().set(|faults| faults.login_delay = Duration::from_secs(30));
    case.report().expect_failure("login", "IAM014", &["did not finish the login", "memory"]);
}

/// IAM015.
#[test]
fn metadata_that_does_not_answer_in_a_container_is_told() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let case = Case::without_key();
    let case =
        case.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let found = case.report();
    let parts = ["takes connections and does not answer", "http-put-response-hop-limit"];
    found.expect_failure_with_token("credentials", "IAM015", &parts);
}

#[test]
fn an_instance_without_a_role_is_told() {
    let case = Case::without_key();
    let settings = CredentialSettings { role_name: String::new(), ..Default::default() };
    let endpoint = case.sim.credentials(settings);
    let case = case.env("AWS_EC2_METADATA_DISABLED", "false").env_all(endpoint.imds_environment());
    case.report().expect_failure_with_token("credentials", "IAM002", &["without a role (instance profile)"]);
}

/// IAM016.
#[test]
fn a_role_that_may_not_be_assumed_is_named() {
    let case = Case::new();
    case.sts.set(|settings| settings.deny = true);
    let line = format!("{} aws_role_arn={ROLE}", case.line);
    let found = case.line(line).report();
    found.expect_failure_with_token("credentials", "IAM016", &[ROLE, "trust policy"]);
}

/// IAM017.
#[test]
fn an_authority_nobody_trusts_is_named_with_the_certificate() {
    let case = Case::new();
    let stranger = Sim::in_front_of(postgres());
    let line = stranger.database() + " user=app";
    let parts = ["invalid peer certificate", "The server's certificate is for localhost", "signed by CN="];
    case.line(line).report().expect_failure("tls", "IAM017", &parts);
    assert_eq!(stranger.simulator.log().attempts(), []);
}

#[test]
fn a_region_whose_authorities_are_not_built_in_is_told() {
    let host = "db.c9akciq32rgh.il-central-1.rds.amazonaws.com";
    let sim = Sim::for_users(postgres(), host, "il-central-1", &["app"]);
    let dns = sim.dns();
    dns.set(host, crate::aliases::here());
    let port = sim.port();
    let case = Case::new();
    let settings =
        vec!["server_tls_sslmode = verify-full".to_owned(), format!("dns_server = {}", dns.address())];
    let line = format!("app = host={host} port={port} dbname=app user=app server_auth=iam");
    let found = Case { settings, ..case.line(line) }.report();
    found.expect_failure("tls", "IAM017", &["il-central-1 are not built in", "server_tls_ca_file = rds, "]);
}

/// IAM019.
#[test]
fn an_rds_proxy_has_a_resource_id_of_its_own() {
    let host = "p.proxy-c9akciq32rgh.eu-west-1.rds.amazonaws.com";
    let sim = Sim::for_users(postgres(), host, REGION, &["app"]);
    sim.simulator.faults().set(|faults| faults.refuse_next = 2);
    let case = Case::with(sim);
    let line = case.line.replace(RDS_HOST, host);
    case.line(line).report().expect_failure("login", "IAM019", &["prx-"]);
}

/// IAM020.
#[test]
fn a_server_that_is_not_there_is_told_by_the_step_it_is_missed_at() {
    // Nobody listens where a connection of ours comes from.
    let case = Case::new();
    let ours = std::net::TcpStream::connect(("127.0.0.1", case.sim.port())).unwrap();
    let port = ours.local_addr().unwrap().port();
    let line =
        format!("app = host=localhost port={port} dbname=app user=app server_auth=iam iam_host={RDS_HOST}");
    case.line(line).report().expect_failure("tcp", "IAM020", &["refused", "security groups"]);
    let line = format!(
        "app = host=nowhere.invalid port={port} dbname=app user=app server_auth=iam iam_host={RDS_HOST}"
    );
    Case::new().line(line).report().expect_failure("dns", "IAM020", &["nowhere.invalid"]);
}

/// IAM024, IAM025, IAM026.
#[test]
fn what_is_no_matter_of_iam_is_told_apart() {
    let case = Case::new();
    let line = case.line.replace("dbname=app", "dbname=nowhere");
    case.line(line).report().expect_failure("login", "IAM026", &["\"nowhere\"", "dbname="]);
    let case = Case::new();
    case.sim.simulator.faults().set(|faults| faults.drop_next = 9);
    case.report().expect_failure("tls", "IAM025", &["host and port"]);
}

#[test]
fn lines_without_a_user_get_one_from_the_command_line() {
    let case = Case::new();
    let line = case.line.replace(" user=app", "");
    let case = case.line(line);
    let found = case.report();
    assert_eq!(found.code, Some(0));
    assert_eq!(found.check("login")["status"], "skipped");
    assert!(found.check("login")["summary"].as_str().unwrap().contains("--user"));
    let ended = case.run(&["--user", "app", "--database", "app"]);
    assert!(ended.stdout.contains("user app") && ended.stdout.contains("✔ login"), "{ended:?}");
}

#[test]
fn a_database_that_no_line_names_is_a_mistake() {
    let ended = Case::new().run(&["--database", "ap"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.contains("no line for database \"ap\"") && ended.stdout.contains("lines for: app."),
        "{ended:?}"
    );
}

#[test]
fn a_stored_scram_secret_is_no_failure() {
    let hba = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n".to_owned();
    let server = crate::support::postgres::start(PostgresOptions { hba: Some(hba), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    let stored = server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").unwrap();
    let line = format!("app = host=127.0.0.1 port={} dbname=postgres user=app", server.port());
    let mut case = Case::new().line(line);
    case.settings = vec!["server_tls_sslmode = disable".to_owned()];
    case.users = format!("\"app\" \"{}\"\n", stored.trim());
    let found = case.report();
    assert_eq!((found.code, found.check("login")["status"].as_str()), (Some(0), Some("skipped")));
    assert!(found.check("login")["summary"].as_str().unwrap().contains("SCRAM secret"));
}

#[test]
fn a_container_that_is_named_and_does_not_answer_is_told_by_name() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let case = Case::without_key()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/credentials")
        .env("AWS_EC2_METADATA_DISABLED", "false")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &endpoint);
    let parts = ["AWS_CONTAINER_CREDENTIALS_FULL_URI says"];
    case.report().expect_failure_with_token("credentials", "IAM015", &parts);
}

#[test]
fn warnings_count_only_when_asked_to() {
    let case = Case::new().set("syslog = 1");
    case.report().expect_warning("config", "IAM022", &["syslog"]);
    assert_eq!(case.run(&["--strict"]).code, Some(1));
    eventually("the door has seen both", || case.sim.simulator.log().accepted_and_refused().0 == 2);
}
