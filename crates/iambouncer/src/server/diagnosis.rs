//! The cause of a failed login. Owns the choice among the causes: RDS reports a dozen of them with the same message, so
//! this considers what was requested, what was signed, and the recorded state of clock and credentials. Makes no
//! requests and never waits.

use super::LoginError;
use super::error::{LoginStage, TlsFailureKind};
use crate::auth::iam::presigned::date_seconds;
use crate::client_error::ClientError;
use crate::credential_causes::{text_of_refused_key, with_number};
use crate::identities::skew_text;
use crate::login_failure::LoginFailure;
use rds_iam::{EndpointKind, RdsEndpoint, region_of};
use std::borrow::Cow;
use std::io::ErrorKind;

/// How long RDS accepts a token, in seconds.
const TOKEN_LIFETIME_SECONDS: i64 = 900;
/// Larger skew is a cause by itself: AWS tolerates five minutes.
pub const MAX_CLOCK_SKEW_SECONDS: i64 = 300;
/// The default port of RDS.
const POSTGRES_PORT: u16 = 5432;
/// Maximum length of an error chain in a client error, in bytes; the log has all of it.
const MAX_CLIENT_MESSAGE_BYTES: usize = 240;
/// RDS accepts at most this many IAM logins per second.
pub const RDS_LOGINS_PER_SECOND: u32 = 200;

/// A token that was sent, with the relevant facts at that time. No secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenDetail {
    /// Name it was signed for.
    pub host: String,
    /// Port it was signed for.
    pub port: u16,
    /// Region it was signed for.
    pub region: String,
    /// Database user.
    pub user: String,
    /// Access key that signed it; empty for a client's token.
    pub access_key_id: String,
    /// When it expires, in seconds since 1970.
    pub expires_at_seconds: i64,
    /// Host of the connection.
    pub dialed_host: String,
    /// Port of the connection.
    pub dialed_port: u16,
    /// The port to sign for is configured.
    pub is_port_given: bool,
    /// The signing identity, if known.
    pub arn: Option<String>,
    /// How far this clock is ahead of AWS's, if known.
    pub clock_skew_seconds: Option<i64>,
    /// IAM logins to this target in the preceding second.
    pub logins_last_second: u32,
    /// Why AWS does not accept the key, if it has reported that.
    pub refused_key: Option<LoginFailure>,
    /// The source of the credentials no longer has any.
    pub source: Option<SourceFault>,
}

/// A fault of a credential source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFault {
    /// The cause.
    pub cause: LoginFailure,
    /// What happened.
    pub finding: String,
    /// Specific advice, in place of the cause's general fix.
    pub advice: Option<String>,
}

/// The proof sent to the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Proof {
    /// None yet.
    #[default]
    None,
    /// A password.
    Password,
    /// A password that is a previously generated token.
    StoredToken(StoredToken),
    /// A token generated for this login.
    Token(Box<TokenDetail>),
}

/// The contents of a stored token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// When it was generated, in seconds since 1970.
    pub made_at_seconds: i64,
    /// Its lifetime, in seconds.
    pub lifetime_seconds: i64,
    /// It is complete, including the last digit of the signature.
    pub is_complete: bool,
}

impl StoredToken {
    /// Parses a password as a token; `None` if it is not one.
    pub fn read(password: &str) -> Option<Self> {
        let (_, query) = password.split_once("/?").or_else(|| password.split_once('?'))?;
        let value = |key: &str| {
            query
                .split('&')
                .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key))
                .map(|(_, v)| v)
        };
        let made_at_seconds = date_seconds(value("X-Amz-Date")?)?;
        let lifetime_seconds =
            value("X-Amz-Expires").and_then(|text| text.parse().ok()).unwrap_or(TOKEN_LIFETIME_SECONDS);
        let is_signature = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_complete =
            value("X-Amz-Credential").is_some() && value("X-Amz-Signature").is_some_and(is_signature);
        Some(Self { made_at_seconds, lifetime_seconds, is_complete })
    }

    /// The cause and the finding for a stored token, at a time in seconds since 1970.
    pub fn diagnose(&self, now_seconds: i64) -> (LoginFailure, Option<String>) {
        if !self.is_complete {
            let text = "The stored password is a truncated or altered token.".to_owned();
            return (LoginFailure::BrokenToken, Some(text));
        }
        if self.lifetime_seconds > TOKEN_LIFETIME_SECONDS {
            let text =
                format!("The stored password is a token with a lifetime of {} s.", self.lifetime_seconds);
            return (LoginFailure::TokenLife, Some(text));
        }
        let expired_seconds_ago =
            now_seconds.saturating_sub(self.made_at_seconds).saturating_sub(self.lifetime_seconds);
        let text = if expired_seconds_ago >= 0 {
            format!("The stored password is a token that expired {} min ago.", expired_seconds_ago / 60)
        } else {
            "The stored password is a token and expires 15 minutes after it was generated.".to_owned()
        };
        (LoginFailure::StaticToken, Some(text))
    }
}

/// The properties of a database line that affect the wording.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineSummary {
    /// Logins use tokens.
    pub uses_iam: bool,
    /// Its host is in RDS, judging by its name or because it accepts tokens.
    pub is_rds: bool,
    /// It is the fallback, `*`: the client has chosen the database, and the line does not name it.
    pub is_fallback: bool,
}

impl LineSummary {
    /// A line that uses IAM.
    pub fn of_iam() -> Self {
        Self { uses_iam: true, is_rds: true, ..Self::default() }
    }
}

/// The finding in a specific case.
struct CaseFinding {
    /// For the log and `doctor`.
    text: String,
    /// For clients, including what to do; `None` if the text and the cause's fix are short.
    brief: Option<String>,
    /// What to do, in place of the cause's fix.
    advice: Option<String>,
}

impl From<String> for CaseFinding {
    fn from(text: String) -> Self {
        Self { text, brief: None, advice: None }
    }
}

/// A failed login and its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What happened.
    pub error: LoginError,
    /// The cause.
    pub cause: LoginFailure,
    /// What to do in this case.
    pub hint: String,
    /// The same for clients, in one line.
    client_hint: String,
    line: LineSummary,
}

impl Diagnosis {
    /// Diagnoses an error, given the proof that was sent, at a time in seconds since 1970.
    pub fn new(error: LoginError, proof: &Proof, line: LineSummary, now_seconds: i64) -> Self {
        let (cause, finding) = match (&error, proof) {
            (LoginError::Refused { code, message, .. }, Proof::Token(signed)) => {
                diagnose_refusal(code, message, signed, now_seconds)
            }
            (LoginError::Refused { code, .. }, Proof::StoredToken(stored)) if code.starts_with("28") => {
                let (cause, text) = stored.diagnose(now_seconds);
                (cause, text.map(CaseFinding::from))
            }
            (LoginError::Refused { code, message, .. }, _) => {
                let (cause, text) = password_cause(code, message);
                (cause, text.map(CaseFinding::from))
            }
            // The server has the token but is slow: it asks an agent, which asks AWS.
            (LoginError::Timeout { stage: LoginStage::Answer, .. }, Proof::Token(_)) => {
                (LoginFailure::Throttled, None)
            }
            _ => (cause_of_error(&error, line), None),
        };
        let own_hint = match &error {
            LoginError::Refused { hint, .. } => hint.clone(),
            // The operator does not control RDS's authorities and certificates.
            LoginError::Tls { trouble: TlsFailureKind::Expired, .. } if line.is_rds => Some(
                "The certificate has expired: let RDS issue another one, or correct this machine's clock."
                    .to_owned(),
            ),
            LoginError::Tls { .. } if line.is_rds => None,
            other => other.hint(),
        };
        let brief = finding.as_ref().and_then(|found| found.brief.clone());
        let advice = finding.as_ref().and_then(|found| found.advice.clone());
        let text = finding.map(|found| found.text).or(own_hint);
        let fix = advice.as_deref().unwrap_or_else(|| cause.fix_for(line.uses_iam, line.is_rds));
        let hint = hint(text, fix, cause);
        // Advice about a credential source is complete.
        let hint = match &error {
            LoginError::Token { advice: Some(advice), .. }
            | LoginError::Secret { advice: Some(advice), .. } => with_number(advice, cause),
            _ => hint,
        };
        let client_hint =
            brief.map_or_else(|| hint.clone(), |brief| format!("{brief} [{}]", cause.info().id));
        Self { error, cause, hint, client_hint, line }
    }

    /// The error for a waiting client: the cause, what to do, and its number. The details are in the log.
    pub fn to_fault(&self) -> ClientError {
        let fault = self.error.to_fault();
        match &self.error {
            // The client chose this database and user; the configuration names neither.
            LoginError::Refused { message, .. } if self.line.is_fallback && !self.is_about_proof() => {
                ClientError { message: message.clone().into(), hint: None, ..fault }
            }
            LoginError::Token { .. } | LoginError::Secret { .. } => {
                let text = first_clauses(&fault.message).to_owned();
                let hint = Some(Cow::Owned(self.client_hint.clone()));
                ClientError { message: text.into(), hint, ..fault }
            }
            _ => ClientError { hint: Some(Cow::Owned(self.client_hint.clone())), ..fault },
        }
    }

    /// True if the server refused the pooler's own proof, which does not concern the client.
    fn is_about_proof(&self) -> bool {
        self.line.uses_iam
            && !matches!(
                self.cause,
                LoginFailure::NoSuchDatabase | LoginFailure::ServerBusy | LoginFailure::Other
            )
    }
}

fn hint(text: Option<String>, fix: &str, cause: LoginFailure) -> String {
    let parts = [text.unwrap_or_default(), fix.to_owned(), format!("[{}]", cause.info().id)];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The first clauses of an error chain: the SDK quotes everything that led to an error.
fn first_clauses(text: &str) -> &str {
    if text.len() <= MAX_CLIENT_MESSAGE_BYTES {
        return text;
    }
    let ends = text.match_indices(": ").map(|(at, _)| at);
    let end = ends.take_while(|at| *at <= MAX_CLIENT_MESSAGE_BYTES).last();
    &text[..end.unwrap_or_else(|| text.floor_char_boundary(MAX_CLIENT_MESSAGE_BYTES))]
}

/// The cause, if the error alone determines it.
fn cause_of_error(error: &LoginError, line: LineSummary) -> LoginFailure {
    match error {
        LoginError::Resolve { .. } => LoginFailure::UnknownHost,
        LoginError::Connect { kind: ErrorKind::ConnectionRefused, .. } => LoginFailure::ConnectionRefused,
        LoginError::Connect { .. } => LoginFailure::Network,
        LoginError::Timeout { stage, .. } => match stage {
            LoginStage::Answer => LoginFailure::ServerBusy,
            LoginStage::RateLimit => LoginFailure::Throttled,
            LoginStage::Credentials => LoginFailure::MetadataUnreachable,
            LoginStage::Secret => LoginFailure::SecretsUnreachable,
            LoginStage::Network | LoginStage::Tls => LoginFailure::Network,
        },
        LoginError::LoginRate { .. } => LoginFailure::Throttled,
        LoginError::WrongRole { .. } | LoginError::NoSuitableServer { .. } => LoginFailure::NoSuitableServer,
        LoginError::NoTls | LoginError::TlsOff | LoginError::TokenNeedsVerifiedName => LoginFailure::TlsOff,
        LoginError::Tls { trouble: TlsFailureKind::WrongName, .. } if line.uses_iam => {
            LoginFailure::SignedHost
        }
        LoginError::Tls { trouble: TlsFailureKind::WrongName, .. } => LoginFailure::TlsTrust,
        LoginError::Tls { trouble: TlsFailureKind::Untrusted | TlsFailureKind::Expired, .. } => {
            LoginFailure::TlsTrust
        }
        LoginError::Tls { trouble: TlsFailureKind::Other, .. } | LoginError::BrokenOff(_) => {
            LoginFailure::Protocol
        }
        LoginError::NotAnIamUser { .. } => LoginFailure::NotRdsIam,
        LoginError::Token { cause, .. } | LoginError::Secret { cause, .. } => *cause,
        LoginError::SecretPassword { .. } => LoginFailure::SecretPassword,
        LoginError::NoPassword(_) | LoginError::UnusablePassword { .. } | LoginError::Scram(_) => {
            LoginFailure::Password
        }
        LoginError::UnsupportedAuthentication(_) => LoginFailure::Protocol,
        LoginError::OwnListener(_) | LoginError::PasswordNotRequested(_) => LoginFailure::Configuration,
        LoginError::Refused { .. } => LoginFailure::Other,
    }
}

fn password_cause(code: &str, message: &str) -> (LoginFailure, Option<String>) {
    let cause = match code {
        "28P01" => LoginFailure::Password,
        "28000" if is_about_encryption(message) => LoginFailure::TlsOff,
        "28000" if message.starts_with("PAM authentication failed") => {
            let text = "A password was sent and PAM refused it: RDS uses PAM for members of rds_iam, including \
                        roles that inherit the membership.";
            return (LoginFailure::InheritedGrant, Some(text.to_owned()));
        }
        _ => common_cause(code, message),
    };
    (cause, None)
}

fn common_cause(code: &str, message: &str) -> LoginFailure {
    match code {
        "57P03" | "57P01" | "57P02" | "53300" => LoginFailure::ServerBusy,
        // authentication_timeout of the server: "canceling authentication due to timeout".
        "57014" | "08006" => LoginFailure::Throttled,
        "42501" if is_about_replication(message) => LoginFailure::Other,
        "3D000" | "42501" => LoginFailure::NoSuchDatabase,
        _ => LoginFailure::Other,
    }
}

/// The right to replicate is missing: "walsender" until PostgreSQL 15, then "WAL sender".
fn is_about_replication(message: &str) -> bool {
    message.contains("walsender") || message.contains("WAL sender")
}

/// PostgreSQL 14 reports "no encryption", older versions "SSL off".
fn is_about_encryption(message: &str) -> bool {
    message.contains("pg_hba.conf") && (message.contains("no encryption") || message.contains("SSL off"))
}

/// Diagnoses the refusal of a token: a provable cause first, otherwise the IAM policy.
fn diagnose_refusal(
    code: &str,
    message: &str,
    signed: &TokenDetail,
    now_seconds: i64,
) -> (LoginFailure, Option<CaseFinding>) {
    match code {
        "28P01" => {
            let text = format!("The server treated the token of \"{}\" as a password.", signed.user);
            return (LoginFailure::NotRdsIam, Some(text.into()));
        }
        "28000" if is_about_encryption(message) => return (LoginFailure::TlsOff, None),
        "28000" => {}
        _ => return (common_cause(code, message), None),
    }
    let finding = known_cause(signed, now_seconds);
    finding.map_or_else(
        || (LoginFailure::NotAuthorized, Some(policy_hint(signed))),
        |(cause, text)| (cause, Some(text)),
    )
}

fn known_cause(signed: &TokenDetail, now_seconds: i64) -> Option<(LoginFailure, CaseFinding)> {
    let TokenDetail { host, port, region, dialed_host, dialed_port, .. } = signed;
    if signed.expires_at_seconds <= now_seconds {
        let text =
            format!("The credentials of key {} expired before the login finished.", signed.access_key_id);
        return Some((LoginFailure::CredentialsEnding, text.into()));
    }
    if let Some(skew) = signed.clock_skew_seconds.filter(|skew| skew.abs() > MAX_CLOCK_SKEW_SECONDS) {
        return Some((LoginFailure::ClockSkew, skew_text(skew).into()));
    }
    if let Some(cause) = signed.refused_key {
        return Some((cause, text_of_refused_key(&signed.access_key_id).into()));
    }
    let Some(endpoint) = RdsEndpoint::parse(host) else {
        let text =
            format!("The token was signed for {host}:{port}, which is not the name of an RDS endpoint.");
        return Some((LoginFailure::SignedHost, text.into()));
    };
    if let Some(named) = region_of(host).filter(|named| named.as_str() != region) {
        let text = format!("The name {host} is in region {named}; the token was signed for {region}.");
        return Some((LoginFailure::WrongRegion, text.into()));
    }
    let dialed_endpoint = RdsEndpoint::parse(dialed_host);
    if dialed_endpoint.as_ref().is_some_and(|dialed| dialed.host() != endpoint.host()) {
        let text = format!("The connection went to {dialed_host}, the token was signed for {host}.");
        return Some((LoginFailure::SignedHost, text.into()));
    }
    if dialed_endpoint.is_some() && dialed_port != port {
        let text =
            format!("The connection went to port {dialed_port}, the token was signed for port {port}.");
        return Some((LoginFailure::SignedPort, text.into()));
    }
    if dialed_endpoint.is_none() && !signed.is_port_given && *port != POSTGRES_PORT {
        let text = format!(
            "The token was signed for port {port}, which the connection used, but {dialed_host} is not the endpoint \
             itself, which may use another port."
        );
        return Some((LoginFailure::SignedPort, text.into()));
    }
    if signed.logins_last_second >= RDS_LOGINS_PER_SECOND {
        let text = format!("{} logins were sent within one second.", signed.logins_last_second);
        return Some((LoginFailure::Throttled, text.into()));
    }
    if let Some(SourceFault { cause, finding, advice }) = &signed.source {
        let key = &signed.access_key_id;
        let text =
            format!("The token of key {key} was refused, and no new credentials are available: {finding}.");
        return Some((*cause, CaseFinding { advice: advice.clone(), ..text.into() }));
    }
    if endpoint.kind() == EndpointKind::Proxy {
        return Some((LoginFailure::RdsProxy, policy_hint(signed)));
    }
    None
}

fn policy_hint(signed: &TokenDetail) -> CaseFinding {
    let TokenDetail { host, port, region, user, .. } = signed;
    let identity = signed.arn.as_deref().map_or_else(
        || match signed.access_key_id.as_str() {
            "" => "The identity that signed the token".to_owned(),
            key => format!("The identity behind key {key}"),
        },
        |arn| format!("The identity {arn}"),
    );
    let account = signed.arn.as_deref().and_then(|arn| arn.split(':').nth(4)).unwrap_or("<account>");
    let partition = signed.arn.as_deref().and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws");
    // Nothing but its contents is known about a client's token.
    let credentials = if signed.access_key_id.is_empty() { "" } else { "; its credentials last" };
    let clock = match signed.clock_skew_seconds {
        Some(skew) => format!("the clock is right to {} s", skew.abs().max(1)),
        None => "the clock could not be compared".to_owned(),
    };
    let place = if signed.dialed_host == *host {
        format!("the token was signed for {host}:{port} in {region}, where the connection went")
    } else {
        format!(
            "the token was signed for {host}:{port} in {region} (the connection went to {}:{}, so see that this is \
             the endpoint's own name and port)",
            signed.dialed_host, signed.dialed_port
        )
    };
    let lacking_permission = format!(
        "{identity} most likely lacks rds-db:connect on \
         arn:{partition}:rds-db:{region}:{account}:dbuser:<resource id>/{user}"
    );
    CaseFinding {
        text: format!(
            "RDS refused the token and does not say why. {lacking_permission}. What is known: {place}{credentials}; {clock}. The \
             log group iam-db-auth-error has the reason."
        ),
        brief: Some(format!("{lacking_permission}: `iambouncer policy` prints what to allow.")),
        advice: None,
    }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
