//! What AWS reports about the credentials behind a refused token. Owns the wait for that report, so that the first
//! refusal already names the cause that later ones would name.

use super::diagnosis::SourceFault;
use super::progress::Progress;
use crate::context::Context;
use crate::credential_causes::{advice_of, failure_of};
use rds_iam::{Identity, TokenError};
use std::rc::Rc;
use std::time::Duration;

/// How long the clients of a refused login wait for AWS, which was asked when the first of two tokens was refused. STS
/// in the same region answers sooner; where it is unreachable, it must not delay the refusal.
const WAIT_LIMIT: Duration = Duration::from_millis(500);

/// Adds AWS's report to the refused token recorded in `progress`.
pub(super) async fn add_aws_report(context: &Rc<Context>, identity: &Identity, progress: &Progress) {
    let (identities, identity_to_check) = (context.process.identities.clone(), identity.clone());
    context.on_control(async move { identities.settled(&identity_to_check, WAIT_LIMIT).await }).await;
    let known = context.process.identities.get(identity);
    let source = context.process.tokens.credential_fault(identity).and_then(|error| source_fault(&error));
    progress.add_aws_report(known, source);
}

/// The source of the credentials reports that it has none. An unreachable source says nothing about the present
/// credentials.
fn source_fault(error: &TokenError) -> Option<SourceFault> {
    let is_about_source = !error.is_transient() || matches!(error, TokenError::ClockSkew { .. });
    is_about_source.then(|| SourceFault {
        cause: failure_of(error),
        finding: error.finding(),
        advice: advice_of(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::login_failure::LoginFailure;

    #[test]
    fn an_unreachable_source_does_not_explain_a_refused_token() {
        let (identity, reason) = ("default".to_owned(), "away".to_owned());
        let away = TokenError::Unavailable { identity: identity.clone(), reason: reason.clone() };
        assert_eq!(source_fault(&away), None);
        let none = TokenError::NoCredentials { identity, reason };
        assert_eq!(source_fault(&none).map(|fault| fault.cause), Some(LoginFailure::NoCredentials));
    }
}
