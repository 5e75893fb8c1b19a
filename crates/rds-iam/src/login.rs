//! One login with a token, and one more with a fresh token when the first was refused.
//!
//! Owns: that order, for services with a pool of their own.
//! Never: opens a connection or knows a driver; both come from the caller.

use std::future::Future;
use std::sync::Arc;

use crate::engine::{TokenEngine, TokenKey};
use crate::error::TokenError;
use crate::token::Token;

/// Why a login failed: there was no token, or the driver says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IamLoginError<E> {
    /// There is no token, so nothing was sent to the database – or, after a refusal, nothing more.
    #[error("no token to log in with")]
    NoToken(#[source] TokenError),
    /// The driver's error. If that is a refusal, a second, fresh token was refused as well.
    #[error(transparent)]
    Driver(E),
}

/// Whether a login that failed with this SQLSTATE may succeed with a fresh token: `28000`, which RDS answers to a token
/// it does not take, and `28P01`, which others say.
///
/// Neither tells why. A database user who is not in `rds_iam`, or a policy that does not allow `rds-db:connect`, looks
/// the same; so one more attempt, and no third.
pub fn is_refusal(sqlstate: &str) -> bool {
    matches!(sqlstate, "28000" | "28P01")
}

impl TokenEngine {
    /// Logs in: `attempt` gets a valid token and opens a connection with it. If `is_refusal` says that its error is a
    /// refused login, credentials are fetched anew (at most twice a minute), another token is signed, and `attempt` is
    /// called once more.
    ///
    /// This is what a pool calls for each new connection. It has no time limit but that of fetching credentials, 30
    /// seconds; a limit for the connection is the driver's or the pool's.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use rds_iam::{IamLoginError, Token, TokenEngine, TokenKey, is_refusal};
    /// # struct Connection;
    /// # struct DriverError { sqlstate: Option<String> }
    /// # async fn open(password: &str) -> Result<Connection, DriverError> { Ok(Connection) }
    /// async fn connect(engine: &TokenEngine, key: &TokenKey) -> Result<Connection, IamLoginError<DriverError>> {
    ///     let attempt = async |token: Arc<Token>| open(token.expose()).await;
    ///     engine.log_in(key, attempt, |error| error.sqlstate.as_deref().is_some_and(is_refusal)).await
    /// }
    /// ```
    ///
    /// # Errors
    /// [`IamLoginError::NoToken`] as [`token`](Self::token) and [`fresh_after_refusal`](Self::fresh_after_refusal);
    /// [`IamLoginError::Driver`] with the error of the last attempt.
    pub async fn log_in<T, E, F>(
        &self,
        key: &TokenKey,
        attempt: impl Fn(Arc<Token>) -> F,
        is_refusal: impl Fn(&E) -> bool,
    ) -> Result<T, IamLoginError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let token = self.token(key).await.map_err(IamLoginError::NoToken)?;
        match attempt(Arc::clone(&token)).await {
            Err(error) if is_refusal(&error) => {}
            outcome => return outcome.map_err(IamLoginError::Driver),
        }
        let fresh = self.fresh_after_refusal(key, &token).await.map_err(IamLoginError::NoToken)?;
        attempt(fresh).await.map_err(IamLoginError::Driver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::{CredentialError, CredentialFuture, CredentialSource, Credentials, Identity, OffsetClock};

    /// What a driver says.
    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("{0}")]
    struct Said(&'static str);

    /// Hands out `AK1`, `AK2` and so on, as many as it has.
    #[derive(Debug)]
    struct Keys {
        left: usize,
        fetches: AtomicUsize,
    }

    impl CredentialSource for Keys {
        fn fetch<'a>(&'a self, _: &'a Identity) -> CredentialFuture<'a> {
            let number = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
            let has_one = number <= self.left;
            Box::pin(async move {
                if !has_one {
                    return Err(CredentialError::NotFound { reason: "no more keys".to_owned() });
                }
                Ok(Credentials::new(format!("AK{number}"), "secret", None, None, "test"))
            })
        }
    }

    /// Logs in where `answers` come one after the other; tells the keys of the tokens that were tried, too.
    async fn log_in(
        keys: usize,
        answers: &[Result<u32, &'static str>],
    ) -> (Result<u32, IamLoginError<Said>>, Vec<String>) {
        let source = Arc::new(Keys { left: keys, fetches: AtomicUsize::new(0) });
        let clock = Arc::new(OffsetClock::default());
        let engine = TokenEngine::with_clock(source, Arc::<OffsetClock>::clone(&clock));
        let host = "db.c1.eu-west-1.rds.amazonaws.com";
        let key = TokenKey::new(host, 5432, "app", None, Identity::default()).unwrap();
        let tried = Mutex::new(Vec::new());
        let attempt = async |token: Arc<Token>| {
            let mut tried = tried.lock().unwrap();
            tried.push(token.access_key_id().to_owned());
            // Long enough ago for another fetch.
            clock.advance(60);
            answers[tried.len() - 1].map_err(Said)
        };
        let outcome = engine.log_in(&key, attempt, |said| is_refusal(said.0)).await;
        (outcome, tried.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_refused_login_is_tried_once_more_with_other_credentials() {
        let both = vec!["AK1".to_owned(), "AK2".to_owned()];
        assert_eq!(log_in(9, &[Err("28000"), Ok(7)]).await, (Ok(7), both.clone()));
        let refused = Err(IamLoginError::Driver(Said("28P01")));
        assert_eq!(log_in(9, &[Err("28000"), Err("28P01"), Ok(7)]).await, (refused, both));
    }

    #[tokio::test]
    async fn other_errors_are_the_caller_s() {
        let once = vec!["AK1".to_owned()];
        let full = Err(IamLoginError::Driver(Said("53300")));
        assert_eq!(log_in(9, &[Err("53300"), Ok(7)]).await, (full, once.clone()));
        assert_eq!(log_in(9, &[Ok(7)]).await, (Ok(7), once));
    }

    #[tokio::test]
    async fn without_credentials_nothing_is_tried() {
        let (outcome, tried) = log_in(0, &[Ok(7)]).await;
        assert!(matches!(outcome, Err(IamLoginError::NoToken(TokenError::NoCredentials { .. }))));
        assert_eq!(tried.len(), 0);
    }
}
