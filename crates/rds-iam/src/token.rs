//! The token: a presigned `GET /?Action=connect&DBUser=…` for service `rds-db`, without its `https://`.
//!
//! Owns: what is signed and the format of the token; see "Connecting to your DB instance using IAM
//! authentication" in the RDS guide and "Signature Version 4" in the IAM guide.
//! Never: caches, fetches credentials or uses a network. Signing is a few HMACs.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningParams, SigningSettings,
};
use aws_sigv4::sign::v4;
use aws_smithy_runtime_api::client::identity::Identity as SigningIdentity;
use zeroize::Zeroizing;

use crate::percent::{encoded_len, percent_encode, push_percent_encoded};
use crate::region::Region;

/// How long RDS accepts a token after signing, if the credentials last that long.
pub const MAX_TOKEN_LIFE: Duration = Duration::from_secs(900);

/// Maximum length of a token, in bytes. PostgreSQL refuses password messages beyond 64 KiB, and STS documents
/// no maximum for the session token it contains.
pub const MAX_TOKEN_BYTES: usize = 65_535 - 5;

/// Maximum length of a DNS name, in bytes.
const MAX_HOST_BYTES: usize = 253;

/// Space for the fixed parts of a token: parameter names, algorithm, date, scope, signature.
const FIXED_PARTS_BYTES: usize = 512;

const SERVICE: &str = "rds-db";

/// The order in which the signer's parameters are written. RDS accepts any order; this is botocore's, so that
/// tokens can be compared byte by byte.
const SIGNED_PARAMETERS: [&str; 7] = [
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Security-Token",
    "X-Amz-Signature",
];

/// Parameters of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenRequest<'a> {
    /// The real endpoint name; RDS refuses a token made for a CNAME or an address. Any case.
    pub host: &'a str,
    /// The port of the endpoint. Always part of the signature, including 443.
    pub port: u16,
    /// The database user, as named in PostgreSQL (case matters).
    pub user: &'a str,
    /// The region of the database.
    pub region: &'a Region,
}

/// A signed token. Wiped from memory when dropped; `Debug` does not show its text.
pub struct Token {
    text: Zeroizing<String>,
    access_key_id: String,
    signed_at: SystemTime,
    expires_at: SystemTime,
}

/// Why no token could be signed. None of these errors is fixed by a retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The host is empty, too long, or contains characters that are not allowed in a host name.
    #[error("\"{0}\" is not a valid host: use the RDS endpoint name, without scheme, port or path")]
    InvalidHost(String),
    /// Port 0.
    #[error("port 0 is not valid: use the port of the RDS endpoint")]
    InvalidPort,
    /// The user is empty or contains a NUL, which the protocol cannot carry.
    #[error("the database user is empty or contains a NUL byte")]
    InvalidUser,
    /// The audience of a caller proof is empty, too long, or not visible ASCII.
    #[error("the audience is empty, longer than 255 bytes, or not visible ASCII")]
    InvalidAudience,
    /// The credentials expired before the signing time.
    #[error("the AWS credentials expired before the token was signed")]
    CredentialsExpired,
    /// User and session token together exceed [`MAX_TOKEN_BYTES`].
    #[error("the token would be {len_bytes} bytes long; PostgreSQL takes at most {MAX_TOKEN_BYTES}")]
    TooLong {
        /// The length it would have had.
        len_bytes: usize,
    },
    /// The clock is before 1970 or after 9999.
    #[error("the system clock is set to a time that cannot be signed: set the clock")]
    ClockOutOfRange,
    /// The signer failed, with this message.
    #[error("signing failed: {0}")]
    Signer(String),
}

impl Token {
    /// The text of the token, a bearer secret: send it over verified TLS only and never log it.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The signing time, from which its age is counted.
    pub fn signed_at(&self) -> SystemTime {
        self.signed_at
    }

    /// The expiry: [`MAX_TOKEN_LIFE`] after signing, or that of the credentials that signed it.
    pub fn expires_at(&self) -> SystemTime {
        self.expires_at
    }

    /// The key that signed it. Not a secret; CloudTrail and AWS support identify requests by it.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("text", &"** redacted **")
            .field("access_key_id", &self.access_key_id)
            .field("signed_at", &self.signed_at)
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

/// Signs a token for `request`, valid from `now`.
///
/// The host is converted to lower case and the port is always included, in the signature as well as in the
/// token: SDKs differ in both, and this is the form that every verifier of `host:port` computes.
///
/// # Errors
/// The request contains invalid values, the credentials have expired, or the token would be longer than
/// [`MAX_TOKEN_BYTES`].
pub fn sign(
    request: &TokenRequest<'_>,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Token, SignError> {
    let host = checked_host(request.host)?;
    check_port_and_user(request)?;
    check_clock(now)?;
    let expires_at = token_expiry(credentials, now)?;

    let authority = format!("{host}:{}", request.port);
    let target = format!("{authority}/?Action=connect&DBUser={}", percent_encode(request.user));
    if target.len() > MAX_TOKEN_BYTES {
        // The signer could not parse it.
        return Err(SignError::TooLong { len_bytes: target.len() });
    }
    let parameters = signed_parameters(request.region, &authority, &target, credentials, now)?;
    let text = join_token(&target, &parameters, credentials)?;

    Ok(Token { text, access_key_id: credentials.access_key_id().to_owned(), signed_at: now, expires_at })
}

/// The parameters added by Signature Version 4, including the signature.
fn signed_parameters(
    region: &Region,
    authority: &str,
    target: &str,
    credentials: &Credentials,
    now: SystemTime,
) -> Result<Vec<(String, Zeroizing<String>)>, SignError> {
    let signer = |error: &dyn fmt::Display| SignError::Signer(error.to_string());

    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(MAX_TOKEN_LIFE);
    settings.percent_encoding_mode = PercentEncodingMode::Single;

    let identity = SigningIdentity::from(credentials.clone());
    let params: SigningParams<'_> = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_str())
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| signer(&error))?
        .into();

    // Without an explicit host header the signer derives one from the URL and leaves out ":443".
    let headers = [("host", authority)];
    let url = format!("https://{target}");
    let request = SignableRequest::new("GET", url, headers.into_iter(), SignableBody::Bytes(&[]))
        .map_err(|error| signer(&error))?;
    let (instructions, _signature) =
        aws_sigv4::http_request::sign(request, &params).map_err(|error| signer(&error))?.into_parts();
    let (_headers, parameters) = instructions.into_parts();
    Ok(parameters
        .into_iter()
        .map(|(name, value)| (name.to_owned(), Zeroizing::new(value.into_owned())))
        .collect())
}

/// Joins target and parameters in a buffer that never reallocates: reallocating would leave copies of the
/// secret behind.
fn join_token(
    target: &str,
    parameters: &[(String, Zeroizing<String>)],
    credentials: &Credentials,
) -> Result<Zeroizing<String>, SignError> {
    let session_token_bytes = credentials.session_token().map_or(0, encoded_len);
    let capacity_bytes =
        target.len() + session_token_bytes + encoded_len(credentials.access_key_id()) + FIXED_PARTS_BYTES;
    let mut text = Zeroizing::new(String::with_capacity(capacity_bytes));
    text.push_str(target);
    for wanted in SIGNED_PARAMETERS {
        for (name, value) in parameters.iter().filter(|(name, _)| name == wanted) {
            text.push('&');
            text.push_str(name);
            text.push('=');
            push_percent_encoded(&mut text, value);
        }
    }
    if text.len() > MAX_TOKEN_BYTES {
        return Err(SignError::TooLong { len_bytes: text.len() });
    }
    Ok(text)
}

fn checked_host(host: &str) -> Result<String, SignError> {
    let lower = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // No colon: ports and IPv6 literals are refused. An underscore is not allowed in host names, but DNS supports it.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if lower.is_empty() || lower.len() > MAX_HOST_BYTES || !lower.bytes().all(is_allowed) {
        return Err(SignError::InvalidHost(host.chars().take(MAX_HOST_BYTES).collect()));
    }
    Ok(lower)
}

fn check_port_and_user(request: &TokenRequest<'_>) -> Result<(), SignError> {
    if request.port == 0 {
        return Err(SignError::InvalidPort);
    }
    if request.user.is_empty() || request.user.contains('\0') {
        return Err(SignError::InvalidUser);
    }
    Ok(())
}

fn check_clock(now: SystemTime) -> Result<(), SignError> {
    // 9999-12-31T00:00:00Z: the last day that the four-digit year of X-Amz-Date can spell.
    const LAST_SIGNABLE_SECOND: u64 = 253_402_214_400;
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since_1970) if since_1970.as_secs() < LAST_SIGNABLE_SECOND => Ok(()),
        _ => Err(SignError::ClockOutOfRange),
    }
}

fn token_expiry(credentials: &Credentials, now: SystemTime) -> Result<SystemTime, SignError> {
    let by_age = now + MAX_TOKEN_LIFE;
    match credentials.expiry() {
        Some(end) if end <= now => Err(SignError::CredentialsExpired),
        Some(end) => Ok(by_age.min(end)),
        None => Ok(by_age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "db.c1.eu-west-1.rds.amazonaws.com";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn sign_for(host: &str, port: u16, user: &str, expiry: Option<SystemTime>) -> Result<Token, SignError> {
        let region = "eu-west-1".parse().unwrap();
        let credentials = Credentials::new("AKID", "topsecret", Some("session+/=".into()), expiry, "test");
        sign(&TokenRequest { host, port, user, region: &region }, &credentials, at(1_705_322_096))
    }

    #[test]
    fn a_token_expires_by_age_or_with_the_credentials() {
        let signed = at(1_705_322_096);
        assert_eq!(sign_for(HOST, 5432, "u", None).unwrap().expires_at(), signed + MAX_TOKEN_LIFE);
        let late = Some(signed + Duration::from_secs(3600));
        assert_eq!(sign_for(HOST, 5432, "u", late).unwrap().expires_at(), signed + MAX_TOKEN_LIFE);
        let early = signed + Duration::from_secs(61);
        assert_eq!(sign_for(HOST, 5432, "u", Some(early)).unwrap().expires_at(), early);
        assert_eq!(sign_for(HOST, 5432, "u", Some(signed)).unwrap_err(), SignError::CredentialsExpired);
    }

    #[test]
    fn invalid_requests_are_refused() {
        for host in ["", "a b", "h:5432", "http://h", "h/x", "::1", "h?x", "u@h", "h\0"] {
            assert!(matches!(sign_for(host, 5432, "u", None), Err(SignError::InvalidHost(_))), "{host}");
        }
        assert_eq!(sign_for(HOST, 0, "u", None).unwrap_err(), SignError::InvalidPort);
        assert_eq!(sign_for(HOST, 1, "", None).unwrap_err(), SignError::InvalidUser);
        assert_eq!(sign_for(HOST, 1, "a\0b", None).unwrap_err(), SignError::InvalidUser);
        let long_user = "é".repeat(12_000);
        assert!(matches!(sign_for(HOST, 1, &long_user, None), Err(SignError::TooLong { .. })));
        assert_eq!(
            check_clock(SystemTime::UNIX_EPOCH - Duration::from_secs(1)),
            Err(SignError::ClockOutOfRange)
        );
    }

    #[test]
    fn trailing_dot_and_case_do_not_change_the_token() {
        let plain = sign_for(HOST, 5432, "u", None).unwrap();
        let dotted = sign_for("DB.C1.eu-west-1.RDS.amazonaws.com.", 5432, "u", None).unwrap();
        assert_eq!(plain.expose(), dotted.expose());
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let token = sign_for(HOST, 5432, "u", None).unwrap();
        let shown = format!("{token:?}");
        assert!(shown.contains("AKID") && shown.contains("redacted"));
        assert!(!shown.contains("session") && !shown.contains("Signature") && !shown.contains("topsecret"));
    }

    #[test]
    fn the_buffer_never_reallocates() {
        let credentials = Credentials::new("AKID", "s", Some("+/=".repeat(4000)), None, "test");
        let region: Region = "eu-west-1".parse().unwrap();
        let request = TokenRequest { host: HOST, port: 5432, user: "u", region: &region };
        let token = sign(&request, &credentials, at(1_705_322_096)).unwrap();
        assert!(token.text.len() > 36_000 && token.text.capacity() < token.text.len() + FIXED_PARTS_BYTES);
    }
}
