//! `iambouncer doctor` with servers, configurations and environments that have exactly one fault each: it
//! names the check and the cause, and sets the exit code.

mod aws;
mod one_cause;
mod server;

use crate::support::program::{self, ProgramOutput};
use crate::support::sim::{KEY_ID, RDS_HOST, REGION, Sim};
use crate::support::{eventually, postgres};
use rds_sim::postgres::PostgresOptions;
use rds_sim::{CredentialServer, CredentialSettings};
use serde_json::Value;
use std::path::{Path, PathBuf};

type Variables = Vec<(String, String)>;

/// One run of doctor. STS is always the simulator's: no other endpoint is contacted.
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
    /// A case without a fault.
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

    /// An environment without keys; only the STS endpoint is set.
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

    fn run(&self, flags: &[&str]) -> ProgramOutput {
        let dir = tempfile::tempdir().unwrap();
        let ini = self.file(dir.path()).display().to_string();
        program::run(&[&["doctor", &ini], flags].concat(), &self.variables)
    }

    fn report(&self) -> Report {
        let output = self.run(&["--json"]);
        let value =
            serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        Report { value, code: output.code }
    }
}

/// The parsed report and the exit code.
struct Report {
    value: Value,
    code: Option<i32>,
}

impl Report {
    fn checks(&self) -> Vec<&Value> {
        let general = self.value["checks"].as_array().unwrap().iter();
        let targets = self.value["targets"].as_array().unwrap().iter();
        general.chain(targets.flat_map(|target| target["checks"].as_array().unwrap())).collect()
    }

    fn check(&self, id: &str) -> &Value {
        let report = self.checks().into_iter().find(|check| check["id"] == id);
        report.unwrap_or_else(|| panic!("no {id} in {:#}", self.value))
    }

    fn ids(&self, status: &str) -> Vec<&str> {
        let checks = self.checks().into_iter().filter(|check| check["status"] == status);
        checks.filter_map(|check| check["id"].as_str()).collect()
    }

    /// Exactly one check fails, with this cause and a text that contains `parts`; the other checks pass or
    /// are skipped.
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

impl Report {
    /// Without credentials the token check fails as well.
    #[track_caller]
    fn expect_failure_with_token(&self, id: &str, cause: &str, parts: &[&str]) {
        assert_eq!(self.ids("failure"), [id, "token"], "{:#}", self.value);
        assert_eq!(self.code, Some(1));
        self.expect_words(id, cause, parts);
    }
}

#[test]
fn a_healthy_setup_passes_every_check() {
    let case = Case::new();
    let output = case.run(&["--strict"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    let arn = "arn:aws:sts::123456789012:assumed-role/rds-sim-role/rds-sim";
    for part in [
        "✔ config",
        "✔ passwords",
        &format!("✔ credentials  key {KEY_ID} from environment, without expiry"),
        &format!("✔ identity     {arn}"),
        "✔ clock        accurate to ",
        "✔ dns          127.0.0.1",
        &format!("✔ token        for {RDS_HOST}:{} in {REGION}", case.sim.port()),
        "✔ tcp          127.0.0.1:",
        "✔ tls          TLSv1.3",
        "✔ request      a password in clear text, so the user is a member of rds_iam",
        "✔ login        accepted",
        "✔ sql          PostgreSQL ",
    ] {
        assert!(output.stdout.contains(part), "{part}\n{}", output.stdout);
    }
    assert!(!output.stdout.contains("X-Amz") && output.stderr.is_empty(), "{output:?}");
    assert_eq!(case.sts.calls().get_caller_identity, 1);
    assert_eq!(case.sim.simulator.log().accepted_and_refused(), (1, 0));
}

#[test]
fn without_a_file_the_environment_is_checked() {
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
    let output = program::run(&["doctor"], &variables);
    assert!(output.stdout.contains("arguments and environment"), "{output:?}");
    assert!(output.stdout.contains("✔ login"), "{output:?}");
    assert_eq!(output.stdout.matches("database app:").count(), 1, "{output:?}");
    let nothing = program::run(&["doctor"], &[]);
    assert_eq!(nothing.code, Some(1), "{nothing:?}");
    assert!(nothing.stdout.contains("✘ config") && nothing.stdout.contains("RDS_HOST"), "{nothing:?}");
}

/// IAM001, IAM018, IAM010.
#[test]
fn tokens_stored_as_passwords_are_reported_with_their_age() {
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
    // IAM works for this line, so this password is never sent.
    with(token("900", 64)).expect_warning(
        "passwords",
        "IAM001",
        &["report", "auth_file", "that expired", "min ago"],
    );
    with(token("3600", 64)).expect_warning("passwords", "IAM018", &["lifetime of 3600 s"]);
    with(token("900", 60)).expect_warning("passwords", "IAM010", &["truncated or altered"]);
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
fn iam_without_server_verification_is_a_configuration_error() {
    let case = Case { settings: vec!["server_tls_sslmode = require".to_owned()], ..Case::new() };
    case.report().expect_failure(
        "config",
        "IAM022",
        &["a token is sent only to a server whose host name was verified"],
    );
}

#[test]
fn lines_without_a_user_use_the_one_of_the_command_line() {
    let case = Case::new();
    let line = case.line.replace(" user=app", "");
    let case = case.line(line);
    let report = case.report();
    assert_eq!(report.code, Some(0));
    assert_eq!(report.check("login")["status"], "skipped");
    assert!(report.check("login")["summary"].as_str().unwrap().contains("--user"));
    let output = case.run(&["--user", "app", "--database", "app"]);
    assert!(output.stdout.contains("user app") && output.stdout.contains("✔ login"), "{output:?}");
}

#[test]
fn a_database_without_a_line_is_an_error() {
    let output = Case::new().run(&["--database", "ap"]);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(
        output.stdout.contains("no line for database \"ap\"")
            && output.stdout.contains("databases are: app."),
        "{output:?}"
    );
}

#[test]
fn a_stored_scram_secret_is_not_a_failure() {
    let hba = "local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n".to_owned();
    let server = crate::support::postgres::start(PostgresOptions { hba: Some(hba), ..Default::default() });
    server.sql("CREATE ROLE app LOGIN PASSWORD 'secret'").unwrap();
    let stored = server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").unwrap();
    let line = format!("app = host=127.0.0.1 port={} dbname=postgres user=app", server.port());
    let mut case = Case::new().line(line);
    case.settings = vec!["server_tls_sslmode = disable".to_owned()];
    case.users = format!("\"app\" \"{}\"\n", stored.trim());
    let report = case.report();
    assert_eq!((report.code, report.check("login")["status"].as_str()), (Some(0), Some("skipped")));
    assert!(report.check("login")["summary"].as_str().unwrap().contains("SCRAM secret"));
}

#[test]
fn warnings_set_the_exit_code_only_with_strict() {
    let case = Case::new().set("pkt_buf = 8192");
    case.report().expect_warning("config", "IAM022", &["pkt_buf"]);
    assert_eq!(case.run(&["--strict"]).code, Some(1));
    eventually("the simulator has logged both", || case.sim.simulator.log().accepted_and_refused().0 == 2);
}
