//! The verifier against tokens made by published SDKs, valid and with each single error.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

use std::time::{Duration, SystemTime};

use rds_sim::{AccessKey, KeyStore, Refusal, TokenTarget, verify};
use serde::Deserialize;

#[derive(Deserialize)]
struct BotocoreFile {
    ak: String,
    sk: String,
    vectors: Vec<Vector>,
}

#[derive(Clone, Deserialize)]
struct Vector {
    id: String,
    host: String,
    port: u16,
    user: String,
    region: String,
    tok: Option<String>,
    token: String,
}

#[derive(Deserialize)]
struct JavaScriptVector {
    id: String,
    token: String,
}

/// 2024-01-15T12:34:56Z, the signing time in both files.
const CLOCK_SECONDS: u64 = 1_705_322_096;

fn botocore() -> BotocoreFile {
    serde_json::from_str(include_str!("../../rds-iam/tests/vectors/rds-token-botocore.json")).unwrap()
}

fn at(seconds_later: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(CLOCK_SECONDS.saturating_add_signed(seconds_later))
}

fn store(file: &BotocoreFile, session_token: Option<&str>, ends_at: Option<SystemTime>) -> KeyStore {
    let keys = KeyStore::default();
    let mut key = AccessKey::parse(&format!("{}:{}", file.ak, file.sk)).unwrap();
    key.session_token = session_token.map(|token| token.to_owned().into());
    key.ends_at = ends_at;
    keys.add(key);
    keys
}

fn target(vector: &Vector) -> TokenTarget {
    TokenTarget { hosts: vec![vector.host.clone()], port: vector.port, region: vector.region.clone() }
}

fn check(file: &BotocoreFile, vector: &Vector, token: &str) -> Result<String, Refusal> {
    let keys = store(file, vector.tok.as_deref(), None);
    verify(token, &vector.user, &target(vector), &keys, at(0)).map(|accepted| accepted.access_key_id)
}

#[test]
fn tokens_of_botocore_are_accepted_except_for_port_443() {
    let file = botocore();
    for vector in &file.vectors {
        let expected =
            if vector.id == "v6-port443" { Err(Refusal::WrongSignature) } else { Ok(file.ak.clone()) };
        assert_eq!(check(&file, vector, &vector.token), expected, "{}", vector.id);
    }
}

#[test]
fn tokens_of_javascript_are_accepted_except_with_capitals_in_the_host() {
    let file = botocore();
    let vectors: Vec<JavaScriptVector> =
        serde_json::from_str(include_str!("../../rds-iam/tests/vectors/rds-token-js.json")).unwrap();
    for (vector, JavaScriptVector { id, token }) in file.vectors.iter().zip(&vectors) {
        assert_eq!(&vector.id, id);
        let expected =
            if id == "v5-uppercase-host" { Err(Refusal::WrongSignature) } else { Ok(file.ak.clone()) };
        assert_eq!(check(&file, vector, token), expected, "{id}");
    }
}

/// The second vector, which has a session token.
fn case() -> (BotocoreFile, Vector) {
    let file = botocore();
    let vector = file.vectors.iter().find(|vector| vector.id == "v2-session-token").unwrap().clone();
    (file, vector)
}

#[test]
fn each_single_error_in_a_token_is_refused() {
    let (file, vector) = case();
    let token = &vector.token;
    let changed = |from: &str, to: &str| {
        assert!(token.contains(from), "{from}");
        check(&file, &vector, &token.replacen(from, to, 1)).unwrap_err()
    };
    let unexpected = |name, value: &str| Refusal::Unexpected { name, value: value.to_owned() };
    assert_eq!(changed("Action=connect", "Action=drop"), unexpected("Action", "drop"));
    assert_eq!(changed("DBUser=app_user", "DBUser=admin"), Refusal::WrongUser("admin".into()));
    assert_eq!(changed("us-east-1%2Frds-db", "us-east-2%2Frds-db"), Refusal::WrongRegion("us-east-2".into()));
    assert!(matches!(changed("rds-db", "rds"), Refusal::Unexpected { .. }));
    assert!(matches!(changed("HMAC-SHA256", "HMAC-SHA1"), Refusal::Unexpected { .. }));
    assert_eq!(changed("Headers=host", "Headers=host%3Bx"), unexpected("X-Amz-SignedHeaders", "host;x"));
    assert_eq!(changed("Expires=900", "Expires=901"), unexpected("X-Amz-Expires", "901"));
    assert_eq!(changed("Expires=900", "Expires=899"), Refusal::WrongSignature);
    assert_eq!(changed("T123456Z", "T123457Z"), Refusal::WrongSignature);
    assert!(matches!(changed("T123456Z", "T123456"), Refusal::Malformed(_)));
    assert!(matches!(changed("=20240115T", "=20240116T"), Refusal::Malformed(_)));
    assert!(matches!(changed("IQoJ", "IQoK"), Refusal::WrongSessionToken(_)));
    assert!(matches!(changed("AKIAIOS", "AKIAIOT"), Refusal::UnknownKey(_)));
    assert_eq!(changed("Signature=62", "Signature=63"), Refusal::WrongSignature);
    assert_eq!(changed("&X-Amz-Signature", "&x"), Refusal::Missing("X-Amz-Signature"));
    assert_eq!(changed(":5432/?", ":5433/?"), Refusal::WrongPort("5433".into()));
    assert!(matches!(changed("prod-cluster", "alias"), Refusal::WrongHost(_)));
    assert!(matches!(changed("app_user", "app_user%"), Refusal::Malformed(_)));
    assert_eq!(changed("DBUser=", "dbuser=x&DBUser="), Refusal::Duplicate("DBUser".into()));
    assert_eq!(check(&file, &vector, &token[..token.len() - 1]).unwrap_err(), Refusal::WrongSignature);
    assert!(matches!(check(&file, &vector, "").unwrap_err(), Refusal::Malformed(_)));
    // An additional parameter is part of the signature as well.
    assert_eq!(changed("&X-Amz-Date", "&Extra=1&X-Amz-Date"), Refusal::WrongSignature);
}

#[test]
fn each_mismatch_of_clock_key_or_user_is_refused() {
    let (file, vector) = case();
    let verify_at = |keys: &KeyStore, now| verify(&vector.token, &vector.user, &target(&vector), keys, now);
    let keys = store(&file, vector.tok.as_deref(), None);

    assert_eq!(verify_at(&keys, at(900)).unwrap().age_seconds, 900);
    assert_eq!(verify_at(&keys, at(901)).unwrap_err(), Refusal::Expired { age_seconds: 901 });
    assert_eq!(verify_at(&keys, at(-300)).unwrap().age_seconds, -300);
    assert_eq!(verify_at(&keys, at(-301)).unwrap_err(), Refusal::NotYetValid { ahead_seconds: 301 });

    assert!(verify_at(&store(&file, vector.tok.as_deref(), Some(at(1))), at(0)).is_ok());
    let expired = store(&file, vector.tok.as_deref(), Some(at(0)));
    assert!(matches!(verify_at(&expired, at(0)).unwrap_err(), Refusal::KeyExpired(_)));
    let static_key = store(&file, None, None);
    assert!(matches!(verify_at(&static_key, at(0)).unwrap_err(), Refusal::WrongSessionToken(_)));
    assert!(matches!(verify_at(&KeyStore::default(), at(0)).unwrap_err(), Refusal::UnknownKey(_)));

    let other_secret = KeyStore::default();
    let mut key = AccessKey::parse(&format!("{}:other", file.ak)).unwrap();
    key.session_token = vector.tok.clone().map(Into::into);
    other_secret.add(key);
    assert_eq!(verify_at(&other_secret, at(0)).unwrap_err(), Refusal::WrongSignature);
    let user = verify(&vector.token, "APP_USER", &target(&vector), &keys, at(0)).unwrap_err();
    assert_eq!(user, Refusal::WrongUser("app_user".into()));
}
