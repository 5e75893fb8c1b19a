//! The endpoints that issue credentials: instance metadata (IMDSv2), the container endpoint of ECS and EKS
//! Pod Identity, STS (in `sts`) and Identity Center (in `sso`), all on one listener.
//!
//! Owns: the protocol of the first two, the keys issued, the call counters and the failures that can be
//! switched on.
//! Never: verifies signatures of requests to STS, which are not simulated; but it checks that their key is
//! known and has not expired.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::http::{HttpRequest, HttpServer, Reply};
use crate::keys::{AccessKey, random_text};
use crate::simulator::Simulator;
use crate::time::{http_date, rfc3339};
use crate::{sso, sts};

/// The header that requests an IMDSv2 session; the response contains it as well.
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// The header that contains the session.
const SESSION_HEADER: &str = "x-aws-ec2-metadata-token";
const ROLE_PATH: &str = "/latest/meta-data/iam/security-credentials/";
const CONTAINER_PATH: &str = "/container-credentials";

/// Properties of issued credentials, and failures.
#[derive(Clone, Debug)]
pub struct CredentialSettings {
    /// Lifetime of issued keys; [`issue_ended`](Self::issue_ended) issues expired ones.
    pub life: Duration,
    /// The length of session tokens, in bytes.
    pub session_token_bytes: usize,
    /// The account in ARNs.
    pub account: String,
    /// The name of the instance's role; empty for an instance without one.
    pub role_name: String,
    /// The session name in the ARN returned by GetCallerIdentity.
    pub caller_session: String,
    /// The region returned by instance metadata.
    pub region: String,
    /// The `Authorization` required by the container endpoint.
    pub authorization: String,
    /// The external ID required by AssumeRole, if any.
    pub external_id: Option<String>,
    /// The token required by AssumeRoleWithWebIdentity, if a particular one.
    pub web_identity_token: Option<String>,
    /// The access token that Identity Center accepts, and returns for a refresh token.
    pub sso_access_token: String,
    /// Answer everything with this HTTP status.
    pub fail_with: Option<u16>,
    /// Make STS deny access.
    pub deny: bool,
    /// Delay before every answer.
    pub delay: Duration,
    /// Answer with this status, content type and body: everything, or only [`answer_at`](Self::answer_at).
    pub answer_with: Option<(u16, &'static str, String)>,
    /// The only path that [`answer_with`](Self::answer_with) applies to.
    pub answer_at: Option<&'static str>,
    /// Issue a new key on each call; AWS returns the same one for hours.
    pub reissue: bool,
    /// Issue keys that expired this long ago, as stale instance metadata does.
    pub issue_ended: Option<Duration>,
}

/// Number of calls of each endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CredentialCalls {
    /// IMDSv2: sessions.
    pub imds_session: u64,
    /// IMDSv2: name of the role.
    pub imds_role: u64,
    /// IMDSv2: credentials.
    pub imds_credentials: u64,
    /// Container endpoint.
    pub container: u64,
    /// STS AssumeRole.
    pub assume_role: u64,
    /// STS AssumeRoleWithWebIdentity.
    pub assume_role_with_web_identity: u64,
    /// STS GetCallerIdentity.
    pub get_caller_identity: u64,
    /// STS GetCallerIdentity with a presigned URL.
    pub presigned: u64,
    /// Identity Center: credentials of a role.
    pub sso_credentials: u64,
    /// Identity Center: a new access token for a refresh token.
    pub sso_refresh: u64,
    /// Anything that was refused or unknown.
    pub refused: u64,
}

/// The listening server; dropping it closes it.
#[derive(Debug)]
pub struct CredentialServer {
    server: HttpServer,
    handler: Arc<CredentialHandler>,
}

/// Handles the requests.
#[derive(Debug)]
pub(crate) struct CredentialHandler {
    pub(crate) simulator: Simulator,
    settings: Mutex<CredentialSettings>,
    calls: Mutex<CredentialCalls>,
    role_sessions: Mutex<Vec<String>>,
    last_issued: Mutex<Option<AccessKey>>,
    imds_session: String,
}

impl Default for CredentialSettings {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(3600),
            session_token_bytes: 700,
            account: "123456789012".to_owned(),
            role_name: "rds-sim-role".to_owned(),
            caller_session: "rds-sim".to_owned(),
            region: "eu-west-1".to_owned(),
            authorization: "rds-sim-authorization".to_owned(),
            external_id: None,
            web_identity_token: None,
            sso_access_token: "rds-sim-access-token".to_owned(),
            fail_with: None,
            deny: false,
            delay: Duration::ZERO,
            answer_with: None,
            answer_at: None,
            reissue: true,
            issue_ended: None,
        }
    }
}

impl CredentialServer {
    /// Starts the endpoints. The simulator accepts the keys they issue.
    pub async fn start(
        simulator: &Simulator,
        listen: SocketAddr,
        settings: CredentialSettings,
    ) -> io::Result<Self> {
        let handler = Arc::new(CredentialHandler {
            simulator: simulator.clone(),
            settings: Mutex::new(settings),
            calls: Mutex::default(),
            role_sessions: Mutex::default(),
            last_issued: Mutex::default(),
            imds_session: random_text(56),
        });
        let shared = Arc::clone(&handler);
        let server = HttpServer::start(listen, Arc::new(move |request| shared.answer(request))).await?;
        Ok(Self { server, handler })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Number of calls so far.
    pub fn calls(&self) -> CredentialCalls {
        *lock(&self.handler.calls)
    }

    /// Changes the settings from now on.
    pub fn set(&self, change: impl FnOnce(&mut CredentialSettings)) {
        change(&mut lock(&self.handler.settings));
    }

    /// The environment through which the SDK finds the instance metadata.
    pub fn imds_environment(&self) -> Vec<(&'static str, String)> {
        vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", self.url("/"))]
    }

    /// The environment through which the SDK finds the container endpoint. `authorization_file` must contain
    /// the text of [`CredentialSettings::authorization`] without a final newline.
    pub fn container_environment(&self, authorization_file: &Path) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", self.url(CONTAINER_PATH)),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", authorization_file.display().to_string()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The environment through which the SDK calls this STS.
    pub fn sts_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_STS", self.url("")),
            ("AWS_REGION", lock(&self.handler.settings).region.clone()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The environment through which the SDK calls this Identity Center for profiles with `sso_…` keys.
    pub fn sso_environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_SSO", self.url("")),
            ("AWS_ENDPOINT_URL_SSO_OIDC", self.url("")),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// Roles and session names requested from STS, as `role/session`, in order.
    pub fn role_sessions(&self) -> Vec<String> {
        lock(&self.handler.role_sessions).clone()
    }

    /// The environment of a pod with a service account token in `token_file` (IRSA).
    pub fn web_identity_environment(&self, token_file: &Path) -> Vec<(&'static str, String)> {
        let role = {
            let settings = lock(&self.handler.settings);
            format!("arn:aws:iam::{}:role/{}", settings.account, settings.role_name)
        };
        let mut environment = self.sts_environment();
        environment.push(("AWS_ROLE_ARN", role));
        environment.push(("AWS_WEB_IDENTITY_TOKEN_FILE", token_file.display().to_string()));
        environment
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }
}

impl CredentialHandler {
    pub(crate) fn settings(&self) -> CredentialSettings {
        lock(&self.settings).clone()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut CredentialCalls)) {
        change(&mut lock(&self.calls));
    }

    pub(crate) fn note_role_session(&self, role: &str, session: &str) {
        lock(&self.role_sessions).push(format!("{role}/{session}"));
    }

    /// Issues a key, which the simulator accepts.
    pub(crate) fn issue(&self) -> AccessKey {
        let settings = self.settings();
        let mut last = lock(&self.last_issued);
        if let Some(key) = last.as_ref().filter(|_| !settings.reissue) {
            return key.clone();
        }
        let now = self.simulator.clock().now();
        let keys = self.simulator.keys();
        let key = match settings.issue_ended.and_then(|ago| now.checked_sub(ago)) {
            Some(end) => keys.issue(end, Duration::ZERO, settings.session_token_bytes),
            None => keys.issue(now, settings.life, settings.session_token_bytes),
        };
        *last = Some(key.clone());
        key
    }

    fn answer(&self, request: &HttpRequest) -> Reply {
        let CredentialSettings { fail_with, answer_with, answer_at, delay, .. } = self.settings();
        let answer_with = answer_with.filter(|_| answer_at.is_none_or(|path| path == request.path));
        let reply = match (answer_with, fail_with) {
            (Some((status, content_type, body)), _) => {
                self.count(|calls| calls.refused += 1);
                Reply { content_type, ..Reply::text(status, body) }
            }
            (None, Some(status)) => self.refuse(status, "failure switched on"),
            (None, None) => self.route(request),
        };
        Reply { delay, date: Some(http_date(self.simulator.clock().now())), ..reply }
    }

    fn route(&self, request: &HttpRequest) -> Reply {
        match (request.method.as_str(), request.path.as_str()) {
            ("PUT", "/latest/api/token") => self.imds_open_session(request),
            ("GET", path) if path.starts_with("/latest/") => self.imds(request),
            ("GET", CONTAINER_PATH) => self.container(request),
            ("GET", "/federation/credentials") => sso::role_credentials(self, request),
            ("POST", "/token") => sso::refresh(self, request),
            ("POST", "/") => sts::answer(self, request),
            ("GET", "/") => sts::answer_presigned(self, request),
            _ => self.refuse(404, "not found"),
        }
    }

    fn refuse(&self, status: u16, why: &str) -> Reply {
        self.count(|calls| calls.refused += 1);
        Reply::text(status, why)
    }

    fn imds_open_session(&self, request: &HttpRequest) -> Reply {
        let ttl = request.header(TTL_HEADER);
        if ttl.parse::<u32>().is_ok_and(|seconds| (1..=21_600).contains(&seconds)) {
            self.count(|calls| calls.imds_session += 1);
            // The Rust SDK requires the header in the response.
            Reply { header: Some((TTL_HEADER, ttl.to_owned())), ..Reply::text(200, &*self.imds_session) }
        } else {
            self.refuse(400, "bad ttl")
        }
    }

    fn imds(&self, request: &HttpRequest) -> Reply {
        if request.header(SESSION_HEADER) != self.imds_session {
            return self.refuse(401, "no session");
        }
        let settings = self.settings();
        match request.path.as_str() {
            "/latest/meta-data/placement/region" => Reply::text(200, settings.region),
            // Without a role the path does not exist.
            ROLE_PATH if settings.role_name.is_empty() => self.refuse(404, "not found"),
            ROLE_PATH => {
                self.count(|calls| calls.imds_role += 1);
                Reply::text(200, settings.role_name)
            }
            path if path.strip_prefix(ROLE_PATH) == Some(settings.role_name.as_str()) => {
                self.count(|calls| calls.imds_credentials += 1);
                Reply::json(self.json_credentials(true))
            }
            _ => self.refuse(404, "not found"),
        }
    }

    fn container(&self, request: &HttpRequest) -> Reply {
        if request.header("authorization") != self.settings().authorization {
            return self.refuse(401, "wrong authorization");
        }
        self.count(|calls| calls.container += 1);
        Reply::json(self.json_credentials(false))
    }

    fn json_credentials(&self, is_imds: bool) -> String {
        let key = self.issue();
        let mut json = serde_json::json!({
            "AccessKeyId": key.access_key_id,
            "SecretAccessKey": key.secret.as_str(),
            "Token": key.session_token_text(),
            "Expiration": key.ends_at.map(rfc3339),
        });
        if is_imds {
            json["Code"] = "Success".into();
            json["Type"] = "AWS-HMAC".into();
            json["LastUpdated"] = rfc3339(self.simulator.clock().now()).into();
        }
        json.to_string()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
