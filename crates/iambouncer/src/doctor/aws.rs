//! Credentials, identity and clock. Owns what each of them means for a login; the questions are `rds-iam`'s, and one of
//! its engines answers all targets of a run, so each identity is asked about once.

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

/// A clock that is off by more is told.
const SKEW_WARNING_SECONDS: i64 = 60;

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

    fn identity(&self, identity: &Identity, credentials: &Credentials, answer: &CallerAnswer) -> Finding {
        let caller = match &answer.caller {
            Ok(caller) => caller,
            Err(error) => return nobody(error, credentials.access_key_id(), answer.clock_skew_seconds),
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

/// Without credentials nothing else about AWS can be found out; the clock only where it is the reason.
fn no_credentials(error: &TokenError) -> Vec<Finding> {
    let verdict = CheckOutcome { cause: failure_of(error), hint: hint_of(error) };
    let failure = |check| Finding {
        status: CheckStatus::Failure,
        verdict: Some(verdict.clone()),
        ..Finding::pass(check, error.finding())
    };
    let clock = match verdict.cause {
        LoginFailure::ClockSkew => failure(Check::Clock),
        _ => Finding::not_reached(Check::Clock, "not compared: no credentials"),
    };
    vec![failure(Check::Credentials), Finding::not_reached(Check::Identity, "no credentials"), clock]
}

/// STS did not say who we are. A login needs no STS; keys that AWS does not accept are of no use to it either.
fn nobody(error: &CallerError, access_key_id: &str, skew: Option<i64>) -> Finding {
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
}
