//! Applications in other languages, with the packages that they really use: Lambda functions as they are written for
//! RDS Proxy, and what drivers do all day. Whether a message is right is tested elsewhere.

use crate::client_proofs::{CLIENT_KEY, CLIENT_SECRET, Sts};
use crate::support::bouncer::Start;
use crate::support::drivers::{Language, Programs, python};
use crate::support::lambda::Stage;
use crate::support::program::{run, to_end};
use crate::support::sim::{REGION, Sim};
use crate::support::tls_client::ClientSide;
use crate::support::{Bouncer, postgres};
use serde_json::{Value, json};

const LANGUAGES: [Language; 2] = [Language::Node, Language::Python];

/// Two invocations, of which the second finds the connection of the first.
fn logs_in_and_keeps_its_connection(stage: &Stage, language: Language, item: &str) {
    let events = [json!({ "item": item, "quantity": 21 }), json!({ "item": item, "quantity": 2 })];
    let ended = stage.invoke(language, &events);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let answers: Vec<Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = json!({ "user": "app", "twice": 42, "ordered": 21, "cold": true });
    let second = json!({ "user": "app", "twice": 4, "ordered": 23, "cold": false });
    assert_eq!(answers, [first, second]);
}

fn tells_no_secrets(stage: &Stage) {
    let log = stage.bouncer.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("X-Amz-Security-Token"), "{log}");
}

#[test]
fn functions_that_know_one_name_log_in_where_the_endpoints_name_leads_to_the_pooler() {
    for language in LANGUAGES {
        let stage = Stage::with_the_endpoints_name();
        logs_in_and_keeps_its_connection(&stage, language, &format!("one name, {language:?}"));
        assert_eq!(stage.accepted(), ["function", "pooler"]);
        tells_no_secrets(&stage);
    }
}

#[test]
fn functions_that_know_the_database_besides_the_pooler_log_in() {
    let stage = Stage::with_two_names();
    for language in LANGUAGES {
        logs_in_and_keeps_its_connection(&stage, language, &format!("two names, {language:?}"));
    }
    // The second function needs a verdict of its own, and shares the server of the first.
    assert_eq!(stage.accepted(), ["function", "pooler", "function"]);
    tells_no_secrets(&stage);
}

#[test]
fn a_wrong_secret_is_told_by_the_drivers() {
    let stage = Stage::with_two_names();
    for language in LANGUAGES {
        let item = format!("forged, {language:?}");
        let ended = stage.invoke_as(&stage.forged_key(), language, &[json!({ "item": item, "quantity": 1 })]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{ended:?}");
        // What the user sees: who was refused, by whom, and where to read on.
        for part in ["PAM authentication failed for user \"app\"", "[IAM003]"] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("X-Amz-Signature"), "{}", ended.stderr);
    }
    assert_eq!(stage.accepted(), [""; 0]);
    assert_eq!(stage.sim.refusals(), ["wrong signature", "wrong signature"]);
    tells_no_secrets(&stage);
}

/// What drivers find their server with, without a line of code.
fn libpq_environment(bouncer: &Bouncer, side: &ClientSide, password: &str) -> Vec<(String, String)> {
    let variables = [
        ("PGHOST", "127.0.0.1".to_owned()),
        ("PGPORT", bouncer.port.to_string()),
        ("PGUSER", "app".to_owned()),
        ("PGDATABASE", "app".to_owned()),
        ("PGPASSWORD", password.to_owned()),
        ("PGSSLMODE", "verify-full".to_owned()),
        ("PGSSLROOTCERT", side.authority_file().display().to_string()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
}

#[test]
fn psycopg_logs_in_with_a_proof_of_the_command_line() {
    let sts = Sts::start();
    let credentials =
        [("AWS_ACCESS_KEY_ID", CLIENT_KEY), ("AWS_SECRET_ACCESS_KEY", CLIENT_SECRET), ("AWS_REGION", REGION)];
    let credentials = credentials.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let made = run(&["token", "--sts", "--audience", "tests"], &credentials);
    let script = "import psycopg\n\
                  print(psycopg.connect().execute('SELECT current_user').fetchone()[0])";
    let environment = libpq_environment(&sts.bouncer, &sts.side, made.stdout.trim_end());
    let ended = to_end(python("python3").args(["-c", script]).envs(environment));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "app\n"), "{ended:?}");
    let log = sts.bouncer.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("iambouncer-sts-v1"), "{log}");
}

/// Clients with passwords, servers with tokens: what most people have.
fn has_a_day_at_work(language: Language) {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = sim.database();
    let start: Start<'_> = side.set(sim.start(&line), "require").set("auth_type = scram-sha-256");
    let bouncer = start.start();
    let environment = libpq_environment(&bouncer, &side, "secret");
    let ended = Programs::unpack().run(language, "everyday", &[], &environment);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "all right\n"), "{ended:?}");
}

#[test]
fn node_postgres_has_a_day_at_work() {
    has_a_day_at_work(Language::Node);
}

#[test]
fn psycopg_has_a_day_at_work() {
    has_a_day_at_work(Language::Python);
}
