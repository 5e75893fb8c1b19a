//! The login to a server: obtaining a token, a secret or a password, the time limit, and one retry after a refusal.
//! Owns the order of these steps; the messages belong to `login_exchange`.

use super::connect::{self, Encryption, Route, ServerAddress};
use super::error::{LoginError, LoginStage};
use super::login_exchange::{BackendStartup, LoginExchange};
use super::progress::Progress;
use super::refused_token;
use super::target::{Credential, LoginTarget};
use super::token_for_server::TokenForServer;
use crate::config::{Secret, TlsMode};
use crate::context::Context;
use crate::credential_causes::{advice_of, advice_of_secret, failure_of, failure_of_secret};
use crate::login_failure::LoginFailure;
use crate::net::{Inbound, Stream};
use crate::server_roles::RequiredRole;
use crate::worker::{self, executor, timers};
use rds_iam::secrets::{DatabaseSecret, SecretError, SecretKey};
use rds_iam::{Token, TokenKey, TokenLoginError};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use wire::encode;

/// SQLSTATE for a wrong password and for a role that does not exist.
const WRONG_PASSWORD: &str = "28P01";

/// Timeout for the request that cancels `connect_query`.
const CANCEL_LIMIT: Duration = Duration::from_secs(2);

/// A successful login.
pub struct LoginResult {
    /// The connection, idle.
    pub stream: Stream,
    /// How it was reached.
    pub route: Route,
    /// What it was required to be.
    pub required: Option<RequiredRole>,
    /// All parameters reported by the server, in order.
    pub reports: Vec<(String, String)>,
    /// Process ID.
    pub pid: u32,
    /// Cancel secret.
    pub cancel_key: Box<[u8]>,
}

impl LoginResult {
    /// Sends Terminate and closes, if only the login was of interest.
    pub fn close(mut self) {
        let mut message = Vec::new();
        encode::terminate(&mut message);
        let _ = self.stream.poll_send(&mut std::task::Context::from_waker(Waker::noop()), &message, &[]);
    }
}

/// Logs in within `server_connect_timeout`. A refused IAM login is retried once with a new token, and `allow` once with
/// TLS.
///
/// # Errors
/// See [`LoginError`].
pub async fn log_in(
    context: &Rc<Context>,
    target: &LoginTarget,
    progress: &Progress,
) -> Result<LoginResult, LoginError> {
    progress.begin(target);
    #[cfg(feature = "otlp")]
    let began = worker::now();
    let limit = context.config().settings.server_connect_timeout;
    let outcome = timers::timeout(limit, attempt(context, target, progress)).await.unwrap_or_else(|| {
        let target = format!("{}:{}", target.host, target.port);
        Err(LoginError::Timeout { target, stage: progress.stage() })
    });
    let phases = progress.take_phases();
    for completed in &phases {
        context.process.logins.count_phase(completed.phase, completed.took);
    }
    #[cfg(feature = "otlp")]
    super::login_trace::submit(context, target, began, &phases, outcome.as_ref().err());
    if let (Err(error), Credential::Iam(signing)) = (&outcome, &target.credential)
        && is_token_refusal(error)
        && progress.has_sent_token()
    {
        refused_token::add_aws_report(context, &signing.identity, progress).await;
    }
    outcome
}

async fn attempt(
    context: &Rc<Context>,
    target: &LoginTarget,
    progress: &Progress,
) -> Result<LoginResult, LoginError> {
    progress.enter(LoginStage::Network);
    let place = ServerAddress::find(context, target).await?;
    progress.found(&place);
    let attempt = Attempt { context, target, place: &place, progress };
    match &target.credential {
        Credential::Iam(signing) => {
            let key = signing.key(target.host.tcp(), target.port, &target.user, place.rds_name())?;
            attempt.run_with_tokens(&key).await
        }
        Credential::Given { key, token } => {
            attempt.wait_for_turn(key).await?;
            attempt.run(Encryption::Required, Some(TokenForServer::supplied(key, token))).await
        }
        Credential::Secret(key) => attempt.run_with_secret(key).await,
        _ => attempt.run_with_password().await,
    }
}

fn is_token_refusal(error: &LoginError) -> bool {
    matches!(error, LoginError::Refused { code, .. } if rds_iam::is_refusal(code))
}

fn is_wrong_password(outcome: &Result<LoginResult, LoginError>) -> bool {
    matches!(outcome, Err(LoginError::Refused { code, .. }) if code == WRONG_PASSWORD)
}

/// One login, including a possible retry.
struct Attempt<'a> {
    context: &'a Rc<Context>,
    target: &'a LoginTarget,
    place: &'a ServerAddress,
    progress: &'a Progress,
}

impl Attempt<'_> {
    /// Waits for `iam_login_rate`, over all pools of the server.
    async fn wait_for_turn(&self, key: &TokenKey) -> Result<(), LoginError> {
        let target = target_name(key);
        let wait = self.context.process.login_rate.reserve(&target, worker::now());
        let wait = wait.map_err(|_| LoginError::LoginRate(target))?;
        if !wait.is_zero() {
            self.progress.enter(LoginStage::RateLimit);
            timers::sleep(wait).await;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        key: &TokenKey,
        future: impl Future<Output = Result<Arc<Token>, rds_iam::TokenError>> + Send + 'static,
    ) -> Result<Arc<Token>, LoginError> {
        self.progress.enter(LoginStage::Credentials);
        let began = worker::now();
        let fetched = self.context.on_control(future).await.ok_or_else(|| LoginError::Token {
            user: key.user.clone(),
            reason: "the token engine stopped".to_owned(),
            cause: LoginFailure::MetadataUnreachable,
            advice: None,
            is_transient: true,
        })?;
        let logins = &self.context.process.logins;
        match &fetched {
            Ok(token) => {
                logins.count_token(worker::now().saturating_duration_since(began));
                self.progress.token(key, token);
            }
            Err(error) => logins.count_missing_token(error.label()),
        }
        fetched.map_err(|error| LoginError::Token {
            user: key.user.clone(),
            reason: error.finding(),
            cause: failure_of(&error),
            advice: advice_of(&error),
            is_transient: error.is_transient(),
        })
    }

    /// Logs in with the current token, and once more with another one if the server refuses it.
    async fn run_with_tokens(&self, key: &TokenKey) -> Result<LoginResult, LoginError> {
        let token = async {
            self.wait_for_turn(key).await?;
            let (engine, requested_key) = (self.context.process.tokens.clone(), key.clone());
            self.fetch(key, async move { engine.token(&requested_key).await }).await
        };
        let fresh = async |refused: Arc<Token>| {
            tracing::info!(
                event = "token_refused",
                user = %self.target.user,
                "IAM login refused, retrying once with a new token"
            );
            // The answer is too late for this login, but in time to explain the next failure.
            self.context.process.identities.look_up(&key.identity);
            let (engine, requested_key) = (self.context.process.tokens.clone(), key.clone());
            let fetch = async move { engine.fresh_after_refusal(&requested_key, &refused).await };
            let fresh = self.fetch(key, fetch).await?;
            self.wait_for_turn(key).await?;
            Ok(fresh)
        };
        let attempt = async |token: Arc<Token>| {
            self.run(Encryption::Required, Some(TokenForServer::generated(key, &token))).await
        };
        let outcome = rds_iam::log_in_with(token, fresh, attempt, is_token_refusal).await;
        outcome.map_err(|error| match error {
            TokenLoginError::NoToken(error)
            | TokenLoginError::Driver(error)
            | TokenLoginError::NoFreshToken { error: error @ LoginError::LoginRate(_), .. } => error,
            // What the server said explains more than that there is no second token.
            TokenLoginError::NoFreshToken { refused, .. } => refused,
        })
    }

    /// Logs in with the cached secret, and once more if the server refuses it and a newer version exists.
    async fn run_with_secret(&self, key: &SecretKey) -> Result<LoginResult, LoginError> {
        self.progress.enter(LoginStage::Secret);
        let secrets = &self.context.process.secrets;
        let server = format!("{}:{}", self.target.host, self.target.port);
        let (cache, requested_key) = (secrets.clone(), key.clone());
        let cached = self.context.on_control(async move { cache.get(&requested_key).await }).await;
        let stopped = || SecretError::Unavailable { arn: key.arn.to_string(), reason: "stopped".to_owned() };
        let mut secret = cached.unwrap_or_else(|| Err(stopped())).map_err(|error| LoginError::Secret {
            reason: error.to_string(),
            cause: failure_of_secret(&error),
            advice: advice_of_secret(&error),
            is_transient: error.is_transient(),
        })?;
        let mut outcome = self.run_as(&secret).await;
        if is_wrong_password(&outcome) {
            self.progress.enter(LoginStage::Secret);
            let (cache, requested_key, refused) = (secrets.clone(), key.clone(), secret.clone());
            let newer = self
                .context
                .on_control(async move { cache.after_refusal(&requested_key, &refused).await })
                .await;
            if let Some(newer) = newer.flatten() {
                secret = newer;
                outcome = self.run_as(&secret).await;
            }
        }
        match outcome {
            Err(LoginError::Refused { code, message, .. }) if code == WRONG_PASSWORD => {
                Err(LoginError::SecretPassword {
                    secret: key.arn.to_string(),
                    version: secret.version_id.clone(),
                    message,
                    may_be_in_rotation: secrets.may_be_in_rotation(key, &server),
                })
            }
            other => {
                if other.is_ok() {
                    secrets.worked(key, &server);
                }
                other
            }
        }
    }

    async fn run_as(&self, secret: &DatabaseSecret) -> Result<LoginResult, LoginError> {
        self.progress.secret(secret);
        let target = LoginTarget {
            user: secret.username.clone(),
            credential: Credential::Password(Secret::new(secret.expose())),
            ..self.target.clone()
        };
        let Self { context, place, progress, .. } = *self;
        Attempt { context, place, progress, target: &target }.run_with_password().await
    }

    async fn run_with_password(&self) -> Result<LoginResult, LoginError> {
        let mode = self.target.tls_mode;
        match self.run(Encryption::first(mode), None).await {
            Err(LoginError::Refused { code, .. }) if mode == TlsMode::Allow && code == "28000" => {
                self.run(Encryption::Required, None).await
            }
            other => other,
        }
    }

    async fn run(
        &self,
        encryption: Encryption,
        token: Option<TokenForServer<'_>>,
    ) -> Result<LoginResult, LoginError> {
        let Self { context, target, place, progress } = *self;
        progress.enter(LoginStage::Network);
        let tls_name = token.map(|token| place.tls_name(token.key));
        let (stream, route) = connect::open(
            context,
            place,
            &target.database,
            encryption,
            target.tls.as_ref(),
            tls_name,
            progress,
        )
        .await?;
        progress.opened(&stream);
        let mut login =
            LoginExchange { context, target, place, progress, token, stream, inbound: Inbound::default() };
        login.start().await?;
        let BackendStartup { mut reports, key } = login.finish().await?;
        progress.authenticated();
        let required = match &target.required {
            Some(required) => Some(login.check_role(required, &route, &reports).await?),
            None => None,
        };
        let (pid, cancel_key) = key.unwrap_or_default();
        if let Some(sql) = &target.connect_query {
            let running = RunningQuery { context, route: &route, pid, cancel_key: &cancel_key };
            let outcome = login.run(sql, &mut reports).await;
            running.finish();
            outcome?;
        }
        if !login.inbound.is_empty() {
            return Err(LoginError::BrokenOff("unexpected data after the login".to_owned()));
        }
        Ok(LoginResult { stream: login.stream, route, required, reports, pid, cancel_key })
    }
}

/// A running `connect_query`. If the login is abandoned, the query is canceled: PostgreSQL would continue it although
/// the connection is closed.
struct RunningQuery<'a> {
    context: &'a Rc<Context>,
    route: &'a Route,
    pid: u32,
    cancel_key: &'a [u8],
}

impl RunningQuery<'_> {
    /// The query has finished, successfully or not.
    fn finish(self) {
        std::mem::forget(self);
    }
}

impl Drop for RunningQuery<'_> {
    fn drop(&mut self) {
        if self.cancel_key.is_empty() {
            return;
        }
        let (context, route) = (self.context.clone(), self.route.clone());
        let mut message = Vec::new();
        encode::cancel_request(&mut message, self.pid, self.cancel_key);
        executor::spawn(async move {
            let cancel = async {
                let mut stream = connect::reopen(&context, &route).await?;
                let io_error = |error: std::io::Error| LoginError::BrokenOff(error.to_string());
                stream.send_all(&message).await.map_err(io_error)?;
                // The server closes the connection after sending the signal.
                stream.recv(&mut Inbound::default()).await.map_err(io_error)
            };
            if !matches!(timers::timeout(CANCEL_LIMIT, cancel).await, Some(Ok(_))) {
                tracing::warn!(server = %route.endpoint, "connect_query could not be canceled");
            }
        });
    }
}

/// The key of the login rate limit.
pub(super) fn target_name(key: &TokenKey) -> String {
    format!("{}:{}", key.host, key.port)
}
