//! Whether the instance's metadata service answers, asked when no credentials were found. Owns two requests with short
//! limits; it reads no credentials.

use crate::config::Environment;
use crate::login_failure::LoginFailure;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;
use tokio::time::timeout;

/// The address on every instance (AWS, EC2 user guide).
const DEFAULT_ENDPOINT: &str = "http://169.254.169.254";
/// For one step. The service is on the same machine.
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// A session is short; longer answers are somebody else's.
const MAX_SESSION_BYTES: usize = 1024;
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Metadata {
    /// Switched off by `AWS_EC2_METADATA_DISABLED`.
    Disabled,
    /// Nobody is there: not on EC2, or cut off by a network policy.
    Absent,
    /// It takes connections and never answers.
    Silent,
    /// It answers with an error.
    Refuses(StatusCode),
    /// It answers, and the instance has no role.
    NoRole,
    /// It answers, and the instance has a role.
    HasRole,
}

impl Metadata {
    /// The cause, where this is one, and what was seen.
    pub(super) fn finding(self) -> Option<(LoginFailure, String)> {
        match self {
            Self::Disabled | Self::Absent | Self::HasRole => None,
            Self::Silent => {
                let text = "The metadata service takes connections and does not answer, as it does where its answers \
                            may not travel one more hop, into a container.";
                Some((LoginFailure::MetadataUnreachable, text.to_owned()))
            }
            Self::Refuses(status) => Some((
                LoginFailure::MetadataUnreachable,
                format!("The metadata service answers with {status}."),
            )),
            Self::NoRole => Some((
                LoginFailure::NoCredentials,
                "This is an instance without a role (instance profile).".to_owned(),
            )),
        }
    }
}

/// Asks. Needs a tokio runtime.
pub(super) async fn probe(environment: &(dyn Environment + Sync)) -> Metadata {
    if environment.get("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Metadata::Disabled;
    }
    let endpoint = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    let endpoint = endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT).trim_end_matches('/').to_owned();
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(STEP_LIMIT));
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let request = |method: Method, path: &str, header: (&str, &str)| {
        let uri = format!("{endpoint}{path}");
        Request::builder().method(method).uri(uri).header(header.0, header.1).body(Empty::new())
    };
    let open = request(Method::PUT, "/latest/api/token", ("x-aws-ec2-metadata-token-ttl-seconds", "60"));
    let Ok(open) = open else { return Metadata::Absent };
    let answer = match timeout(2 * STEP_LIMIT, client.request(open)).await {
        Err(_elapsed) => return Metadata::Silent,
        Ok(Err(error)) if error.is_connect() => return Metadata::Absent,
        Ok(Err(_)) => return Metadata::Silent,
        Ok(Ok(answer)) => answer,
    };
    if answer.status() != StatusCode::OK {
        return Metadata::Refuses(answer.status());
    }
    let body = timeout(STEP_LIMIT, Limited::new(answer.into_body(), MAX_SESSION_BYTES).collect()).await;
    let Ok(Ok(body)) = body else { return Metadata::Silent };
    let session = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let Ok(ask) = request(Method::GET, ROLE_PATH, ("x-aws-ec2-metadata-token", &session)) else {
        return Metadata::Silent;
    };
    match timeout(STEP_LIMIT, client.request(ask)).await {
        Ok(Ok(answer)) if answer.status() == StatusCode::OK => Metadata::HasRole,
        Ok(Ok(answer)) if answer.status() == StatusCode::NOT_FOUND => Metadata::NoRole,
        Ok(Ok(answer)) => Metadata::Refuses(answer.status()),
        _ => Metadata::Silent,
    }
}
