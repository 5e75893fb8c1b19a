//! What a failed login means. Owns the choice of the cause: RDS gives one sentence for a dozen of them, so this weighs
//! what was asked for, what was signed and what is known of clock and credentials. Asks nobody; nothing here waits.

use super::LoginError;
use super::error::{Stage, TlsTrouble};
use crate::causes::Cause;
use crate::faults::Fault;
use rds_iam::secrets::SecretError;
use rds_iam::{EndpointKind, RdsEndpoint, TokenError, region_of};
use std::borrow::Cow;
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
/// RDS takes so many IAM logins a second.
pub const RDS_LOGINS_PER_SECOND: u32 = 200;

/// What it means that there is no token.
pub fn cause_of(error: &TokenError) -> Cause {
    match error.label() {
        "unknown_region" => Cause::WrongRegion,
        "no_credentials" => Cause::NoCredentials,
        "misconfigured" => Cause::Configuration,
        "refused" => Cause::RoleRefused,
        "expired_credentials" => Cause::CredentialsEnding,
        "unavailable" => Cause::MetadataUnreachable,
        _ => Cause::BrokenToken,
    }
}

/// What it means that there is no secret.
pub fn cause_of_secret(error: &SecretError) -> Cause {
    match error {
        SecretError::Credentials { error, .. } => cause_of(error),
        SecretError::Refused { .. } => Cause::SecretRefused,
        SecretError::Malformed { .. } => Cause::SecretMalformed,
        _ => Cause::SecretsUnreachable,
    }
}

/// A token that was sent, and what was known at that moment. No secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signed {
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
    Token(Box<Signed>),
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
    pub fn weigh(&self, now_seconds: i64) -> (Cause, Option<String>) {
        if !self.is_whole {
            let text =
                "The stored password is a token without its end, or with changed characters.".to_owned();
            return (Cause::BrokenToken, Some(text));
        }
        if self.life_seconds > LIFE_SECONDS {
            let text = format!("The stored password is a token made for {} s.", self.life_seconds);
            return (Cause::TokenLife, Some(text));
        }
        let ended = now_seconds.saturating_sub(self.made_at_seconds).saturating_sub(self.life_seconds);
        let text = if ended >= 0 {
            format!("The stored password is a token that ended {} min ago.", ended / 60)
        } else {
            "The stored password is a token, and ends 15 minutes after it was made.".to_owned()
        };
        (Cause::StaticToken, Some(text))
    }
}

/// A login that did not come about, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedLogin {
    /// What happened.
    pub error: LoginError,
    /// What it means.
    pub cause: Cause,
    /// What to do, in this very case.
    pub hint: String,
}

impl FailedLogin {
    /// Weighs an error against what the server was given, at a moment in seconds since 1970.
    pub fn new(error: LoginError, proof: &Proof, now_seconds: i64) -> Self {
        let (cause, finding) = match (&error, proof) {
            (LoginError::Refused { code, message, .. }, Proof::Token(signed)) => {
                weigh_refusal(code, message, signed, now_seconds)
            }
            (LoginError::Refused { code, .. }, Proof::StoredToken(stored)) if code.starts_with("28") => {
                stored.weigh(now_seconds)
            }
            (LoginError::Refused { code, message, .. }, _) => password_cause(code, message),
            // The server has the token and takes its time: it asks an agent, which asks AWS.
            (LoginError::Timeout { stage: Stage::Answer, .. }, Proof::Token(_)) => (Cause::Throttled, None),
            _ => (plain_cause(&error), None),
        };
        let own = match &error {
            LoginError::Refused { hint, .. } => hint.clone(),
            other => other.hint(),
        };
        Self { hint: cause.hint(finding.or(own).as_deref()), error, cause }
    }

    /// What a waiting client is told.
    pub fn to_fault(&self) -> Fault {
        Fault { hint: Some(Cow::Owned(self.hint.clone())), ..self.error.to_fault() }
    }
}

/// The error says it all by itself.
fn plain_cause(error: &LoginError) -> Cause {
    match error {
        LoginError::Resolve { .. } | LoginError::Connect { .. } => Cause::Network,
        LoginError::Timeout { stage, .. } => match stage {
            Stage::Answer => Cause::ServerBusy,
            Stage::Credentials => Cause::MetadataUnreachable,
            Stage::Secret => Cause::SecretsUnreachable,
            Stage::Network | Stage::Tls => Cause::Network,
        },
        LoginError::LoginRate { .. } => Cause::Throttled,
        LoginError::NoTls | LoginError::TlsOff | LoginError::TokenNeedsVerifiedName => Cause::TlsOff,
        LoginError::Tls { trouble: TlsTrouble::WrongName, .. } => Cause::SignedHost,
        LoginError::Tls { trouble: TlsTrouble::Untrusted | TlsTrouble::Ended, .. } => Cause::TlsTrust,
        LoginError::Tls { trouble: TlsTrouble::Other, .. } | LoginError::BrokenOff(_) => Cause::Protocol,
        LoginError::NotAnIamUser { .. } => Cause::NotRdsIam,
        LoginError::Token { cause, .. } | LoginError::Secret { cause, .. } => *cause,
        LoginError::SecretPassword { .. } => Cause::SecretPassword,
        LoginError::NoPassword(_) | LoginError::UnusablePassword { .. } | LoginError::Scram(_) => {
            Cause::Password
        }
        LoginError::UnsupportedAuthentication(_) => Cause::Protocol,
        LoginError::OwnListener(_) => Cause::Configuration,
        LoginError::Refused { .. } => Cause::Other,
    }
}

fn password_cause(code: &str, message: &str) -> (Cause, Option<String>) {
    let cause = match code {
        "28P01" => Cause::Password,
        "28000" if is_about_encryption(message) => Cause::TlsOff,
        "28000" if message.starts_with("PAM authentication failed") => {
            let text = "A password was sent and PAM refused it: RDS asks PAM about members of rds_iam, and that \
                        includes roles that inherit it.";
            return (Cause::InheritedGrant, Some(text.to_owned()));
        }
        _ => common_cause(code),
    };
    (cause, None)
}

fn common_cause(code: &str) -> Cause {
    match code {
        "57P03" | "57P01" | "57P02" | "53300" => Cause::ServerBusy,
        // authentication_timeout of the server: "canceling authentication due to timeout".
        "57014" | "08006" => Cause::Throttled,
        "3D000" | "42501" => Cause::NoSuchDatabase,
        _ => Cause::Other,
    }
}

/// PostgreSQL 14 says "no encryption", older versions "SSL off".
fn is_about_encryption(message: &str) -> bool {
    message.contains("pg_hba.conf") && (message.contains("no encryption") || message.contains("SSL off"))
}

/// A token was sent and refused. First what can be known, and the policy when nothing of it is wrong.
fn weigh_refusal(code: &str, message: &str, signed: &Signed, now_seconds: i64) -> (Cause, Option<String>) {
    match code {
        "28P01" => {
            let text = format!("The server took the token of \"{}\" for a password.", signed.user);
            return (Cause::NotRdsIam, Some(text));
        }
        "28000" if is_about_encryption(message) => return (Cause::TlsOff, None),
        "28000" => {}
        _ => return (common_cause(code), None),
    }
    let finding = known_fault(signed, now_seconds);
    finding.map_or_else(
        || (Cause::NotAuthorized, Some(policy_hint(signed))),
        |(cause, text)| (cause, Some(text)),
    )
}

fn known_fault(signed: &Signed, now_seconds: i64) -> Option<(Cause, String)> {
    let Signed { host, port, region, dialed_host, dialed_port, .. } = signed;
    if signed.ends_at_seconds <= now_seconds {
        let text = format!("The credentials of key {} ended before the login did.", signed.access_key_id);
        return Some((Cause::CredentialsEnding, text));
    }
    if let Some(skew) = signed.clock_skew_seconds.filter(|skew| skew.abs() > MAX_CLOCK_SKEW_SECONDS) {
        return Some((Cause::ClockSkew, skew_text(skew)));
    }
    let Some(endpoint) = RdsEndpoint::parse(host) else {
        let text =
            format!("The token was signed for {host}:{port}, which is not the name of an RDS endpoint.");
        return Some((Cause::SignedHost, text));
    };
    if let Some(told) = region_of(host).filter(|told| told.as_str() != region) {
        let text = format!("The name {host} tells region {told}; the token was signed for {region}.");
        return Some((Cause::WrongRegion, text));
    }
    let dialed_endpoint = RdsEndpoint::parse(dialed_host);
    if dialed_endpoint.as_ref().is_some_and(|dialed| dialed.host() != endpoint.host()) {
        let text = format!("The connection went to {dialed_host}, the token was signed for {host}.");
        return Some((Cause::SignedHost, text));
    }
    if dialed_endpoint.is_some() && dialed_port != port {
        let text =
            format!("The connection went to port {dialed_port}, the token was signed for port {port}.");
        return Some((Cause::SignedPort, text));
    }
    if dialed_endpoint.is_none() && !signed.is_port_given && *port != POSTGRES_PORT {
        let text = format!(
            "The token was signed for port {port}, where the connection went; {dialed_host} is not the endpoint \
             itself, whose port may well be another."
        );
        return Some((Cause::SignedPort, text));
    }
    if signed.logins_last_second >= RDS_LOGINS_PER_SECOND {
        let text = format!("{} logins were sent within one second.", signed.logins_last_second);
        return Some((Cause::Throttled, text));
    }
    if endpoint.kind() == EndpointKind::Proxy {
        return Some((Cause::RdsProxy, policy_hint(signed)));
    }
    None
}

/// The clock in words.
pub fn skew_text(skew_seconds: i64) -> String {
    let direction = if skew_seconds > 0 { "ahead of" } else { "behind" };
    format!("This machine's clock is {} s {direction} AWS's.", skew_seconds.abs())
}

fn policy_hint(signed: &Signed) -> String {
    let Signed { host, port, region, user, .. } = signed;
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
    format!(
        "RDS refused the token and does not say why. {who} most likely lacks rds-db:connect on \
         arn:{partition}:rds-db:{region}:{account}:dbuser:<resource id>/{user}. What is known: {place}{credentials}; \
         {clock}. The log group iam-db-auth-error has the reason."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "db.c1.eu-west-1.rds.amazonaws.com";

    fn signed() -> Signed {
        Signed {
            host: HOST.to_owned(),
            port: 5432,
            region: "eu-west-1".to_owned(),
            user: "app".to_owned(),
            access_key_id: "AKIDEXAMPLE".to_owned(),
            ends_at_seconds: NOW + 600,
            dialed_host: HOST.to_owned(),
            dialed_port: 5432,
            ..Signed::default()
        }
    }

    const NOW: i64 = 1_705_322_096;

    fn with(code: &str, message: &str, proof: &Proof) -> FailedLogin {
        let message = message.to_owned();
        let error = LoginError::Refused { severity: "FATAL".into(), code: code.into(), message, hint: None };
        FailedLogin::new(error, proof, NOW)
    }

    fn refused(code: &str, signed: Option<&Signed>) -> FailedLogin {
        let proof = signed.map_or(Proof::Password, |signed| Proof::Token(Box::new(signed.clone())));
        let message = if code == "28000" { "PAM authentication failed for user \"app\"" } else { "no" };
        with(code, message, &proof)
    }

    fn cause_of(change: impl FnOnce(&mut Signed)) -> Cause {
        let mut signed = signed();
        change(&mut signed);
        refused("28000", Some(&signed)).cause
    }

    #[test]
    fn what_can_be_known_comes_before_the_policy() {
        assert_eq!(cause_of(|s| s.ends_at_seconds = NOW), Cause::CredentialsEnding);
        assert_eq!(cause_of(|s| s.clock_skew_seconds = Some(-3600)), Cause::ClockSkew);
        assert_eq!(cause_of(|s| s.host = "db.internal".into()), Cause::SignedHost);
        assert_eq!(cause_of(|s| s.region = "eu-central-1".into()), Cause::WrongRegion);
        assert_eq!(cause_of(|s| s.dialed_host = HOST.replace("db.", "other.")), Cause::SignedHost);
        assert_eq!(cause_of(|s| s.dialed_port = 5433), Cause::SignedPort);
        assert_eq!(cause_of(|s| s.logins_last_second = 200), Cause::Throttled);
        assert_eq!(cause_of(|s| s.host = "p.proxy-c1.eu-west-1.rds.amazonaws.com".into()), Cause::SignedHost);
        let proxy = "p.proxy-c1.eu-west-1.rds.amazonaws.com";
        assert_eq!(cause_of(|s| (s.host, s.dialed_host) = (proxy.into(), proxy.into())), Cause::RdsProxy);
        assert_eq!(cause_of(|_| {}), Cause::NotAuthorized);
        let tunnel = |s: &mut Signed| (s.dialed_host, s.dialed_port) = ("localhost".into(), 15432);
        assert_eq!(cause_of(tunnel), Cause::NotAuthorized);
        let port_of_the_tunnel = |s: &mut Signed| {
            tunnel(s);
            s.port = 15432;
        };
        assert_eq!(cause_of(port_of_the_tunnel), Cause::SignedPort);
        let port_on_purpose = |s: &mut Signed| {
            port_of_the_tunnel(s);
            s.is_port_given = true;
        };
        assert_eq!(cause_of(port_on_purpose), Cause::NotAuthorized);
    }

    #[test]
    fn a_policy_hint_names_the_arn_and_what_is_ruled_out() {
        let arn = "arn:aws:sts::123456789012:assumed-role/app/session".to_owned();
        let signed = Signed { arn: Some(arn.clone()), clock_skew_seconds: Some(0), ..signed() };
        let hint = refused("28000", Some(&signed)).hint;
        for part in [
            &arn,
            "arn:aws:rds-db:eu-west-1:123456789012:dbuser:<resource id>/app",
            "the clock is right to 1 s",
            "[IAM003]",
        ] {
            assert!(hint.contains(part), "{part}: {hint}");
        }
    }

    #[test]
    fn a_token_taken_for_a_password_and_a_password_refused_differ() {
        assert_eq!(refused("28P01", Some(&signed())).cause, Cause::NotRdsIam);
        assert_eq!(refused("28P01", None).cause, Cause::Password);
        assert_eq!(refused("57014", Some(&signed())).cause, Cause::Throttled);
        assert_eq!(refused("3D000", None).cause, Cause::NoSuchDatabase);
    }

    #[test]
    fn a_stored_token_is_told_with_its_age() {
        let token = format!(
            "{HOST}:5432/?Action=connect&X-Amz-Credential=A&X-Amz-Date=20240115T123456Z&X-Amz-Expires=900\
             &X-Amz-Signature={}",
            "0".repeat(64)
        );
        let stored = |text: &str| Proof::StoredToken(StoredToken::read(text).unwrap());
        let failed = with("28000", "PAM authentication failed", &stored(&token));
        assert_eq!(failed.cause, Cause::StaticToken);
        let error = failed.error;
        let later = FailedLogin::new(error, &stored(&token), NOW + 900 + 43 * 60);
        assert!(later.hint.contains("ended 43 min ago"), "{}", later.hint);
        let long = token.replace("Expires=900", "Expires=3600");
        assert_eq!(with("28000", "PAM authentication failed", &stored(&long)).cause, Cause::TokenLife);
        for odd in ["-9223372036854775808", "9223372036854775807", "-1"] {
            let odd = token.replace("Expires=900", &format!("Expires={odd}"));
            assert!(StoredToken::read(&odd).is_some_and(|token| token.weigh(NOW).1.is_some()), "{odd}");
        }
        let cut = &token[..token.len() - 1];
        assert_eq!(with("28000", "PAM authentication failed", &stored(cut)).cause, Cause::BrokenToken);
        for other in ["secret", "a?b", "", "x/?X-Amz-Date=yesterday"] {
            assert_eq!(StoredToken::read(other), None);
        }
    }

    #[test]
    fn encryption_and_inherited_grants_are_told_by_the_message() {
        let rejects = "pg_hba.conf rejects connection for host \"10.0.0.1\", user \"app\", database \"app\", no encryption";
        assert_eq!(with("28000", rejects, &Proof::None).cause, Cause::TlsOff);
        assert_eq!(
            with("28000", &rejects.replace("no encryption", "SSL off"), &Proof::None).cause,
            Cause::TlsOff
        );
        assert_eq!(refused("28000", None).cause, Cause::InheritedGrant);
    }
}
