//! Credentials, identity and clock. Owns what each of them means for a login; the questions are `rds-iam`'s, and one of
//! its engines answers all targets of a run, so each identity is asked about once.

use super::checks::{Check, Finding};
use super::metadata;
use crate::config::Environment;
use crate::identities::{Identities, skew_text, text_of_time};
use crate::login_failure::LoginFailure;
use crate::server::diagnosis::{MAX_CLOCK_SKEW_SECONDS, failure_of};
use crate::server::now_seconds;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rds_iam::{
    CallerAnswer, CallerError, Credentials, Identity, MAX_TOKEN_LIFE, SystemClock, TokenEngine, TokenError,
    ask_caller,
};
use std::time::SystemTime;

/// A clock that is off by more is told.
const SKEW_WARNING_SECONDS: i64 = 60;
/// Largest web identity token that is looked at, in bytes.
const MAX_JWT_BYTES: u64 = 64 * 1024;

/// Where identities are looked at.
pub(super) struct AwsChecks<'a> {
    pub(super) tokens: TokenEngine,
    /// Who has learnt what AWS says: a refused login is weighed with it.
    pub(super) identities: Identities,
    pub(super) environment: &'a (dyn Environment + Sync),
}

impl AwsChecks<'_> {
    /// The findings about an identity: credentials, identity, clock. Needs a tokio runtime.
    pub(super) async fn check(&self, identity: &Identity) -> Vec<Finding> {
        match self.tokens.credentials(identity).await {
            Err(error) => vec![
                self.no_credentials(identity, &error).await,
                Finding::not_reached(Check::Identity, "no credentials"),
                Finding::not_reached(Check::Clock, "nobody to compare with"),
            ],
            Ok(credentials) => {
                let answer = ask_caller(identity, &credentials, &SystemClock).await;
                let clock = clock(answer.clock_skew_seconds);
                let findings =
                    vec![self.credentials(identity, &credentials), self.identity(identity, &answer), clock];
                self.identities.remember(identity, answer);
                findings
            }
        }
    }

    async fn no_credentials(&self, identity: &Identity, error: &TokenError) -> Finding {
        let cause = failure_of(error);
        let summary = error.finding();
        // Profiles name their sources themselves.
        let is_chain = identity.profile.is_none();
        if is_chain && let Some((cause, found)) = self.web_identity_fault() {
            return Finding::failure(Check::Credentials, summary, cause, Some(&found));
        }
        // The SDK's chain ends at the first of these that is set, and asks the instance last.
        let is_missing = matches!(error, TokenError::NoCredentials { .. } | TokenError::Unavailable { .. });
        let source = [
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ]
        .into_iter()
        .find(|name| self.environment.get(name).is_some());
        if let Some(name) = source.filter(|_| is_chain && is_missing) {
            let found =
                format!("The credentials are to come from where {name} says, and nowhere else is looked.");
            return Finding::failure(Check::Credentials, summary, cause, Some(&found));
        }
        if is_chain
            && is_missing
            && let Some((cause, found)) = metadata::probe(self.environment).await.finding()
        {
            return Finding::failure(Check::Credentials, summary, cause, Some(&found));
        }
        Finding::failure(Check::Credentials, summary, cause, None)
    }

    /// What is wrong with the service account's token of a pod, as far as the file tells.
    fn web_identity_fault(&self) -> Option<(LoginFailure, String)> {
        let path = self.environment.get("AWS_WEB_IDENTITY_TOKEN_FILE")?;
        let size = std::fs::metadata(&path).map(|data| data.len());
        let text = match size {
            Ok(size) if size > MAX_JWT_BYTES => Err(format!("longer than {MAX_JWT_BYTES} bytes")),
            Ok(_) => std::fs::read_to_string(&path).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                let found =
                    format!("AWS_WEB_IDENTITY_TOKEN_FILE names {path}, which cannot be read: {error}.");
                return Some((LoginFailure::NoCredentials, found));
            }
        };
        let ended = now_seconds() - end_of_jwt(&text)?;
        (ended > 0).then(|| {
            let found =
                format!("The token in {path} (AWS_WEB_IDENTITY_TOKEN_FILE) ended {} min ago.", ended / 60);
            (LoginFailure::RoleRefused, found)
        })
    }

    fn credentials(&self, identity: &Identity, credentials: &Credentials) -> Finding {
        let all = self.tokens.credentials_snapshot();
        let provider = all.into_iter().find(|status| status.identity == *identity);
        let provider = provider.and_then(|status| status.provider).unwrap_or_default();
        let until = credentials
            .expiry()
            .map_or_else(|| "without an end".to_owned(), |at| format!("until {}", text_of_time(at)));
        let summary = format!("key {} from {provider}, {until}", credentials.access_key_id());
        let left = credentials.expiry().map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        match left.filter(|left| *left < MAX_TOKEN_LIFE) {
            Some(left) => {
                let found =
                    format!("They end in {} s, and a token of 15 minutes ends with them.", left.as_secs());
                Finding::warning(Check::Credentials, summary, LoginFailure::CredentialsEnding, Some(&found))
            }
            None => Finding::pass(Check::Credentials, summary),
        }
    }

    fn identity(&self, identity: &Identity, answer: &CallerAnswer) -> Finding {
        let caller = match &answer.caller {
            Ok(caller) => caller,
            Err(error) => return nobody(error, answer.clock_skew_seconds),
        };
        match self.unexpected(identity, &caller.arn) {
            Some(found) => {
                Finding::warning(Check::Identity, &caller.arn, LoginFailure::UnexpectedIdentity, Some(&found))
            }
            None => Finding::pass(Check::Identity, &caller.arn),
        }
    }

    /// The signs of another identity than the one that was meant: the SDK goes on to the next source without a word.
    fn unexpected(&self, identity: &Identity, arn: &str) -> Option<String> {
        let (role, session) = role_and_session(arn)?;
        if identity.profile.is_none() && identity.role_arn.is_none() {
            let meant = self.environment.get("AWS_ROLE_ARN").filter(|meant| !meant.is_empty());
            let meant_role = meant.as_deref().and_then(|meant| meant.rsplit('/').next());
            if let (Some(meant), Some(meant_role)) = (&meant, meant_role)
                && meant_role != role
            {
                return Some(format!("AWS_ROLE_ARN names {meant}, and the calls are made by role {role}."));
            }
        }
        let is_pod = self.environment.get("KUBERNETES_SERVICE_HOST").is_some();
        (is_pod && session.starts_with("i-")).then(|| {
            format!(
                "This is a pod, and the identity is its node's (session {session}): annotate its service account with \
                 eks.amazonaws.com/role-arn, or associate a role with it (EKS Pod Identity)."
            )
        })
    }
}

/// STS did not say who we are. A login needs no STS; keys that STS does not know are of no use to it either.
fn nobody(error: &CallerError, skew: Option<i64>) -> Finding {
    let text = error.to_string();
    let is_wrong_clock = skew.is_some_and(|skew| skew.abs() > MAX_CLOCK_SKEW_SECONDS);
    let is_dead = ["InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "UnrecognizedClient"]
        .iter()
        .any(|code| text.contains(code));
    match error {
        _ if is_wrong_clock => Finding::warning(Check::Identity, text, LoginFailure::ClockSkew, None),
        CallerError::Refused(_) if is_dead => {
            let found = "AWS does not accept these credentials for anything.";
            Finding::failure(Check::Identity, text, LoginFailure::NoCredentials, Some(found))
        }
        _ => Finding::not_reached(Check::Identity, format!("{text}; logins do not need it")),
    }
}

fn clock(skew_seconds: Option<i64>) -> Finding {
    let Some(skew) = skew_seconds else {
        return Finding::not_reached(Check::Clock, "AWS did not answer, so there is nothing to compare with");
    };
    let text = skew_text(skew);
    match skew.abs() {
        0..=SKEW_WARNING_SECONDS => Finding::pass(Check::Clock, format!("right to {} s", skew.abs().max(1))),
        off if off <= MAX_CLOCK_SKEW_SECONDS => Finding::warning(
            Check::Clock,
            text,
            LoginFailure::ClockSkew,
            Some("AWS takes up to five minutes."),
        ),
        _ => Finding::failure(Check::Clock, text, LoginFailure::ClockSkew, None),
    }
}

/// Role and session of `arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
fn role_and_session(arn: &str) -> Option<(&str, &str)> {
    let (_, resource) = arn.split_once(":assumed-role/")?;
    resource.rsplit_once('/')
}

/// When a JWT ends, in seconds since 1970. Nobody is trusted on the strength of this: its signature is not checked.
fn end_of_jwt(text: &str) -> Option<i64> {
    let claims = URL_SAFE_NO_PAD.decode(text.trim().split('.').nth(1)?).ok()?;
    serde_json::from_slice::<serde_json::Value>(&claims).ok()?.get("exp")?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::super::checks::CheckStatus;
    use super::*;
    use crate::config::MapEnvironment;
    use rds_iam::AwsCredentials;

    const NODE: &str = "arn:aws:sts::123456789012:assumed-role/node/i-0abc";

    fn unexpected(variables: &[(&str, &str)], arn: &str) -> Option<String> {
        let environment: MapEnvironment = variables.iter().copied().collect();
        let tokens = TokenEngine::new(AwsCredentials::shared());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let identities = Identities::new(tokens.clone(), runtime.handle().clone());
        let checks = AwsChecks { tokens, identities, environment: &environment };
        checks.unexpected(&Identity::default(), arn)
    }

    #[test]
    fn a_node_in_place_of_a_pod_and_a_role_in_place_of_another_are_noticed() {
        assert_eq!(unexpected(&[], NODE), None);
        assert!(unexpected(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")], NODE).is_some());
        let meant = [("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/path/app")];
        assert!(unexpected(&meant, NODE).is_some_and(|text| text.contains("by role node")));
        assert_eq!(unexpected(&meant, "arn:aws:sts::123456789012:assumed-role/app/x"), None);
        assert_eq!(unexpected(&meant, "arn:aws:iam::123456789012:user/me"), None);
    }

    #[test]
    fn clocks_are_told_in_three_steps() {
        let status = |skew| clock(skew).status;
        assert_eq!(status(Some(-60)), CheckStatus::Pass);
        assert_eq!(status(Some(61)), CheckStatus::Warning);
        assert_eq!(status(Some(-301)), CheckStatus::Failure);
        assert_eq!(status(None), CheckStatus::NotReached);
    }

    #[test]
    fn the_end_of_a_service_accounts_token_is_read() {
        let jwt = format!("x.{}.y", URL_SAFE_NO_PAD.encode(br#"{"exp":1700000000,"sub":"s"}"#));
        assert_eq!(end_of_jwt(&jwt), Some(1_700_000_000));
        assert_eq!(end_of_jwt("not.a.jwt"), None);
    }
}
