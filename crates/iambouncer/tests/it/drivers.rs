//! Applications in other languages, with the packages they use in production: Lambda functions written for
//! RDS Proxy, and everyday use of the drivers. The correctness of single messages is tested elsewhere.

use crate::client_proofs::{CLIENT_KEY, CLIENT_SECRET, Sts};
use crate::support::bouncer::Start;
use crate::support::drivers::{Language, Programs, python};
use crate::support::lambda::LambdaSetup;
use crate::support::program::{run, to_end};
use crate::support::sim::{REGION, Sim};
use crate::support::tls_client::ClientSide;
use crate::support::{Bouncer, postgres};
use serde_json::{Value, json};

const LANGUAGES: [Language; 2] = [Language::Node, Language::Python];

/// Runs two invocations; the second reuses the connection of the first.
fn logs_in_and_keeps_its_connection(setup: &LambdaSetup, language: Language, item: &str) {
    let events = [json!({ "item": item, "quantity": 21 }), json!({ "item": item, "quantity": 2 })];
    let output = setup.invoke(language, &events);
    assert_eq!(output.code, Some(0), "{output:?}");
    let answers: Vec<Value> = output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = json!({ "user": "app", "twice": 42, "ordered": 21, "cold": true });
    let second = json!({ "user": "app", "twice": 4, "ordered": 23, "cold": false });
    assert_eq!(answers, [first, second]);
}

fn assert_no_secrets_logged(setup: &LambdaSetup) {
    let log = setup.bouncer.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("X-Amz-Security-Token"), "{log}");
}

#[test]
fn functions_with_one_host_name_log_in_if_the_endpoints_name_resolves_to_the_pooler() {
    for language in LANGUAGES {
        let setup = LambdaSetup::with_the_endpoints_name();
        logs_in_and_keeps_its_connection(&setup, language, &format!("one name, {language:?}"));
        assert_eq!(setup.accepted(), ["function", "pooler"]);
        assert_no_secrets_logged(&setup);
    }
}

#[test]
fn functions_with_the_names_of_database_and_pooler_log_in() {
    let setup = LambdaSetup::with_two_names();
    for language in LANGUAGES {
        logs_in_and_keeps_its_connection(&setup, language, &format!("two names, {language:?}"));
    }
    // The second function's token is verified separately; it shares the server of the first.
    assert_eq!(setup.accepted(), ["function", "pooler", "function"]);
    assert_no_secrets_logged(&setup);
}

#[test]
fn drivers_report_a_wrong_secret() {
    let setup = LambdaSetup::with_two_names();
    for language in LANGUAGES {
        let item = format!("forged, {language:?}");
        let output =
            setup.invoke_as(&setup.forged_key(), language, &[json!({ "item": item, "quantity": 1 })]);
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{output:?}");
        // The user sees which user was refused, by which check, and where it is documented.
        for part in ["PAM authentication failed for user \"app\"", "[IAM003]"] {
            assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
        }
        assert!(!output.stderr.contains("X-Amz-Signature"), "{}", output.stderr);
    }
    assert_eq!(setup.accepted(), [""; 0]);
    assert_eq!(setup.sim.refusals(), ["wrong signature", "wrong signature"]);
    assert_no_secrets_logged(&setup);
}

/// The environment through which drivers find their server without code.
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
fn psycopg_logs_in_with_a_proof_made_on_the_command_line() {
    let sts = Sts::start();
    let credentials =
        [("AWS_ACCESS_KEY_ID", CLIENT_KEY), ("AWS_SECRET_ACCESS_KEY", CLIENT_SECRET), ("AWS_REGION", REGION)];
    let credentials = credentials.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let token = run(&["token", "--sts", "--audience", "tests"], &credentials);
    let script = "import psycopg\n\
                  print(psycopg.connect().execute('SELECT current_user').fetchone()[0])";
    let environment = libpq_environment(&sts.bouncer, &sts.side, token.stdout.trim_end());
    let output = to_end(python("python3").args(["-c", script]).envs(environment));
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "app\n"), "{output:?}");
    let log = sts.bouncer.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("iambouncer-sts-v1"), "{log}");
}

/// Clients with passwords and servers with tokens: the most common setup.
fn everyday_program_succeeds(language: Language) {
    let sim = Sim::in_front_of(postgres());
    let side = ClientSide::new();
    let line = sim.database();
    let start: Start<'_> = side.set(sim.start(&line), "require").set("auth_type = scram-sha-256");
    let bouncer = start.start();
    let environment = libpq_environment(&bouncer, &side, "secret");
    let output = Programs::unpack().run(language, "everyday", &[], &environment);
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "all right\n"), "{output:?}");
}

#[test]
fn the_everyday_program_of_node_postgres_succeeds() {
    everyday_program_succeeds(Language::Node);
}

#[test]
fn the_everyday_program_of_psycopg_succeeds() {
    everyday_program_succeeds(Language::Python);
}
