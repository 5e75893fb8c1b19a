//! A token that the server has refused: what AWS says meanwhile about the credentials behind it. Owns the wait for that,
//! so that the first refusal already names the cause that later ones would name.

use super::diagnosis::SourceFault;
use super::progress::Progress;
use crate::context::Context;
use crate::credential_causes::{advice_of, failure_of};
use rds_iam::{Identity, TokenError};
use std::rc::Rc;
use std::time::Duration;

/// How long the clients of a refused login wait for AWS, which was asked when the first of two tokens was refused. STS of
/// the same region needs less; where it is out of reach, a refusal must not be held up by that.
const WAIT_LIMIT: Duration = Duration::from_millis(500);

/// Adds to what is known of the token that `progress` has seen refused.
pub(super) async fn learn(context: &Rc<Context>, identity: &Identity, progress: &Progress) {
    let (identities, asked) = (context.process.identities.clone(), identity.clone());
    context.on_control(async move { identities.settled(&asked, WAIT_LIMIT).await }).await;
    let known = context.process.identities.get(identity);
    let source = context.process.tokens.credential_fault(identity).and_then(|error| source_fault(&error));
    progress.learn(known, source);
}

/// The source of the credentials has said that it has none any more. A source that is out of reach says nothing about
/// those at hand.
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
    fn a_source_that_is_out_of_reach_does_not_explain_a_refused_token() {
        let (identity, reason) = ("default".to_owned(), "away".to_owned());
        let away = TokenError::Unavailable { identity: identity.clone(), reason: reason.clone() };
        assert_eq!(source_fault(&away), None);
        let none = TokenError::NoCredentials { identity, reason };
        assert_eq!(source_fault(&none).map(|fault| fault.cause), Some(LoginFailure::NoCredentials));
    }
}
