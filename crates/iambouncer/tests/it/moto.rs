//! The emulated Secrets Manager behaves as the tests require. What the pooler does with secrets is tested
//! elsewhere.

use crate::support::drivers;
use crate::support::moto::{CURRENT, Moto, PENDING, PREVIOUS};
use crate::support::program::to_end;
use serde_json::json;

#[test]
fn a_secret_is_created_read_and_rotated() {
    let moto = Moto::start();
    let first = moto.create_secret("app/db", "first");
    assert_eq!(moto.secret_value("app/db", CURRENT), ("first".to_owned(), first.clone()));
    let second = moto.put_secret_value("app/db", "second", &[PENDING]);
    assert_eq!(moto.secret_value("app/db", CURRENT).0, "first");
    assert_eq!(moto.secret_value("app/db", PENDING).0, "second");
    moto.move_stage("app/db", CURRENT, &first, &second);
    assert_eq!(moto.secret_value("app/db", CURRENT), ("second".to_owned(), second));
    assert_eq!(moto.secret_value("app/db", PREVIOUS), ("first".to_owned(), first));
    let third = moto.rotate("app/db", "third");
    assert_eq!(moto.secret_value("app/db", CURRENT), ("third".to_owned(), third));
    assert_eq!(moto.secret_value("app/db", PREVIOUS).0, "second");
}

#[test]
fn a_missing_secret_is_a_named_error() {
    let moto = Moto::start();
    let (_, text) = moto.call("GetSecretValue", &json!({ "SecretId": "none" })).unwrap_err();
    assert!(text.contains("ResourceNotFoundException"), "{text}");
}

#[test]
fn an_sdk_uses_the_endpoint_of_the_environment() {
    let moto = Moto::start();
    moto.create_secret("app/db", "found");
    let script = "import boto3\n\
                  client = boto3.client('secretsmanager')\n\
                  answer = client.get_secret_value(SecretId='app/db', VersionStage='AWSCURRENT')\n\
                  print(answer['SecretString'])";
    let output = to_end(drivers::python("python3").args(["-c", script]).envs(moto.environment()));
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "found\n"), "{output:?}");
}
