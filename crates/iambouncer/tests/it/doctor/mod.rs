//! `iambouncer doctor` in front of servers, configurations and environments that are broken in exactly one way each: it
//! names the check and the cause, and the exit code follows.

mod aws;
mod one_cause;
mod server;

use crate::support::program::{self, Ended};
use crate::support::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use crate::support::{eventually, postgres};
use rds_sim::postgres::PostgresOptions;
use rds_sim::{CredentialServer, CredentialSettings};
use serde_json::Value;
use std::path::{Path, PathBuf};

type Variables = Vec<(String, String)>;

/// One examination. STS is always the look-alike's: nobody else is asked.
struct Case {
    sim: Sim,
    sts: CredentialServer,
    line: String,
    settings: Vec<String>,
    users: String,
    variables: Variables,
    /// Endpoints that last as long as the case.
    kept: Vec<CredentialServer>,
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
        Self { sim, sts, line, settings, users: String::new(), variables, kept: Vec::new() }
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

    fn keep(mut self, endpoint: CredentialServer) -> Self {
        self.kept.push(endpoint);
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
    // Next to working IAM nobody sends it.
    with(token("900", 64)).expect_warning(
        "passwords",
        "IAM001",
        &["report", "auth_file", "that ended", "min ago"],
    );
    with(token("3600", 64)).expect_warning("passwords", "IAM018", &["made for 3600 s"]);
    with(token("900", 60)).expect_warning("passwords", "IAM010", &["without its end"]);
    let case = Case::new();
    let line = format!("app = host=localhost port={} dbname=app user=report", case.sim.port());
    let mut case = case.line(line);
    case.users = format!("\"report\" \"{}\"\n", token("900", 64));
    assert_eq!(case.report().check("passwords")["status"], "failure");
    let variable = Case::new().env("PGPASSWORD", &token("900", 64));
    variable.report().expect_warning("passwords", "IAM001", &["PGPASSWORD holds a token"]);
    let url = format!("postgresql://app:{}@db/app", rds_iam::percent_encode(&token("900", 64)));
    Case::new().env("DATABASE_URL", &url).report().expect_warning("passwords", "IAM001", &["DATABASE_URL"]);
}

#[test]
fn iam_without_verification_is_a_mistake_of_the_configuration() {
    let case = Case { settings: vec!["server_tls_sslmode = require".to_owned()], ..Case::new() };
    case.report().expect_failure(
        "config",
        "IAM022",
        &["a token is sent only to a server whose host name was verified"],
    );
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
fn warnings_count_only_when_asked_to() {
    let case = Case::new().set("dns_nxdomain_ttl = 7");
    case.report().expect_warning("config", "IAM022", &["dns_nxdomain_ttl"]);
    assert_eq!(case.run(&["--strict"]).code, Some(1));
    eventually("the door has seen both", || case.sim.simulator.log().accepted_and_refused().0 == 2);
}
