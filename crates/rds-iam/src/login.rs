//! A login with a token, and one retry with a fresh token if it was refused.
//!
//! Owns: this sequence, for services with their own pool, and for callers that obtain tokens in another way.
//! Never: opens a connection or depends on a driver; both are provided by the caller.

use std::future::Future;
use std::sync::Arc;

use crate::engine::{TokenEngine, TokenKey};
use crate::error::TokenError;
use crate::token::Token;

/// Why a login failed: there was no token, or the driver returned an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IamLoginError<E> {
    /// There is no token, so no login was attempted, or none after the refused one.
    #[error("no token to log in with")]
    NoToken(#[source] TokenError),
    /// The driver's error. If that is a refusal, a second, fresh token was refused as well.
    #[error(transparent)]
    Driver(E),
}

/// Why [`log_in_with`] failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenLoginError<S, E> {
    /// There is no token, so no login was attempted.
    NoToken(S),
    /// The token was refused with this error, and there is no other one.
    NoFreshToken {
        /// The driver's error.
        refused: E,
        /// Why there is no other token.
        error: S,
    },
    /// The driver's error. If that is a refusal, a second, fresh token was refused as well.
    Driver(E),
}

/// True if a login that failed with this SQLSTATE may succeed with a fresh token: `28000`, RDS's answer to a
/// token that it refuses, and `28P01`, used by other servers.
///
/// Neither gives the reason. A database user who is not in `rds_iam`, or a policy that does not allow
/// `rds-db:connect`, looks the same, so there is one retry and no more.
pub fn is_refusal(sqlstate: &str) -> bool {
    matches!(sqlstate, "28000" | "28P01")
}

/// Logs in with the token of `token`; if it is refused, once more with that of `fresh`, which receives the refused one.
///
/// [`TokenEngine::log_in`] is this with the tokens of an engine. It is for callers whose logins do not run where
/// the engine does.
///
/// # Errors
/// See [`TokenLoginError`].
pub async fn log_in_with<T, S, E, R, A>(
    token: impl Future<Output = Result<Arc<Token>, S>>,
    fresh: impl FnOnce(Arc<Token>) -> R,
    attempt: impl Fn(Arc<Token>) -> A,
    is_refusal: impl FnOnce(&E) -> bool,
) -> Result<T, TokenLoginError<S, E>>
where
    R: Future<Output = Result<Arc<Token>, S>>,
    A: Future<Output = Result<T, E>>,
{
    let token = token.await.map_err(TokenLoginError::NoToken)?;
    let refused = match attempt(Arc::clone(&token)).await {
        Err(error) if is_refusal(&error) => error,
        outcome => return outcome.map_err(TokenLoginError::Driver),
    };
    match fresh(token).await {
        Ok(fresh) => attempt(fresh).await.map_err(TokenLoginError::Driver),
        Err(error) => Err(TokenLoginError::NoFreshToken { refused, error }),
    }
}

impl TokenEngine {
    /// Logs in: `attempt` receives a valid token and opens a connection with it. If `is_refusal` is true for its error,
    /// credentials are fetched again (at most twice a minute), another token is signed, and `attempt` is
    /// called once more.
    ///
    /// A pool calls this for each new connection. The only time limit is that of fetching credentials, 30
    /// seconds; a time limit for the connection is up to the driver or the pool.
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
        let fresh = async |refused| self.fresh_after_refusal(key, &refused).await;
        log_in_with(self.token(key), fresh, attempt, is_refusal).await.map_err(|error| match error {
            TokenLoginError::NoToken(error) | TokenLoginError::NoFreshToken { error, .. } => {
                IamLoginError::NoToken(error)
            }
            TokenLoginError::Driver(error) => IamLoginError::Driver(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::{CredentialError, CredentialFuture, CredentialSource, Credentials, Identity, OffsetClock};

    /// A driver error.
    #[derive(Debug, PartialEq, Eq, thiserror::Error)]
    #[error("{0}")]
    struct DriverError(&'static str);

    /// Issues `AK1`, `AK2` and so on, up to `left` keys.
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

    /// Logs in with these results of the attempts; also returns the keys of the tokens that were tried.
    async fn log_in(
        keys: usize,
        answers: &[Result<u32, &'static str>],
    ) -> (Result<u32, IamLoginError<DriverError>>, Vec<String>) {
        let source = Arc::new(Keys { left: keys, fetches: AtomicUsize::new(0) });
        let clock = Arc::new(OffsetClock::default());
        let engine = TokenEngine::with_clock(source, Arc::<OffsetClock>::clone(&clock));
        let host = "db.c1.eu-west-1.rds.amazonaws.com";
        let key = TokenKey::new(host, 5432, "app", None, Identity::default()).unwrap();
        let tried = Mutex::new(Vec::new());
        let attempt = async |token: Arc<Token>| {
            let mut tried = tried.lock().unwrap();
            tried.push(token.access_key_id().to_owned());
            // Long enough to allow another fetch.
            clock.advance(60);
            answers[tried.len() - 1].map_err(DriverError)
        };
        let outcome = engine.log_in(&key, attempt, |error| is_refusal(error.0)).await;
        (outcome, tried.into_inner().unwrap())
    }

    #[tokio::test]
    async fn a_refused_login_is_tried_once_more_with_other_credentials() {
        let both = vec!["AK1".to_owned(), "AK2".to_owned()];
        assert_eq!(log_in(9, &[Err("28000"), Ok(7)]).await, (Ok(7), both.clone()));
        let refused = Err(IamLoginError::Driver(DriverError("28P01")));
        assert_eq!(log_in(9, &[Err("28000"), Err("28P01"), Ok(7)]).await, (refused, both));
    }

    #[tokio::test]
    async fn other_errors_are_returned_without_a_retry() {
        let once = vec!["AK1".to_owned()];
        let full = Err(IamLoginError::Driver(DriverError("53300")));
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
