//! The login to a server: startup packet, authentication, and the reports up to the first ReadyForQuery.
//! Owns every answer to an authentication request. A token is given to a clear-text request inside verified TLS
//! and to nothing else.

use super::connect::{self, Encryption, Place, Route};
use super::error::{LoginError, Stage};
use super::progress::Progress;
use super::target::{Credential, Target};
use super::verdict::{Proof, Signed, StoredToken, cause_of, cause_of_secret};
use crate::auth::md5;
use crate::auth::scram::client::{Binding, ClientExchange};
use crate::auth::scram::keys::{ClientKeys, SaltedPassword, ScramSecret};
use crate::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError};
use crate::causes::Cause;
use crate::config::{Secret, TlsMode};
use crate::context::Context;
use crate::net::certificates::{self, SignatureHash};
use crate::net::{Inbound, Stream};
use crate::worker::{self, timers};
use aws_lc_rs::digest;
use rds_iam::secrets::{DatabaseSecret, SecretError, SecretKey};
use rds_iam::{Token, TokenKey};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::SystemTime;
use wire::backend::{self, Authentication, TxStatus};
use wire::startup::Version;
use wire::{encode, tag};
use zeroize::{Zeroize, Zeroizing};

/// Largest message a server may send before the login is done, in bytes.
const MAX_LOGIN_MESSAGE_BYTES: u32 = 64 * 1024;
/// Most messages of a login: parameter reports and notices are a few dozen.
const MAX_LOGIN_MESSAGES: usize = 1000;

/// SQLSTATE of a password that is not the role's, and of a role that is not there.
const WRONG_PASSWORD: &str = "28P01";

/// A finished login.
pub struct LoggedIn {
    /// The connection, silent and idle.
    pub stream: Stream,
    /// How it was reached.
    pub route: Route,
    /// All parameters the server reported, in order.
    pub reports: Vec<(String, String)>,
    /// Process ID.
    pub pid: u32,
    /// Cancel secret.
    pub cancel_key: Box<[u8]>,
}

impl LoggedIn {
    /// Says goodbye and closes: it was about the login only.
    pub fn close(mut self) {
        let mut message = Vec::new();
        encode::terminate(&mut message);
        let _ = self.stream.poll_send(&mut std::task::Context::from_waker(Waker::noop()), &message, &[]);
    }
}

/// Logs in within `server_connect_timeout`. A refused IAM login is tried once more with a fresh token, and `allow` once
/// more with TLS.
///
/// # Errors
/// See [`LoginError`].
pub async fn log_in(
    context: &Rc<Context>,
    target: &Target,
    progress: &Progress,
) -> Result<LoggedIn, LoginError> {
    let limit = context.config().settings.server_connect_timeout;
    timers::timeout(limit, attempt(context, target, progress)).await.unwrap_or_else(|| {
        let target = format!("{}:{}", target.host, target.port);
        Err(LoginError::Timeout { target, stage: progress.stage() })
    })
}

async fn attempt(
    context: &Rc<Context>,
    target: &Target,
    progress: &Progress,
) -> Result<LoggedIn, LoginError> {
    progress.enter(Stage::Network);
    let place = Place::find(context, target).await?;
    progress.found(&place);
    let attempt = Attempt { context, target, place: &place, progress };
    let signing = match &target.credential {
        Credential::Iam(signing) => signing,
        Credential::Given { key, token } => {
            attempt.wait_for_turn(key).await?;
            return attempt.run(Encryption::Required, Some(Shown::given(key, token))).await;
        }
        Credential::Secret(key) => return attempt.run_with_secret(key).await,
        _ => return attempt.run_with_password().await,
    };
    let key = signing.key(target.host.tcp(), target.port, &target.user, place.rds_name())?;
    attempt.wait_for_turn(&key).await?;
    let engine = context.tokens.clone();
    let wanted = key.clone();
    let token = attempt.fetch(&key, async move { engine.token(&wanted).await }).await?;
    let refused = match attempt.run(Encryption::Required, Some(Shown::ours(&key, &token))).await {
        Err(error @ LoginError::Refused { .. }) if is_token_refusal(&error) => error,
        other => return other,
    };
    tracing::info!(user = %target.user, "IAM login refused, trying once more with a fresh token");
    // The answer comes too late for this login, and in time for what the next one says.
    context.identities.look_up(&key.identity);
    let (engine, wanted) = (context.tokens.clone(), key.clone());
    let fresh = attempt
        .fetch(&key, async move { engine.fresh_after_refusal(&wanted, &token).await })
        .await
        .map_err(|_| refused)?;
    attempt.wait_for_turn(&key).await?;
    attempt.run(Encryption::Required, Some(Shown::ours(&key, &fresh))).await
}

fn is_token_refusal(error: &LoginError) -> bool {
    matches!(error, LoginError::Refused { code, .. } if code == "28000" || code == "28P01")
}

fn is_wrong_password(outcome: &Result<LoggedIn, LoginError>) -> bool {
    matches!(outcome, Err(LoginError::Refused { code, .. }) if code == WRONG_PASSWORD)
}

/// A token as it is shown to a server.
#[derive(Clone, Copy)]
struct Shown<'a> {
    key: &'a TokenKey,
    text: &'a str,
    access_key_id: &'a str,
    ends_at_seconds: i64,
}

impl<'a> Shown<'a> {
    fn ours(key: &'a TokenKey, token: &'a Token) -> Self {
        let ends = token.expires_at().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let ends_at_seconds = ends.as_secs() as i64;
        Self { key, text: token.expose(), access_key_id: token.access_key_id(), ends_at_seconds }
    }

    /// Its time has been looked at by whoever hands it on.
    fn given(key: &'a TokenKey, token: &'a Secret) -> Self {
        Self { key, text: token.expose(), access_key_id: "", ends_at_seconds: i64::MAX }
    }
}

/// One login, perhaps tried twice.
struct Attempt<'a> {
    context: &'a Rc<Context>,
    target: &'a Target,
    place: &'a Place,
    progress: &'a Progress,
}

impl Attempt<'_> {
    /// `iam_login_rate`, over all pools of the server.
    async fn wait_for_turn(&self, key: &TokenKey) -> Result<(), LoginError> {
        let target = target_name(key);
        let wait = self.context.login_rate.reserve(&target, worker::now());
        let wait = wait.map_err(|_| LoginError::LoginRate(target))?;
        if !wait.is_zero() {
            timers::sleep(wait).await;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        key: &TokenKey,
        future: impl Future<Output = Result<Arc<Token>, rds_iam::TokenError>> + Send + 'static,
    ) -> Result<Arc<Token>, LoginError> {
        self.progress.enter(Stage::Credentials);
        let began = worker::now();
        let failed = |reason: String, cause, is_transient| LoginError::Token {
            user: key.user.clone(),
            reason,
            cause,
            is_transient,
        };
        let fetched =
            self.context.on_control(future).await.ok_or_else(|| {
                failed("the token engine stopped".to_owned(), Cause::MetadataUnreachable, true)
            })?;
        let logins = &self.context.registry.logins;
        match &fetched {
            Ok(token) => {
                logins.count_token(worker::now().saturating_duration_since(began));
                self.progress.token(key, token);
            }
            Err(error) => logins.count_missing_token(error.label()),
        }
        fetched.map_err(|error| failed(error.to_string(), cause_of(&error), error.is_transient()))
    }

    /// Once with the secret at hand, and once more if the server refuses it and it holds something else by now.
    async fn run_with_secret(&self, key: &SecretKey) -> Result<LoggedIn, LoginError> {
        self.progress.enter(Stage::Secret);
        let secrets = &self.context.secrets;
        let server = format!("{}:{}", self.target.host, self.target.port);
        let (cache, wanted) = (secrets.clone(), key.clone());
        let asked = self.context.on_control(async move { cache.get(&wanted).await }).await;
        let stopped = || SecretError::Unavailable { arn: key.arn.to_string(), reason: "stopped".to_owned() };
        let mut secret = asked.unwrap_or_else(|| Err(stopped())).map_err(|error| LoginError::Secret {
            reason: error.to_string(),
            cause: cause_of_secret(&error),
            is_transient: error.is_transient(),
        })?;
        let mut outcome = self.run_as(&secret).await;
        if is_wrong_password(&outcome) {
            self.progress.enter(Stage::Secret);
            let (cache, wanted, refused) = (secrets.clone(), key.clone(), secret.clone());
            let newer =
                self.context.on_control(async move { cache.after_refusal(&wanted, &refused).await }).await;
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

    async fn run_as(&self, secret: &DatabaseSecret) -> Result<LoggedIn, LoginError> {
        self.progress.secret(secret);
        let target = Target {
            user: secret.username.clone(),
            credential: Credential::Password(Secret::new(secret.expose())),
            ..self.target.clone()
        };
        let Self { context, place, progress, .. } = *self;
        Attempt { context, place, progress, target: &target }.run_with_password().await
    }

    async fn run_with_password(&self) -> Result<LoggedIn, LoginError> {
        let mode = self.target.tls_mode;
        match self.run(Encryption::first(mode), None).await {
            Err(LoginError::Refused { code, .. }) if mode == TlsMode::Allow && code == "28000" => {
                self.run(Encryption::Required, None).await
            }
            other => other,
        }
    }

    async fn run(&self, encryption: Encryption, token: Option<Shown<'_>>) -> Result<LoggedIn, LoginError> {
        let Self { context, target, place, progress } = *self;
        progress.enter(Stage::Network);
        let tls_name = token.map(|token| place.tls_name(token.key));
        let (stream, route) =
            connect::open(context, place, encryption, target.tls.as_ref(), tls_name, progress).await?;
        progress.opened(&stream);
        let mut login =
            Login { context, target, place, progress, token, stream, inbound: Inbound::default() };
        login.start().await?;
        let (mut reports, pid, cancel_key) = login.finish().await?;
        if let Some(sql) = &target.connect_query {
            login.run(sql, &mut reports).await?;
        }
        if !login.inbound.is_empty() {
            return Err(LoginError::BrokenOff("more data than the end of a login has".to_owned()));
        }
        Ok(LoggedIn { stream: login.stream, route, reports, pid, cancel_key })
    }
}

/// What the limit of logins is kept for.
fn target_name(key: &TokenKey) -> String {
    format!("{}:{}", key.host, key.port)
}

struct Login<'a> {
    context: &'a Rc<Context>,
    target: &'a Target,
    place: &'a Place,
    progress: &'a Progress,
    token: Option<Shown<'a>>,
    stream: Stream,
    inbound: Inbound,
}

type Reports = (Vec<(String, String)>, u32, Box<[u8]>);

impl Login<'_> {
    async fn start(&mut self) -> Result<(), LoginError> {
        let mut parameters =
            vec![("user", self.target.user.as_str()), ("database", self.target.database.as_str())];
        parameters.extend(self.target.parameters.iter().map(|(name, value)| (*name, value.as_str())));
        let mut message = Vec::new();
        encode::startup(&mut message, Version::V3_0, &parameters);
        self.send(&mut message).await
    }

    /// Sends and wipes: most of these messages hold a secret.
    async fn send(&mut self, message: &mut Vec<u8>) -> Result<(), LoginError> {
        let sent = self.stream.send_all(message).await;
        message.zeroize();
        sent.map_err(|error| LoginError::BrokenOff(error.to_string()))
    }

    /// Reads one message; an ErrorResponse ends the login.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), LoginError> {
        let frame = self
            .stream
            .recv_message(&mut self.inbound, MAX_LOGIN_MESSAGE_BYTES)
            .await
            .map_err(|error| LoginError::BrokenOff(error.to_string()))?;
        let message = self.inbound.bytes()[..frame.len].to_vec();
        self.inbound.consume(frame.len);
        if frame.tag == tag::backend::ERROR_RESPONSE {
            return Err(self.refusal(&message));
        }
        Ok((frame.tag, message))
    }

    fn refusal(&self, message: &[u8]) -> LoginError {
        let fields = backend::error_fields(message).unwrap_or_default();
        LoginError::Refused {
            severity: fields.severity.into_owned(),
            code: fields.code.into_owned(),
            message: fields.message.into_owned(),
            hint: fields.hint.map(std::borrow::Cow::into_owned),
        }
    }

    async fn finish(&mut self) -> Result<Reports, LoginError> {
        let mut reports = Vec::new();
        let mut key = (0, Box::default());
        for _ in 0..MAX_LOGIN_MESSAGES {
            let (kind, message) = self.receive().await?;
            match kind {
                tag::backend::AUTHENTICATION => self.authenticate(&message).await?,
                tag::backend::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&message).map_err(broken)?;
                    reports.push((name.to_owned(), value.to_owned()));
                }
                tag::backend::BACKEND_KEY_DATA => {
                    let data = backend::key_data(&message).map_err(broken)?;
                    key = (data.pid, data.key.into());
                }
                tag::backend::READY_FOR_QUERY => return Ok((reports, key.0, key.1)),
                tag::backend::NOTICE_RESPONSE | tag::backend::NEGOTIATE_PROTOCOL_VERSION => {}
                other => return Err(LoginError::BrokenOff(format!("unexpected message {other:#04x}"))),
            }
        }
        Err(LoginError::BrokenOff("endless login".to_owned()))
    }

    /// Runs a query of ours, takes over what it changes, and waits for its end.
    async fn run(&mut self, sql: &str, reports: &mut Vec<(String, String)>) -> Result<(), LoginError> {
        let mut message = Vec::new();
        encode::query(&mut message, sql);
        self.send(&mut message).await?;
        for _ in 0..MAX_LOGIN_MESSAGES {
            let (kind, message) = self.receive().await?;
            match kind {
                tag::backend::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&message).map_err(broken)?;
                    reports.retain(|(known, _)| known != name);
                    reports.push((name.to_owned(), value.to_owned()));
                }
                tag::backend::READY_FOR_QUERY => {
                    return match backend::ready_for_query(&message).map_err(broken)? {
                        TxStatus::Idle => Ok(()),
                        _ => Err(LoginError::BrokenOff("connect_query leaves a transaction open".to_owned())),
                    };
                }
                _ => {}
            }
        }
        Err(LoginError::BrokenOff("endless answer to connect_query".to_owned()))
    }

    async fn authenticate(&mut self, message: &[u8]) -> Result<(), LoginError> {
        let request = backend::authentication(message).map_err(broken)?;
        if let Some(what) = in_words(&request) {
            self.progress.asked(what);
        }
        if self.token.is_some() {
            return self.authenticate_with_token(&request).await;
        }
        match request {
            Authentication::Ok => Ok(()),
            Authentication::Cleartext => {
                let secret = self.password("a clear-text password")?;
                if md5::is_stored(secret.expose()) || ScramSecret::parse(secret.expose()).is_some() {
                    return Err(self.unusable("a clear-text password"));
                }
                self.send_password(secret.expose()).await
            }
            Authentication::Md5(salt) => {
                let secret = self.password("an md5 password")?;
                if ScramSecret::parse(secret.expose()).is_some() {
                    return Err(self.unusable("an md5 password"));
                }
                let answer = md5::answer(&self.target.user, secret.expose(), salt);
                self.send_password(&answer).await
            }
            Authentication::Sasl(mechanisms) => self.scram(mechanisms).await,
            Authentication::Unsupported(code) => Err(LoginError::UnsupportedAuthentication(code)),
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => {
                Err(LoginError::BrokenOff("SASL message out of order".to_owned()))
            }
        }
    }

    async fn authenticate_with_token(&mut self, request: &Authentication<'_>) -> Result<(), LoginError> {
        let not_iam = |asked| LoginError::NotAnIamUser { user: self.target.user.clone(), asked };
        match request {
            // A server that trusts everybody says nothing about a token that is here to be judged.
            Authentication::Ok if self.is_probe() && !self.progress.has_given_token() => {
                Err(not_iam("nothing"))
            }
            Authentication::Ok => Ok(()),
            Authentication::Cleartext => {
                if self.stream.tls().is_none() || !self.target.tls_mode.verifies() {
                    return Err(LoginError::TokenNeedsVerifiedTls);
                }
                let token = self.token.ok_or(LoginError::TokenNeedsVerifiedTls)?;
                self.progress.give(Proof::Token(Box::new(self.signed(token))));
                self.send_password(token.text).await
            }
            Authentication::Md5(_) => Err(not_iam("an md5 password")),
            Authentication::Sasl(_) => Err(not_iam("SCRAM")),
            Authentication::Unsupported(code) => Err(LoginError::UnsupportedAuthentication(*code)),
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => Err(not_iam("SCRAM")),
        }
    }

    fn is_probe(&self) -> bool {
        matches!(self.target.credential, Credential::Given { .. })
    }

    /// What may be said of a token that is sent now.
    fn signed(&self, token: Shown<'_>) -> Signed {
        let key = token.key;
        let known = self.context.identities.get(&key.identity);
        Signed {
            arn: known.caller.filter(|_| !self.is_probe()).map(|caller| caller.arn),
            clock_skew_seconds: known.clock_skew_seconds,
            host: key.host.clone(),
            port: key.port,
            region: key.region.to_string(),
            user: key.user.clone(),
            access_key_id: token.access_key_id.to_owned(),
            ends_at_seconds: token.ends_at_seconds,
            dialed_host: self.place.rds_name().map_or_else(|| self.place.name(), String::as_str).to_owned(),
            dialed_port: self.target.port,
            logins_last_second: self.context.login_rate.lately(&target_name(key), worker::now()),
            is_port_given: match &self.target.credential {
                Credential::Iam(signing) => signing.port.is_some(),
                // Checked against what is configured before it came here.
                _ => true,
            },
        }
    }

    async fn send_password(&mut self, secret: &str) -> Result<(), LoginError> {
        // Full size at once, so that growing leaves no copy behind.
        let mut message = Vec::with_capacity(secret.len() + 16);
        encode::password(&mut message, secret);
        self.send(&mut message).await
    }

    fn password(&self, asked: &'static str) -> Result<Secret, LoginError> {
        match &self.target.credential {
            Credential::Password(secret) => {
                let stored = StoredToken::read(secret.expose());
                self.progress.give(stored.map_or(Proof::Password, Proof::StoredToken));
                Ok(secret.clone())
            }
            Credential::ScramKeys(_) => Err(self.unusable(asked)),
            Credential::None | Credential::Iam(_) | Credential::Secret(_) | Credential::Given { .. } => {
                Err(LoginError::NoPassword(self.target.user.clone()))
            }
        }
    }

    fn unusable(&self, asked: &'static str) -> LoginError {
        LoginError::UnusablePassword { asked, user: self.target.user.clone() }
    }

    async fn scram(&mut self, mechanisms: &[u8]) -> Result<(), LoginError> {
        let offered = |name: &str| mechanisms.split(|&b| b == 0).any(|m| m == name.as_bytes());
        if !offered(SCRAM_SHA_256) && !offered(SCRAM_SHA_256_PLUS) {
            return Err(LoginError::BrokenOff("no SASL mechanism in common".to_owned()));
        }
        let mut exchange = ClientExchange::fresh(self.binding(offered(SCRAM_SHA_256_PLUS)))?;
        let mut message = Vec::new();
        encode::sasl_initial(&mut message, exchange.mechanism(), exchange.first().as_bytes());
        self.send(&mut message).await?;

        let challenge = self.sasl_step(11).await?;
        let asked = exchange.challenge(&challenge)?;
        let keys = self.scram_keys(asked.salt, asked.iterations).await?;
        let answer = Zeroizing::new(exchange.answer(&keys));
        encode::sasl_response(&mut message, answer.as_bytes());
        self.send(&mut message).await?;

        let last = self.sasl_step(12).await?;
        Ok(exchange.verify(&last)?)
    }

    /// Channel binding, if both sides can.
    fn binding(&self, plus_offered: bool) -> Binding {
        let Some(tls) = self.stream.tls() else { return Binding::Unsupported };
        let hash = tls.peer_certificate().and_then(|certificate| {
            let algorithm = match certificates::signature_hash(certificate)? {
                SignatureHash::Sha256 => &digest::SHA256,
                SignatureHash::Sha384 => &digest::SHA384,
                SignatureHash::Sha512 => &digest::SHA512,
            };
            Some(digest::digest(algorithm, certificate).as_ref().to_vec())
        });
        match hash {
            Some(hash) if plus_offered => Binding::EndPoint(hash),
            Some(_) => Binding::NotOffered,
            None => Binding::Unsupported,
        }
    }

    async fn sasl_step(&mut self, code: u32) -> Result<Vec<u8>, LoginError> {
        let (kind, message) = self.receive().await?;
        let out_of_order = || LoginError::BrokenOff("SASL message out of order".to_owned());
        if kind != tag::backend::AUTHENTICATION {
            return Err(out_of_order());
        }
        match (backend::authentication(&message).map_err(broken)?, code) {
            (Authentication::SaslContinue(data), 11) | (Authentication::SaslFinal(data), 12) => {
                Ok(data.to_vec())
            }
            _ => Err(out_of_order()),
        }
    }

    async fn scram_keys(&self, salt: Vec<u8>, iterations: u32) -> Result<ClientKeys, LoginError> {
        let secret = match &self.target.credential {
            Credential::ScramKeys(keys) => return Ok(keys.clone()),
            _ => self.password("SCRAM")?,
        };
        if md5::is_stored(secret.expose()) || ScramSecret::parse(secret.expose()).is_some() {
            return Err(self.unusable("SCRAM"));
        }
        let derived = self
            .context
            .blocking(move || SaltedPassword::derive(secret.expose(), &salt, iterations))
            .await
            .ok_or(LoginError::Scram(ScramError::Refused))?;
        Ok(derived?.keys())
    }
}

/// What a server asks for; `None` for what only goes on with it.
fn in_words(request: &Authentication<'_>) -> Option<&'static str> {
    match request {
        Authentication::Cleartext => Some("a password in clear text"),
        Authentication::Md5(_) => Some("an md5 password"),
        Authentication::Sasl(_) => Some("SCRAM"),
        Authentication::Unsupported(_) => Some("something else"),
        Authentication::Ok | Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => None,
    }
}

fn broken(error: wire::FormatError) -> LoginError {
    LoginError::BrokenOff(error.to_string())
}
