//! Checks of credentials, identity and clock. Owns what each means for a login; `rds-iam` makes the requests, and one
//! token engine serves all targets of a run, so each identity is checked once.

use super::checks::{Check, CheckOutcome, CheckStatus, Finding};
use crate::config::Environment;
use crate::credential_causes::{cause_of_caller, failure_of, hint_of, text_of_refused_key};
use crate::identities::{Identities, skew_text, text_of_time};
use crate::login_failure::LoginFailure;
use crate::server::diagnosis::MAX_CLOCK_SKEW_SECONDS;
use rds_iam::{
    CallerAnswer, CallerError, Credentials, Identity, MAX_TOKEN_LIFE, SystemClock, TokenEngine, TokenError,
    ask_caller,
};
use std::time::SystemTime;

/// A larger clock skew is reported.
const SKEW_WARNING_SECONDS: i64 = 60;

/// What the AWS checks use.
pub(super) struct AwsChecks<'a> {
    pub(super) tokens: TokenEngine,
    /// Caches what AWS reported, which the diagnosis of a refused login uses.
    pub(super) identities: Identities,
    pub(super) environment: &'a (dyn Environment + Sync),
}

impl AwsChecks<'_> {
    /// The findings about an identity: credentials, identity, clock. Needs a Tokio runtime.
    pub(super) async fn check(&self, identity: &Identity) -> Vec<Finding> {
        match self.tokens.credentials(identity).await {
            Err(error) => no_credentials(&error),
            Ok(credentials) => {
                let answer = ask_caller(identity, &credentials, &SystemClock).await;
                let clock = clock(answer.clock_skew_seconds);
                let findings = vec![
                    self.credentials(identity, &credentials),
                    self.identity(identity, &credentials, &answer),
                    clock,
                ];
                self.identities.remember(identity, credentials.access_key_id(), answer);
                findings
            }
        }
    }

    fn credentials(&self, identity: &Identity, credentials: &Credentials) -> Finding {
        let all = self.tokens.credentials_snapshot();
        let provider = all.into_iter().find(|status| status.identity == *identity);
        let provider = provider.and_then(|status| status.provider).unwrap_or_default();
        let until = credentials
            .expiry()
            .map_or_else(|| "without expiry".to_owned(), |at| format!("until {}", text_of_time(at)));
        let summary = format!("key {} from {provider}, {until}", credentials.access_key_id());
        let left = credentials.expiry().map(|at| at.duration_since(SystemTime::now()).unwrap_or_default());
        match left.filter(|left| *left < MAX_TOKEN_LIFE) {
            Some(left) => {
                let found =
                    format!("They expire in {} s, and a 15-minute token expires with them.", left.as_secs());
                Finding::warning(Check::Credentials, summary, LoginFailure::CredentialsEnding, Some(&found))
            }
            None => Finding::pass(Check::Credentials, summary),
        }
    }

    fn identity(&self, identity: &Identity, credentials: &Credentials, answer: &CallerAnswer) -> Finding {
        let caller = match &answer.caller {
            Ok(caller) => caller,
            Err(error) => return unidentified(error, credentials.access_key_id(), answer.clock_skew_seconds),
        };
        match self.unexpected(identity, &caller.arn) {
            Some(found) => {
                Finding::warning(Check::Identity, &caller.arn, LoginFailure::UnexpectedIdentity, Some(&found))
            }
            None => Finding::pass(Check::Identity, &caller.arn),
        }
    }

    /// Detects an identity other than the intended one: the SDK moves on to the next source silently.
    fn unexpected(&self, identity: &Identity, arn: &str) -> Option<String> {
        let (role, session) = role_and_session(arn)?;
        if identity.profile.is_none() && identity.role_arn.is_none() {
            let intended = self.environment.get("AWS_ROLE_ARN").filter(|intended| !intended.is_empty());
            let intended_role = intended.as_deref().and_then(|intended| intended.rsplit('/').next());
            if let (Some(intended), Some(intended_role)) = (&intended, intended_role)
                && intended_role != role
            {
                return Some(format!(
                    "AWS_ROLE_ARN names {intended}, but the calls are made by role {role}."
                ));
            }
        }
        let is_pod = self.environment.get("KUBERNETES_SERVICE_HOST").is_some();
        (is_pod && session.starts_with("i-")).then(|| {
            format!(
                "This is a pod, but the identity is that of its node (session {session}): annotate its service account with \
                 eks.amazonaws.com/role-arn, or associate a role with it (EKS Pod Identity)."
            )
        })
    }
}

/// Without credentials nothing else about AWS can be checked; the clock is reported only if it is the cause.
fn no_credentials(error: &TokenError) -> Vec<Finding> {
    let outcome = CheckOutcome { cause: failure_of(error), hint: hint_of(error) };
    let failure = |check| Finding {
        status: CheckStatus::Failure,
        outcome: Some(outcome.clone()),
        ..Finding::pass(check, error.finding())
    };
    let clock = match outcome.cause {
        LoginFailure::ClockSkew => failure(Check::Clock),
        _ => Finding::not_reached(Check::Clock, "not compared: no credentials"),
    };
    vec![failure(Check::Credentials), Finding::not_reached(Check::Identity, "no credentials"), clock]
}

/// STS did not return an identity. A login does not need STS, but keys that AWS rejects are of no use to it either.
fn unidentified(error: &CallerError, access_key_id: &str, skew: Option<i64>) -> Finding {
    let text = error.to_string();
    let is_wrong_clock = skew.is_some_and(|skew| skew.abs() > MAX_CLOCK_SKEW_SECONDS);
    match cause_of_caller(error) {
        _ if is_wrong_clock => Finding::warning(Check::Identity, text, LoginFailure::ClockSkew, None),
        Some(cause) => {
            Finding::failure(Check::Identity, text, cause, Some(&text_of_refused_key(access_key_id)))
        }
        None => Finding::not_reached(Check::Identity, format!("{text}; logins do not need it")),
    }
}

fn clock(skew_seconds: Option<i64>) -> Finding {
    let Some(skew) = skew_seconds else {
        return Finding::not_reached(Check::Clock, "AWS did not answer, so there is no time to compare with");
    };
    let text = skew_text(skew);
    match skew.abs() {
        0..=SKEW_WARNING_SECONDS => {
            Finding::pass(Check::Clock, format!("accurate to {} s", skew.abs().max(1)))
        }
        off if off <= MAX_CLOCK_SKEW_SECONDS => Finding::warning(
            Check::Clock,
            text,
            LoginFailure::ClockSkew,
            Some("AWS accepts up to five minutes."),
        ),
        _ => Finding::failure(Check::Clock, text, LoginFailure::ClockSkew, None),
    }
}

/// Role and session of `arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
fn role_and_session(arn: &str) -> Option<(&str, &str)> {
    let (_, resource) = arn.split_once(":assumed-role/")?;
    resource.rsplit_once('/')
}

#[cfg(test)]
mod tests {
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
    fn the_identity_of_a_node_or_of_another_role_is_reported() {
        assert_eq!(unexpected(&[], NODE), None);
        assert!(unexpected(&[("KUBERNETES_SERVICE_HOST", "10.0.0.1")], NODE).is_some());
        let intended = [("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/path/app")];
        assert!(unexpected(&intended, NODE).is_some_and(|text| text.contains("by role node")));
        assert_eq!(unexpected(&intended, "arn:aws:sts::123456789012:assumed-role/app/x"), None);
        assert_eq!(unexpected(&intended, "arn:aws:iam::123456789012:user/me"), None);
    }

    #[test]
    fn clock_skew_passes_warns_or_fails() {
        let status = |skew| clock(skew).status;
        assert_eq!(status(Some(-60)), CheckStatus::Pass);
        assert_eq!(status(Some(61)), CheckStatus::Warning);
        assert_eq!(status(Some(-301)), CheckStatus::Failure);
        assert_eq!(status(None), CheckStatus::NotReached);
    }
}
