//! The signer against tokens made by published SDKs: botocore, the JavaScript signer and the Rust SDK.
//!
//! The SDKs agree except on two points, where this signer deliberately differs from one of them: it converts
//! the host to lower case (as botocore does) and always signs the port (as the JavaScript signer does).
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rds_iam::{Credentials, Region, TokenRequest, sign};
use serde::Deserialize;

#[derive(Deserialize)]
struct BotocoreFile {
    ak: String,
    sk: String,
    vectors: Vec<BotocoreVector>,
}

#[derive(Deserialize)]
struct BotocoreVector {
    id: String,
    host: String,
    port: u16,
    user: String,
    region: String,
    tok: Option<String>,
    token: String,
    length: usize,
}

#[derive(Deserialize)]
struct JavaScriptVector {
    id: String,
    token: String,
}

/// 2024-01-15T12:34:56Z, the signing time in both files.
const CLOCK_SECONDS: u64 = 1_705_322_096;

fn botocore() -> BotocoreFile {
    serde_json::from_str(include_str!("vectors/rds-token-botocore.json")).unwrap()
}

fn javascript() -> BTreeMap<String, String> {
    let vectors: Vec<JavaScriptVector> =
        serde_json::from_str(include_str!("vectors/rds-token-js.json")).unwrap();
    vectors.into_iter().map(|vector| (vector.id, vector.token)).collect()
}

fn our_token(file: &BotocoreFile, vector: &BotocoreVector) -> String {
    let region: Region = vector.region.parse().unwrap();
    let credentials = Credentials::new(&*file.ak, &*file.sk, vector.tok.clone(), None, "vector");
    let request = TokenRequest { host: &vector.host, port: vector.port, user: &vector.user, region: &region };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(CLOCK_SECONDS);
    sign(&request, &credentials, now).unwrap().expose().to_owned()
}

/// Splits a token into host with port, and sorted parameters.
fn split(token: &str) -> (&str, BTreeMap<&str, &str>) {
    let (authority, query) = token.split_once("/?").unwrap();
    let pairs: Vec<_> = query.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
    let parameters: BTreeMap<_, _> = pairs.iter().copied().collect();
    assert_eq!(pairs.len(), parameters.len(), "a parameter occurs twice");
    (authority, parameters)
}

#[test]
fn tokens_equal_botocores_byte_by_byte() {
    let file = botocore();
    let mut compared = 0;
    for vector in &file.vectors {
        let actual = our_token(&file, vector);
        match vector.id.as_str() {
            // botocore's signature does not include this port. No known RDS endpoint uses port 443.
            "v6-port443" => assert_ne!(actual, vector.token),
            // botocore signs the lower-case name and prints the given one; this signer prints what it signs.
            "v5-uppercase-host" => {
                assert_eq!(actual, vector.token.replacen(&vector.host, &vector.host.to_ascii_lowercase(), 1));
            }
            _ => {
                assert_eq!(actual, vector.token, "{}", vector.id);
                assert_eq!(actual.len(), vector.length);
                compared += 1;
            }
        }
    }
    assert_eq!((compared, file.vectors.len()), (5, 7));
}

#[test]
fn tokens_equal_javascripts_in_any_order() {
    let (file, expected) = (botocore(), javascript());
    let mut compared = 0;
    for vector in &file.vectors {
        let actual = our_token(&file, vector);
        let expected = &expected[&vector.id];
        if vector.id == "v5-uppercase-host" {
            // JavaScript signs the name as given, which a verifier with the lower-case name cannot match.
            assert_ne!(split(&actual), split(expected));
        } else {
            assert_eq!(split(&actual), split(expected), "{}", vector.id);
            compared += 1;
        }
    }
    assert_eq!(compared, 6);
}

#[test]
fn a_token_equals_that_of_the_rust_sdks_unit_test() {
    let region: Region = "us-east-1".parse().unwrap();
    let credentials = Credentials::new("akid", "secret", None, None, "vector");
    let host = "prod-instance.us-east-1.rds.amazonaws.com";
    let request = TokenRequest { host, port: 3306, user: "peccy", region: &region };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_724_709_600);
    let token = sign(&request, &credentials, now).unwrap();
    let (authority, parameters) = split(token.expose());
    assert_eq!(authority, format!("{host}:3306"));
    let signature = "dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89";
    assert_eq!(parameters["X-Amz-Signature"], signature);
}
