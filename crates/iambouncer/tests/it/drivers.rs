//! Applications in other languages, with the packages they use in production: Lambda functions written for
//! RDS Proxy, and proofs made on the command line. Everyday use of the drivers is tested in `everyday`, the
//! correctness of single messages elsewhere.

use crate::client_proofs::{CLIENT_KEY, CLIENT_SECRET, Sts};
use crate::support::drivers::{Language, libpq_environment, libpq_tls_environment, python};
use crate::support::lambda::LambdaSetup;
use crate::support::program::{run, to_end};
use crate::support::sim::REGION;
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

#[test]
fn psycopg_logs_in_with_a_proof_made_on_the_command_line() {
    let sts = Sts::start();
    let credentials =
        [("AWS_ACCESS_KEY_ID", CLIENT_KEY), ("AWS_SECRET_ACCESS_KEY", CLIENT_SECRET), ("AWS_REGION", REGION)];
    let credentials = credentials.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let token = run(&["token", "--sts", "--audience", "tests"], &credentials);
    let script = "import psycopg\n\
                  print(psycopg.connect().execute('SELECT current_user').fetchone()[0])";
    let environment = libpq_environment(&sts.bouncer, token.stdout.trim_end());
    let command = &mut python("python3");
    command.args(["-c", script]).envs(environment).envs(libpq_tls_environment(&sts.side));
    let output = to_end(command);
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "app\n"), "{output:?}");
    let log = sts.bouncer.log();
    assert!(!log.contains("X-Amz-Signature") && !log.contains("iambouncer-sts-v1"), "{log}");
}
