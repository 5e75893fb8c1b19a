//! The request to STS that verifies a proof. Owns the HTTP exchange: one request built by the pooler, no redirects, a
//! bounded answer of exactly the expected format (CVE-2020-16250 was an answer that echoed the request). Runs on the
//! control thread.

use crate::auth::iam::caller::{AUDIENCE_HEADER, ParsedCallerProof};
use crate::net::certificates;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rds_iam::Arn;
use serde::Deserialize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Time limit for one request.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Attempts while STS is throttling …
const MAX_ATTEMPTS: u32 = 3;
/// … with this pause, which doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Variables from which the SDKs take another STS endpoint (a VPC endpoint, an emulator); the signed host name stays
/// AWS's.
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];

/// Why STS returned no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StsError {
    /// No answer.
    #[error("STS cannot be reached: {0}")]
    Unreachable(String),
    /// Too many requests.
    #[error("STS is throttling")]
    Throttled,
    /// The signature, the key or the audience is wrong, or the proof has expired.
    #[error("STS refuses the proof ({0}): wrong audience, expired, or signed with keys that no longer exist")]
    Refused(StatusCode),
    /// An answer in an unexpected format.
    #[error("unexpected answer from STS: {0}")]
    Unexpected(&'static str),
    /// An identity that a map cannot name.
    #[error("{0} is neither a role nor a user")]
    NoPrincipal(String),
}

impl StsError {
    /// True if trying again later may help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Throttled | Self::Unexpected(_))
    }
}

#[derive(Deserialize)]
struct StsAnswer {
    #[serde(rename = "GetCallerIdentityResponse")]
    response: Response,
}

#[derive(Deserialize)]
struct Response {
    #[serde(rename = "GetCallerIdentityResult")]
    result: CallerIdentity,
}

#[derive(Deserialize)]
struct CallerIdentity {
    #[serde(rename = "Arn")]
    arn: String,
    #[serde(rename = "Account")]
    account: String,
}

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Asks STS for the ARN behind a proof made for `audience`.
///
/// # Errors
/// See [`StsError`].
pub(super) async fn ask(proof: &ParsedCallerProof, audience: &str) -> Result<String, StsError> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let asked = tokio::time::timeout(ANSWER_LIMIT, ask_once(proof, audience)).await;
        let outcome =
            asked.unwrap_or_else(|_| Err(StsError::Unreachable("it did not answer in time".to_owned())));
        if outcome != Err(StsError::Throttled) || attempt == MAX_ATTEMPTS {
            return outcome;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        attempt += 1;
    }
}

async fn ask_once(proof: &ParsedCallerProof, audience: &str) -> Result<String, StsError> {
    let unreachable = |error: &dyn std::error::Error| StsError::Unreachable(chain(error));
    let request = Request::get(uri(proof)?)
        .header(HOST, &proof.host)
        .header(AUDIENCE_HEADER, audience)
        .header(ACCEPT, "application/json")
        .body(Empty::new())
        .map_err(|_| StsError::Unexpected("the request cannot be built"))?;
    let answer = client()?.request(request).await.map_err(|error| unreachable(&error))?;
    let (head, body) = answer.into_parts();
    match head.status {
        StatusCode::OK => {}
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => return Err(StsError::Throttled),
        status if status.is_client_error() => return Err(StsError::Refused(status)),
        // Redirects are never followed: the other host would receive the proof.
        status if status.is_redirection() => return Err(StsError::Unexpected("a redirection")),
        status => return Err(StsError::Unreachable(status.to_string())),
    }
    let kind = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return Err(StsError::Unexpected("it is not JSON"));
    }
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|_| StsError::Unexpected("it is too long or was cut off"))?.to_bytes();
    arn_in(&body)
}

/// The ARN in an answer, which must belong to the account in the answer.
fn arn_in(body: &[u8]) -> Result<String, StsError> {
    let answer: StsAnswer = serde_json::from_slice(body)
        .map_err(|_| StsError::Unexpected("it is not a GetCallerIdentityResponse"))?;
    let CallerIdentity { arn, account } = answer.response.result;
    match Arn::parse(&arn) {
        Some(parsed) if parsed.account == account => Ok(arn),
        _ => Err(StsError::Unexpected("ARN and account differ")),
    }
}

/// The address of the request.
fn uri(proof: &ParsedCallerProof) -> Result<Uri, StsError> {
    let other =
        ENDPOINT_VARIABLES.iter().find_map(|name| std::env::var(name).ok().filter(|url| !url.is_empty()));
    let base = other.unwrap_or_else(|| format!("https://{}", proof.host));
    format!("{}{}", base.trim_end_matches('/'), *proof.path_and_query)
        .parse()
        .map_err(|_| StsError::Unexpected("the request has no valid address"))
}

/// One client for the process, so that connections are reused.
fn client() -> Result<&'static HttpsClient, StsError> {
    static CLIENT: OnceLock<HttpsClient> = OnceLock::new();
    if let Some(client) = CLIENT.get() {
        return Ok(client);
    }
    let failed = |error: &dyn std::error::Error| StsError::Unreachable(chain(error));
    let roots = certificates::server_roots("").map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
    Ok(CLIENT.get_or_init(|| Client::builder(TokioExecutor::new()).build(connector)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_well_formed_answer_yields_an_arn() {
        let answer = |arn: &str, account: &str| {
            format!(
                "{{\"GetCallerIdentityResponse\": {{\"GetCallerIdentityResult\": \
                 {{\"Arn\": \"{arn}\", \"Account\": \"{account}\", \"UserId\": \"x\"}}}}}}"
            )
        };
        let arn = "arn:aws:sts::123456789012:assumed-role/orders/s";
        assert_eq!(arn_in(answer(arn, "123456789012").as_bytes()).as_deref(), Ok(arn));
        assert!(arn_in(answer(arn, "210987654321").as_bytes()).is_err());
        for malformed in
            ["", "{}", "<GetCallerIdentityResponse/>", "{\"Arn\": \"arn:aws:iam::1:role/x\"}", "[1]"]
        {
            assert!(arn_in(malformed.as_bytes()).is_err(), "{malformed}");
        }
    }

    #[test]
    fn only_lasting_errors_count_against_the_client() {
        assert!(StsError::Throttled.is_transient() && StsError::Unexpected("x").is_transient());
        assert!(!StsError::Refused(StatusCode::FORBIDDEN).is_transient());
    }
}
