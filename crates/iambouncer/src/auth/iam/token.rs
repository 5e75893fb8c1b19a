//! An RDS token as a client's password (`auth_type = iam`). Owns the local checks; only the database can verify the
//! signature and the policy.

use super::ProofError;
use super::presigned::{Query, Times, expect};

/// Longest accepted token, in bytes: PostgreSQL's limit for passwords.
pub const MAX_TOKEN_BYTES: usize = 65_530;

const PARAMETERS: &[&str] = &[
    "Action",
    "DBUser",
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
];

/// What a token must be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedToken<'a> {
    /// The endpoint's name.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// Its region.
    pub region: &'a str,
    /// The user of the startup packet.
    pub user: &'a str,
}

/// Checks everything but the signature.
///
/// # Errors
/// See [`ProofError`].
pub fn check(token: &str, expected: &ExpectedToken<'_>, now_seconds: i64) -> Result<Times, ProofError> {
    const WHAT: &str = "RDS token (host:port/?Action=connect&…)";
    if token.len() > MAX_TOKEN_BYTES {
        return Err(ProofError::TooLong(MAX_TOKEN_BYTES));
    }
    let (authority, query) = token.split_once("/?").ok_or(ProofError::Invalid(WHAT))?;
    let (host, port) = authority.rsplit_once(':').ok_or(ProofError::Invalid(WHAT))?;
    let query = Query::parse(query, PARAMETERS)?;
    query.expect("Action", "connect")?;
    query.expect("DBUser", expected.user)?;
    query.expect("X-Amz-SignedHeaders", "host")?;
    expect("the endpoint in the token", &host.to_ascii_lowercase(), &expected.host.to_ascii_lowercase())?;
    expect("the port in the token", port, &expected.port.to_string())?;
    let scope = query.scope()?;
    expect("the region in the token", scope.region, expected.region)?;
    expect("the service in the token", scope.service, "rds-db")?;
    query.times(now_seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rds_iam::{Credentials, TokenRequest, sign};
    use std::time::{Duration, SystemTime};

    const HOST: &str = "db.c1.eu-west-1.rds.amazonaws.com";
    const NOW: i64 = 1_705_322_096;
    const EXPECTED: ExpectedToken<'_> =
        ExpectedToken { host: HOST, port: 5432, region: "eu-west-1", user: "app" };

    fn token(user: &str) -> String {
        let region = "eu-west-1".parse().unwrap();
        let request = TokenRequest { host: HOST, port: 5432, user, region: &region };
        let credentials = Credentials::new("AKIDEXAMPLE", "secret", Some("session+/=".into()), None, "test");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW as u64);
        sign(&request, &credentials, now).unwrap().expose().to_owned()
    }

    #[test]
    fn a_token_of_the_sdk_passes_until_it_expires() {
        assert_eq!(check(&token("app"), &EXPECTED, NOW).map(|times| times.expires_at), Ok(NOW + 900));
        assert_eq!(check(&token("app"), &EXPECTED, NOW + 900), Err(ProofError::Expired(0)));
        let special = "a&DBUser=admin é";
        assert!(check(&token(special), &ExpectedToken { user: special, ..EXPECTED }, NOW).is_ok());
    }

    #[test]
    fn endpoint_region_and_user_must_match() {
        let token = token("app");
        for wrong in [
            ExpectedToken { user: "admin", ..EXPECTED },
            ExpectedToken { host: "other", ..EXPECTED },
            ExpectedToken { port: 5433, ..EXPECTED },
            ExpectedToken { region: "us-east-1", ..EXPECTED },
        ] {
            let error = check(&token, &wrong, NOW);
            assert!(matches!(error, Err(ProofError::Mismatch { .. })), "{wrong:?}: {error:?}");
        }
    }

    #[test]
    fn modified_tokens_are_refused_locally() {
        let good = token("app");
        let changes: &[(&str, &str)] = &[
            ("Action=connect", "Action=Connect"),
            ("Action=connect", "Action=connect&action=connect"),
            ("DBUser=app", "DBUser=app&DBUser=admin"),
            ("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=host%3Bx"),
            ("rds-db", "sts"),
            ("aws4_request", "aws4"),
            ("%2F20240115%2F", "%2F20240116%2F"),
            ("X-Amz-Expires=900", "X-Amz-Expires=3600"),
            ("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
            ("/?", "/x?"),
            (":5432/", ":05432/"),
            ("AKIDEXAMPLE", "AKID%0AEXAMPLE"),
        ];
        for (from, to) in changes {
            let changed = good.replace(from, to);
            assert_ne!(changed, good, "{from}");
            assert!(check(&changed, &EXPECTED, NOW).is_err(), "{from} -> {to}");
        }
        for cut in 0..good.len() {
            assert!(check(&good[..cut], &EXPECTED, NOW).is_err(), "cut at {cut}");
        }
        assert_eq!(check(&"x".repeat(70_000), &EXPECTED, NOW), Err(ProofError::TooLong(MAX_TOKEN_BYTES)));
    }
}
