//! The verifier: RDS's checks of a token, written from the specification of Signature Version 4.
//!
//! Owns: parsing a token, every check, and the signature recomputed with `hmac` and `sha2`.
//! Never: uses the code that signs. Signer and verifier are tested against the same published tokens, so that
//! a common mistake is detected.

use std::time::SystemTime;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::keys::{AccessKey, KeyStore};
use crate::time::{parse_amz_date, unix_seconds};

/// Maximum age of a token, in seconds.
const MAX_AGE_SECONDS: i64 = 900;
/// How far ahead of the verifier's clock the signer's may be, in seconds.
const MAX_AHEAD_SECONDS: i64 = 300;
/// Maximum number of parameters; a token has eight or nine.
const MAX_PARAMETERS: usize = 32;
/// SHA-256 of an empty body: a GET has none.
const EMPTY_BODY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The database that tokens must be made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenTarget {
    /// Its endpoint names, compared case-insensitively.
    pub hosts: Vec<String>,
    /// The port of the endpoint.
    pub port: u16,
    /// Its region.
    pub region: String,
}

/// A valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidToken {
    /// The key that signed it.
    pub access_key_id: String,
    /// How old it is, in seconds; negative if the signer's clock is ahead.
    pub age_seconds: i64,
}

/// Why a token is invalid. RDS does not report it to the client; tests need it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not a token.
    #[error("malformed token: {0}")]
    Malformed(&'static str),
    /// A parameter occurs twice, possibly in different case.
    #[error("parameter {0} occurs twice")]
    Duplicate(String),
    /// A parameter is missing.
    #[error("parameter {0} is missing")]
    Missing(&'static str),
    /// A parameter has a value that is not allowed in a token.
    #[error("parameter {name} is \"{value}\"")]
    Unexpected {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: String,
    },
    /// Signed for another host.
    #[error("signed for host {0}")]
    WrongHost(String),
    /// Signed for another port.
    #[error("signed for port {0}")]
    WrongPort(String),
    /// Signed for another user.
    #[error("signed for user {0}")]
    WrongUser(String),
    /// Signed for another region.
    #[error("signed for region {0}")]
    WrongRegion(String),
    /// The key does not exist.
    #[error("unknown access key {0}")]
    UnknownKey(String),
    /// The temporary key has expired, and the token with it.
    #[error("the credentials of {0} have expired")]
    KeyExpired(String),
    /// The session token is not the one of this key.
    #[error("wrong or missing session token for {0}")]
    WrongSessionToken(String),
    /// Too old.
    #[error("expired: {age_seconds} s old")]
    Expired {
        /// Its age.
        age_seconds: i64,
    },
    /// Signed in the future.
    #[error("not yet valid: {ahead_seconds} s ahead")]
    NotYetValid {
        /// How far ahead it is.
        ahead_seconds: i64,
    },
    /// Only the signature is wrong.
    #[error("wrong signature")]
    WrongSignature,
    /// The token was valid, but there were too many logins in this second.
    #[error("throttled")]
    Throttled,
    /// The token was valid, but the refusal fault was switched on.
    #[error("refused on demand")]
    OnDemand,
}

/// Verifies `token` for `user` at `target`, at time `now`.
pub fn verify(
    token: &str,
    user: &str,
    target: &TokenTarget,
    keys: &KeyStore,
    now: SystemTime,
) -> Result<ValidToken, Refusal> {
    let (authority, query) = token.split_once("/?").ok_or(Refusal::Malformed("no host before \"/?\""))?;
    let parameters = TokenParameters::parse(query)?;
    check_target(authority, user, target, &parameters)?;
    parameters.expect("X-Amz-Algorithm", "AWS4-HMAC-SHA256")?;
    parameters.expect("X-Amz-SignedHeaders", "host")?;

    let date = parameters.get("X-Amz-Date")?;
    let signed_at = parse_amz_date(date).ok_or(Refusal::Malformed("X-Amz-Date is not a date"))?;
    let scope = TokenScope::parse(parameters.get("X-Amz-Credential")?, date, "rds-db")?;
    if scope.region != target.region {
        return Err(Refusal::WrongRegion(scope.region));
    }
    let age_seconds = check_age(&parameters, signed_at, now)?;
    let key = find_key(&scope.access_key_id, &parameters, keys, now)?;

    let headers = [("host", authority.to_ascii_lowercase())];
    let expected = signature("rds-db", &headers, date, &scope, &parameters, &key);
    if !is_equal(expected.as_bytes(), parameters.get("X-Amz-Signature")?.as_bytes()) {
        return Err(Refusal::WrongSignature);
    }
    Ok(ValidToken { access_key_id: key.access_key_id, age_seconds })
}

/// Verifies a presigned GET request to STS with headers from `header`. Returns the key that signed it. Like
/// STS, it ignores `X-Amz-Expires`.
pub(crate) fn verify_sts_call<'a>(
    query: &str,
    header: impl Fn(&str) -> &'a str,
    keys: &KeyStore,
    now: SystemTime,
) -> Result<AccessKey, Refusal> {
    let parameters = TokenParameters::parse(query)?;
    parameters.expect("X-Amz-Algorithm", "AWS4-HMAC-SHA256")?;
    let date = parameters.get("X-Amz-Date")?;
    let signed_at = parse_amz_date(date).ok_or(Refusal::Malformed("X-Amz-Date is not a date"))?;
    let age_seconds = unix_seconds(now) - signed_at;
    if age_seconds > MAX_AGE_SECONDS {
        return Err(Refusal::Expired { age_seconds });
    }
    if age_seconds < -MAX_AHEAD_SECONDS {
        return Err(Refusal::NotYetValid { ahead_seconds: -age_seconds });
    }
    let scope = TokenScope::parse(parameters.get("X-Amz-Credential")?, date, "sts")?;
    let key = find_key(&scope.access_key_id, &parameters, keys, now)?;
    let names = parameters.get("X-Amz-SignedHeaders")?;
    let headers: Vec<(&str, String)> =
        names.split(';').map(|name| (name, header(name).trim().to_owned())).collect();
    let expected = signature("sts", &headers, date, &scope, &parameters, &key);
    if !is_equal(expected.as_bytes(), parameters.get("X-Amz-Signature")?.as_bytes()) {
        return Err(Refusal::WrongSignature);
    }
    Ok(key)
}

/// The decoded query parameters, each once.
struct TokenParameters(Vec<(String, String)>);

impl TokenParameters {
    fn parse(query: &str) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&') {
            let (name, value) =
                pair.split_once('=').ok_or(Refusal::Malformed("a parameter without value"))?;
            let (name, value) = (percent_decode(name)?, percent_decode(value)?);
            // If names could differ in case only, one parser could check a parameter that another ignores.
            if pairs.iter().any(|(earlier, _)| earlier.eq_ignore_ascii_case(&name)) {
                return Err(Refusal::Duplicate(name));
            }
            if pairs.len() == MAX_PARAMETERS {
                return Err(Refusal::Malformed("too many parameters"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }

    fn get(&self, name: &'static str) -> Result<&str, Refusal> {
        self.find(name).ok_or(Refusal::Missing(name))
    }

    fn expect(&self, name: &'static str, expected: &str) -> Result<(), Refusal> {
        match self.get(name)? {
            value if value == expected => Ok(()),
            value => Err(Refusal::Unexpected { name, value: value.to_owned() }),
        }
    }

    /// All parameters except the signature, encoded and in byte order.
    fn canonical(&self) -> String {
        let mut pairs: Vec<(String, String)> = self
            .0
            .iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (percent_encode(name), percent_encode(value)))
            .collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }
}

/// `AKID/20240115/eu-west-1/rds-db/aws4_request`.
struct TokenScope {
    access_key_id: String,
    day: String,
    region: String,
}

impl TokenScope {
    fn parse(credential: &str, date: &str, wanted_service: &str) -> Result<Self, Refusal> {
        let parts: Vec<&str> = credential.split('/').collect();
        let [access_key_id, day, signed_region, service, terminator] = parts.as_slice() else {
            return Err(Refusal::Malformed("X-Amz-Credential does not have five parts"));
        };
        if !date.starts_with(day) || day.len() != 8 {
            return Err(Refusal::Malformed("X-Amz-Credential and X-Amz-Date differ in the day"));
        }
        if *service != wanted_service || *terminator != "aws4_request" {
            return Err(Refusal::Unexpected { name: "X-Amz-Credential", value: credential.to_owned() });
        }
        Ok(Self {
            access_key_id: (*access_key_id).to_owned(),
            day: (*day).to_owned(),
            region: (*signed_region).to_owned(),
        })
    }
}

fn check_target(
    authority: &str,
    user: &str,
    target: &TokenTarget,
    parameters: &TokenParameters,
) -> Result<(), Refusal> {
    let (host, port) = authority.rsplit_once(':').ok_or(Refusal::Malformed("no port after the host"))?;
    if !target.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
        return Err(Refusal::WrongHost(host.to_owned()));
    }
    if port != target.port.to_string() {
        return Err(Refusal::WrongPort(port.to_owned()));
    }
    parameters.expect("Action", "connect")?;
    match parameters.get("DBUser")? {
        signed_user if signed_user == user => Ok(()),
        signed_user => Err(Refusal::WrongUser(signed_user.to_owned())),
    }
}

fn check_age(parameters: &TokenParameters, signed_at: i64, now: SystemTime) -> Result<i64, Refusal> {
    let expires = parameters.get("X-Amz-Expires")?;
    let life_seconds: i64 = expires
        .parse()
        .ok()
        .filter(|seconds| (1..=MAX_AGE_SECONDS).contains(seconds))
        .ok_or_else(|| Refusal::Unexpected { name: "X-Amz-Expires", value: expires.to_owned() })?;
    let age_seconds = unix_seconds(now) - signed_at;
    if age_seconds > life_seconds {
        return Err(Refusal::Expired { age_seconds });
    }
    if age_seconds < -MAX_AHEAD_SECONDS {
        return Err(Refusal::NotYetValid { ahead_seconds: -age_seconds });
    }
    Ok(age_seconds)
}

fn find_key(
    access_key_id: &str,
    parameters: &TokenParameters,
    keys: &KeyStore,
    now: SystemTime,
) -> Result<AccessKey, Refusal> {
    let id = || access_key_id.to_owned();
    let key = keys.get(access_key_id).ok_or_else(|| Refusal::UnknownKey(id()))?;
    if key.ends_at.is_some_and(|end| end <= now) {
        return Err(Refusal::KeyExpired(id()));
    }
    let given = parameters.find("X-Amz-Security-Token").unwrap_or("");
    if !is_equal(given.as_bytes(), key.session_token_text().as_bytes()) {
        return Err(Refusal::WrongSessionToken(id()));
    }
    Ok(key)
}

/// `headers` are sorted by their names, which are lower case.
fn signature(
    service: &str,
    headers: &[(&str, String)],
    date: &str,
    scope: &TokenScope,
    parameters: &TokenParameters,
    key: &AccessKey,
) -> String {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let canonical_request =
        format!("GET\n/\n{}\n{lines}\n{}\n{EMPTY_BODY_SHA256}", parameters.canonical(), names.join(";"));
    let TokenScope { day, region, .. } = scope;
    let string_to_sign = format!(
        "AWS4-HMAC-SHA256\n{date}\n{day}/{region}/{service}/aws4_request\n{}",
        hex(&Sha256::digest(canonical_request)),
    );
    let mut signing_key = hmac(format!("AWS4{}", key.secret.as_str()).as_bytes(), day);
    for step in [region.as_str(), service, "aws4_request"] {
        signing_key = hmac(&signing_key, step);
    }
    hex(&hmac(&signing_key, &string_to_sign))
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // An HMAC key may have any length; the error applies to other MACs only.
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mut mac| {
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares in constant time.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

fn percent_decode(text: &str) -> Result<String, Refusal> {
    let malformed = Refusal::Malformed("broken percent-encoding");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
            return Err(malformed);
        };
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| malformed)
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
