//! What a failed login means. Owns the choice of the cause: RDS gives one sentence for a dozen of them, so this weighs
//! what was asked for, what was signed and what is known of clock and credentials. Asks nobody; nothing here waits.

use super::LoginError;
use super::error::{LoginStage, TlsTrouble};
use crate::client_error::ClientError;
use crate::credential_causes::{text_of_refused_key, with_number};
use crate::identities::skew_text;
use crate::login_failure::LoginFailure;
use rds_iam::{EndpointKind, RdsEndpoint, region_of};
use std::borrow::Cow;
use std::io::ErrorKind;
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// How long RDS takes a token, in seconds.
const LIFE_SECONDS: i64 = 900;
/// `X-Amz-Date`.
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");
/// More skew than this is a cause by itself: AWS takes five minutes.
pub const MAX_CLOCK_SKEW_SECONDS: i64 = 300;
/// The port RDS gives unless told otherwise.
const POSTGRES_PORT: u16 = 5432;
/// What a client reads of a chain of errors at the most, in bytes; the log has all of it.
const MAX_CLIENT_MESSAGE_BYTES: usize = 240;
/// RDS takes so many IAM logins a second.
pub const RDS_LOGINS_PER_SECOND: u32 = 200;

/// A token that was sent, and what was known at that moment. No secrets.
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
    /// Key that signed it; empty for a client's token.
    pub access_key_id: String,
    /// When it ends, in seconds since 1970.
    pub ends_at_seconds: i64,
    /// Host the connection went to.
    pub dialed_host: String,
    /// Port the connection went to.
    pub dialed_port: u16,
    /// Somebody has said which port to sign for.
    pub is_port_given: bool,
    /// Who signed, where that is known.
    pub arn: Option<String>,
    /// How far this clock is ahead of AWS's, where that is known.
    pub clock_skew_seconds: Option<i64>,
    /// IAM logins to this target in the second before.
    pub logins_last_second: u32,
    /// AWS has said that it does not accept the key, and this is why.
    pub refused_key: Option<LoginFailure>,
    /// The source of the credentials has none any more.
    pub source: Option<SourceFault>,
}

/// What is wrong with a source of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFault {
    /// The cause.
    pub cause: LoginFailure,
    /// What happened.
    pub finding: String,
    /// What to do in this very case, in place of what helps in general.
    pub advice: Option<String>,
}

/// What the server was given as a proof.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Proof {
    /// Nothing, or not yet.
    #[default]
    None,
    /// A password.
    Password,
    /// A password that is a token somebody made before.
    StoredToken(StoredToken),
    /// A token of ours.
    Token(Box<TokenDetail>),
}

/// What a stored token says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredToken {
    /// When it was made, in seconds since 1970.
    pub made_at_seconds: i64,
    /// For how long, in seconds.
    pub life_seconds: i64,
    /// It has all its parts, up to the last digit of the signature.
    pub is_whole: bool,
}

impl StoredToken {
    /// Reads a password as a token; `None` when it is none.
    pub fn read(password: &str) -> Option<Self> {
        let (_, query) = password.split_once("/?").or_else(|| password.split_once('?'))?;
        let value = |key: &str| {
            query
                .split('&')
                .find_map(|pair| pair.split_once('=').filter(|(name, _)| *name == key))
                .map(|(_, v)| v)
        };
        let made = PrimitiveDateTime::parse(value("X-Amz-Date")?, DATE).ok()?.assume_utc();
        let life_seconds = value("X-Amz-Expires").and_then(|text| text.parse().ok()).unwrap_or(LIFE_SECONDS);
        let is_signature = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let is_whole =
            value("X-Amz-Credential").is_some() && value("X-Amz-Signature").is_some_and(is_signature);
        Some(Self { made_at_seconds: made.unix_timestamp(), life_seconds, is_whole })
    }

    /// What it means that such a password is in use, at a moment in seconds since 1970.
    pub fn diagnose(&self, now_seconds: i64) -> (LoginFailure, Option<String>) {
        if !self.is_whole {
            let text =
                "The stored password is a token without its end, or with changed characters.".to_owned();
            return (LoginFailure::BrokenToken, Some(text));
        }
        if self.life_seconds > LIFE_SECONDS {
            let text = format!("The stored password is a token made for {} s.", self.life_seconds);
            return (LoginFailure::TokenLife, Some(text));
        }
        let ended = now_seconds.saturating_sub(self.made_at_seconds).saturating_sub(self.life_seconds);
        let text = if ended >= 0 {
            format!("The stored password is a token that ended {} min ago.", ended / 60)
        } else {
            "The stored password is a token, and ends 15 minutes after it was made.".to_owned()
        };
        (LoginFailure::StaticToken, Some(text))
    }
}

/// What of a database line decides about the words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineSummary {
    /// Logins are made with tokens.
    pub uses_iam: bool,
    /// Its host is RDS: it is named so, or takes tokens.
    pub is_rds: bool,
    /// It is the fallback, `*`: the client has chosen the database, and whoever wrote the line knew of none.
    pub is_fallback: bool,
}

impl LineSummary {
    /// A line that uses IAM.
    pub fn of_iam() -> Self {
        Self { uses_iam: true, is_rds: true, ..Self::default() }
    }
}

/// What was found in one case.
struct CaseFinding {
    /// For the log and `doctor`.
    text: String,
    /// For clients, with what to do; `None` where the text and the cause's fix are short.
    brief: Option<String>,
    /// What to do, in place of the cause's fix.
    advice: Option<String>,
}

impl From<String> for CaseFinding {
    fn from(text: String) -> Self {
        Self { text, brief: None, advice: None }
    }
}

/// A login that did not come about, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// What happened.
    pub error: LoginError,
    /// What it means.
    pub cause: LoginFailure,
    /// What to do, in this very case.
    pub hint: String,
    /// The same for clients, who read it in one line.
    client_hint: String,
    line: LineSummary,
}

impl Diagnosis {
    /// Weighs an error against what the server was given, at a moment in seconds since 1970.
    pub fn new(error: LoginError, proof: &Proof, line: LineSummary, now_seconds: i64) -> Self {
        let (cause, finding) = match (&error, proof) {
            (LoginError::Refused { code, message, .. }, Proof::Token(signed)) => {
                weigh_refusal(code, message, signed, now_seconds)
            }
            (LoginError::Refused { code, .. }, Proof::StoredToken(stored)) if code.starts_with("28") => {
                let (cause, text) = stored.diagnose(now_seconds);
                (cause, text.map(CaseFinding::from))
            }
            (LoginError::Refused { code, message, .. }, _) => {
                let (cause, text) = password_cause(code, message);
                (cause, text.map(CaseFinding::from))
            }
            // The server has the token and takes its time: it asks an agent, which asks AWS.
            (LoginError::Timeout { stage: LoginStage::Answer, .. }, Proof::Token(_)) => {
                (LoginFailure::Throttled, None)
            }
            _ => (plain_cause(&error, line), None),
        };
        let own = match &error {
            LoginError::Refused { hint, .. } => hint.clone(),
            // Authorities and certificates of RDS are not of the reader's making.
            LoginError::Tls { trouble: TlsTrouble::Ended, .. } if line.is_rds => Some(
                "The certificate has expired: let RDS issue another one, or correct this machine's clock."
                    .to_owned(),
            ),
            LoginError::Tls { .. } if line.is_rds => None,
            other => other.hint(),
        };
        let brief = finding.as_ref().and_then(|found| found.brief.clone());
        let advice = finding.as_ref().and_then(|found| found.advice.clone());
        let text = finding.map(|found| found.text).or(own);
        let fix = advice.as_deref().unwrap_or_else(|| cause.fix_for(line.uses_iam, line.is_rds));
        let hint = hint(text, fix, cause);
        // Advice about a source of credentials is whole.
        let hint = match &error {
            LoginError::Token { advice: Some(advice), .. }
            | LoginError::Secret { advice: Some(advice), .. } => with_number(advice, cause),
            _ => hint,
        };
        let client_hint =
            brief.map_or_else(|| hint.clone(), |brief| format!("{brief} [{}]", cause.info().id));
        Self { error, cause, hint, client_hint, line }
    }

    /// What a waiting client is told: the cause, what to do, and its number. The whole story is in the log.
    pub fn to_fault(&self) -> ClientError {
        let fault = self.error.to_fault();
        match &self.error {
            // The client asked for this database and this user; the configuration names neither.
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

    /// The server refused what the pooler had to prove, which the client has no part in.
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

/// The beginning of a chain of errors, up to the end of a clause: the SDK quotes all that led to an error.
fn first_clauses(text: &str) -> &str {
    if text.len() <= MAX_CLIENT_MESSAGE_BYTES {
        return text;
    }
    let ends = text.match_indices(": ").map(|(at, _)| at);
    let end = ends.take_while(|at| *at <= MAX_CLIENT_MESSAGE_BYTES).last();
    &text[..end.unwrap_or_else(|| text.floor_char_boundary(MAX_CLIENT_MESSAGE_BYTES))]
}

/// The error says it all by itself.
fn plain_cause(error: &LoginError, line: LineSummary) -> LoginFailure {
    match error {
        LoginError::Resolve { .. } => LoginFailure::UnknownHost,
        LoginError::Connect { kind: ErrorKind::ConnectionRefused, .. } => LoginFailure::ConnectionRefused,
        LoginError::Connect { .. } => LoginFailure::Network,
        LoginError::Timeout { stage, .. } => match stage {
            LoginStage::Answer => LoginFailure::ServerBusy,
            LoginStage::Credentials => LoginFailure::MetadataUnreachable,
            LoginStage::Secret => LoginFailure::SecretsUnreachable,
            LoginStage::Network | LoginStage::Tls => LoginFailure::Network,
        },
        LoginError::LoginRate { .. } => LoginFailure::Throttled,
        LoginError::NoTls | LoginError::TlsOff | LoginError::TokenNeedsVerifiedName => LoginFailure::TlsOff,
        LoginError::Tls { trouble: TlsTrouble::WrongName, .. } if line.uses_iam => LoginFailure::SignedHost,
        LoginError::Tls { trouble: TlsTrouble::WrongName, .. } => LoginFailure::TlsTrust,
        LoginError::Tls { trouble: TlsTrouble::Untrusted | TlsTrouble::Ended, .. } => LoginFailure::TlsTrust,
        LoginError::Tls { trouble: TlsTrouble::Other, .. } | LoginError::BrokenOff(_) => {
            LoginFailure::Protocol
        }
        LoginError::NotAnIamUser { .. } => LoginFailure::NotRdsIam,
        LoginError::Token { cause, .. } | LoginError::Secret { cause, .. } => *cause,
        LoginError::SecretPassword { .. } => LoginFailure::SecretPassword,
        LoginError::NoPassword(_) | LoginError::UnusablePassword { .. } | LoginError::Scram(_) => {
            LoginFailure::Password
        }
        LoginError::UnsupportedAuthentication(_) => LoginFailure::Protocol,
        LoginError::OwnListener(_) => LoginFailure::Configuration,
        LoginError::Refused { .. } => LoginFailure::Other,
    }
}

fn password_cause(code: &str, message: &str) -> (LoginFailure, Option<String>) {
    let cause = match code {
        "28P01" => LoginFailure::Password,
        "28000" if is_about_encryption(message) => LoginFailure::TlsOff,
        "28000" if message.starts_with("PAM authentication failed") => {
            let text = "A password was sent and PAM refused it: RDS asks PAM about members of rds_iam, and that \
                        includes roles that inherit it.";
            return (LoginFailure::InheritedGrant, Some(text.to_owned()));
        }
        _ => common_cause(code),
    };
    (cause, None)
}

fn common_cause(code: &str) -> LoginFailure {
    match code {
        "57P03" | "57P01" | "57P02" | "53300" => LoginFailure::ServerBusy,
        // authentication_timeout of the server: "canceling authentication due to timeout".
        "57014" | "08006" => LoginFailure::Throttled,
        "3D000" | "42501" => LoginFailure::NoSuchDatabase,
        _ => LoginFailure::Other,
    }
}

/// PostgreSQL 14 says "no encryption", older versions "SSL off".
fn is_about_encryption(message: &str) -> bool {
    message.contains("pg_hba.conf") && (message.contains("no encryption") || message.contains("SSL off"))
}

/// A token was sent and refused. First what can be known, and the policy when nothing of it is wrong.
fn weigh_refusal(
    code: &str,
    message: &str,
    signed: &TokenDetail,
    now_seconds: i64,
) -> (LoginFailure, Option<CaseFinding>) {
    match code {
        "28P01" => {
            let text = format!("The server took the token of \"{}\" for a password.", signed.user);
            return (LoginFailure::NotRdsIam, Some(text.into()));
        }
        "28000" if is_about_encryption(message) => return (LoginFailure::TlsOff, None),
        "28000" => {}
        _ => return (common_cause(code), None),
    }
    let finding = known_fault(signed, now_seconds);
    finding.map_or_else(
        || (LoginFailure::NotAuthorized, Some(policy_hint(signed))),
        |(cause, text)| (cause, Some(text)),
    )
}

fn known_fault(signed: &TokenDetail, now_seconds: i64) -> Option<(LoginFailure, CaseFinding)> {
    let TokenDetail { host, port, region, dialed_host, dialed_port, .. } = signed;
    if signed.ends_at_seconds <= now_seconds {
        let text = format!("The credentials of key {} ended before the login did.", signed.access_key_id);
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
    if let Some(told) = region_of(host).filter(|told| told.as_str() != region) {
        let text = format!("The name {host} tells region {told}; the token was signed for {region}.");
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
            "The token was signed for port {port}, where the connection went; {dialed_host} is not the endpoint \
             itself, whose port may well be another."
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
            format!("The token of key {key} was refused, and there are no new credentials: {finding}.");
        return Some((*cause, CaseFinding { advice: advice.clone(), ..text.into() }));
    }
    if endpoint.kind() == EndpointKind::Proxy {
        return Some((LoginFailure::RdsProxy, policy_hint(signed)));
    }
    None
}

fn policy_hint(signed: &TokenDetail) -> CaseFinding {
    let TokenDetail { host, port, region, user, .. } = signed;
    let who = signed.arn.as_deref().map_or_else(
        || match signed.access_key_id.as_str() {
            "" => "The identity that made the token".to_owned(),
            key => format!("The identity behind key {key}"),
        },
        |arn| format!("The identity {arn}"),
    );
    let account = signed.arn.as_deref().and_then(|arn| arn.split(':').nth(4)).unwrap_or("<account>");
    let partition = signed.arn.as_deref().and_then(|arn| arn.split(':').nth(1)).unwrap_or("aws");
    // Of a token that a client has made nothing is known but what it says itself.
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
    let lacks = format!(
        "{who} most likely lacks rds-db:connect on \
         arn:{partition}:rds-db:{region}:{account}:dbuser:<resource id>/{user}"
    );
    CaseFinding {
        text: format!(
            "RDS refused the token and does not say why. {lacks}. What is known: {place}{credentials}; {clock}. The \
             log group iam-db-auth-error has the reason."
        ),
        brief: Some(format!("{lacks}: `iambouncer policy` prints what to allow.")),
        advice: None,
    }
}

#[cfg(test)]
#[path = "diagnosis_tests.rs"]
mod tests;
