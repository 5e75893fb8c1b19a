//! The messages exchanged with a server up to the first ReadyForQuery: startup packet, authentication, parameter
//! reports. Owns every answer to an authentication request. A token is sent only in answer to a request for a
//! clear-text password.

use super::connect::{Route, ServerAddress};
use super::diagnosis::{Proof, StoredToken, TokenDetail};
use super::error::LoginError;
use super::login::target_name;
use super::progress::Progress;
use super::target::{Credential, LoginTarget};
use super::token_for_server::TokenForServer;
use crate::auth::md5;
use crate::auth::scram::client::{Binding, ClientExchange};
use crate::auth::scram::derived::KeySource;
use crate::auth::scram::keys::{ClientKeys, ScramSecret};
use crate::auth::scram::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::config::Secret;
use crate::context::Context;
use crate::net::certificates::{self, SignatureHash};
use crate::net::tls::TlsStream;
use crate::net::verified::VerifiedName;
use crate::net::{Inbound, Stream};
use crate::server_roles::{HostAnswer, RequiredRole, ServerRole};
use crate::sql_client::{self, AnswerLimits, SqlError};
use crate::worker;
use aws_lc_rs::digest;
use std::rc::Rc;
use std::sync::Arc;
use wire::backend::{self, Authentication, TxStatus};
use wire::startup::Version;
use wire::{encode, tag};
use zeroize::{Zeroize, Zeroizing};

/// Largest message a server may send before the login is complete, in bytes.
const MAX_LOGIN_MESSAGE_BYTES: u32 = 64 * 1024;
/// Maximum number of messages in a login: parameter reports and notices are a few dozen.
const MAX_LOGIN_MESSAGES: usize = 1000;
/// Limits for the answer to `connect_query`.
const CONNECT_QUERY_LIMITS: AnswerLimits =
    AnswerLimits { message_bytes: MAX_LOGIN_MESSAGE_BYTES, messages: MAX_LOGIN_MESSAGES, rows: 0, bytes: 0 };

/// Whether the server accepts writes.
const ASK_FOR_ROLE: &str =
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
/// Limits for its answer.
const ROLE_LIMITS: AnswerLimits = AnswerLimits {
    message_bytes: MAX_LOGIN_MESSAGE_BYTES,
    messages: MAX_LOGIN_MESSAGES,
    rows: 1,
    bytes: MAX_LOGIN_MESSAGE_BYTES as usize,
};

/// A login under way.
pub(super) struct LoginExchange<'a> {
    pub(super) context: &'a Rc<Context>,
    pub(super) target: &'a LoginTarget,
    pub(super) place: &'a ServerAddress,
    pub(super) progress: &'a Progress,
    pub(super) token: Option<TokenForServer<'a>>,
    pub(super) stream: Stream,
    pub(super) inbound: Inbound,
}

/// What a server reports between AuthenticationOk and its first ReadyForQuery.
#[derive(Default)]
pub(super) struct BackendStartup {
    /// All parameters, in order.
    pub(super) reports: Vec<(String, String)>,
    /// Process ID and cancel secret. Some poolers in front of PostgreSQL send none.
    pub(super) key: Option<(u32, Box<[u8]>)>,
}

/// The state of a login. Each state accepts its own messages; any other ends the login.
enum LoginState {
    /// The server has not requested a proof yet.
    AwaitingRequest,
    /// The proof was sent.
    Answered,
    /// The server has sent AuthenticationOk.
    Authenticated(BackendStartup),
}

impl LoginExchange<'_> {
    /// Sends the startup packet.
    pub(super) async fn start(&mut self) -> Result<(), LoginError> {
        let mut parameters =
            vec![("user", self.target.user.as_str()), ("database", self.target.database.as_str())];
        parameters.extend(self.target.parameters.iter().map(|(name, value)| (&**name, value.as_str())));
        let mut message = Vec::new();
        encode::startup(&mut message, Version::V3_0, &parameters);
        self.send(&mut message).await
    }

    /// Sends a message and wipes it: most of these messages contain a secret.
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

    /// Answers the server's requests until the login is complete.
    pub(super) async fn finish(&mut self) -> Result<BackendStartup, LoginError> {
        let mut state = LoginState::AwaitingRequest;
        for _ in 0..MAX_LOGIN_MESSAGES {
            let (kind, message) = self.receive().await?;
            state = match (state, kind) {
                (state, tag::backend::NOTICE_RESPONSE) => state,
                (LoginState::AwaitingRequest, tag::backend::NEGOTIATE_PROTOCOL_VERSION) => {
                    LoginState::AwaitingRequest
                }
                (
                    state @ (LoginState::AwaitingRequest | LoginState::Answered),
                    tag::backend::AUTHENTICATION,
                ) => {
                    let request = backend::authentication(&message).map_err(protocol_error)?;
                    let is_authenticated = request == Authentication::Ok;
                    // A server that trusts all clients has not verified the password of one.
                    if is_authenticated
                        && matches!(state, LoginState::AwaitingRequest)
                        && matches!(self.target.credential, Credential::Claimed(_))
                    {
                        return Err(LoginError::PasswordNotRequested(self.target.user.clone()));
                    }
                    if matches!(state, LoginState::Answered) && !is_authenticated {
                        return Err(LoginError::BrokenOff("a second authentication request".to_owned()));
                    }
                    self.authenticate(request).await?;
                    if is_authenticated {
                        LoginState::Authenticated(BackendStartup::default())
                    } else {
                        LoginState::Answered
                    }
                }
                (LoginState::Authenticated(mut startup), tag::backend::PARAMETER_STATUS) => {
                    let (name, value) = backend::parameter_status(&message).map_err(protocol_error)?;
                    startup.reports.push((name.to_owned(), value.to_owned()));
                    LoginState::Authenticated(startup)
                }
                (
                    LoginState::Authenticated(BackendStartup { reports, key: None }),
                    tag::backend::BACKEND_KEY_DATA,
                ) => {
                    let data = backend::key_data(&message).map_err(protocol_error)?;
                    LoginState::Authenticated(BackendStartup {
                        reports,
                        key: Some((data.pid, data.key.into())),
                    })
                }
                (LoginState::Authenticated(startup), tag::backend::READY_FOR_QUERY) => {
                    return match backend::ready_for_query(&message).map_err(protocol_error)? {
                        TxStatus::Idle => Ok(startup),
                        _ => Err(LoginError::BrokenOff("the login ended inside a transaction".to_owned())),
                    };
                }
                (state, kind) => return Err(out_of_order(&state, kind)),
            };
        }
        Err(LoginError::BrokenOff("too many messages during login".to_owned()))
    }

    /// Refuses a server that is not as required, and records what it is. Returns the requirement on the address.
    pub(super) async fn check_role(
        &mut self,
        required: &RequiredRole,
        route: &Route,
        reports: &[(String, String)],
    ) -> Result<RequiredRole, LoginError> {
        let role = match ServerRole::reported(reports) {
            Some(role) => role,
            None => self.ask_for_role().await?,
        };
        let RequiredRole { host, wanted, .. } = required;
        let address: Arc<str> = route.endpoint.to_string().into();
        let (roles, now) = (&self.context.process.server_roles, worker::now());
        roles.record_address(&address, role.in_recovery, now);
        if role.fits(*wanted) {
            roles.record_answer(host, *wanted, HostAnswer::Suitable, now);
            return Ok(RequiredRole { address, ..required.clone() });
        }
        roles.record_answer(host, *wanted, HostAnswer::Unsuitable(role), now);
        Err(LoginError::WrongRole { server: host.to_string(), wanted: *wanted, role })
    }

    /// For servers before version 14, which report no role.
    async fn ask_for_role(&mut self) -> Result<ServerRole, LoginError> {
        let answer =
            sql_client::query(&mut self.stream, &mut self.inbound, ASK_FOR_ROLE, ROLE_LIMITS, |_| ()).await;
        let rows = match answer {
            Ok(answer) => answer.rows,
            Err(SqlError::Refused { severity, code, message, hint }) => {
                return Err(LoginError::Refused { severity, code, message, hint });
            }
            Err(error) => return Err(LoginError::BrokenOff(error.to_string())),
        };
        match rows.first().map(Vec::as_slice) {
            Some([Some(in_recovery), Some(read_only)]) => {
                Ok(ServerRole { in_recovery: in_recovery == "t", read_only: read_only == "on" })
            }
            _ => Err(LoginError::BrokenOff("no answer about recovery".to_owned())),
        }
    }

    /// Runs `connect_query`, and records the parameters that it changes.
    pub(super) async fn run(
        &mut self,
        sql: &str,
        reports: &mut Vec<(String, String)>,
    ) -> Result<(), LoginError> {
        let mut changed = Vec::new();
        let record = |message: &[u8]| {
            changed.push(
                backend::parameter_status(message).map(|(name, value)| (name.to_owned(), value.to_owned())),
            );
        };
        let answer =
            sql_client::query(&mut self.stream, &mut self.inbound, sql, CONNECT_QUERY_LIMITS, record).await;
        for report in changed {
            let (name, value) = report.map_err(protocol_error)?;
            reports.retain(|(known, _)| *known != name);
            reports.push((name, value));
        }
        match answer {
            Ok(answer) if answer.status == TxStatus::Idle => Ok(()),
            Ok(_) => Err(LoginError::BrokenOff("connect_query leaves a transaction open".to_owned())),
            Err(SqlError::Refused { severity, code, message, hint }) => {
                Err(LoginError::Refused { severity, code, message, hint })
            }
            Err(SqlError::Connection(error)) => Err(LoginError::BrokenOff(error.to_string())),
            Err(error) => Err(LoginError::BrokenOff(format!("connect_query: {error}"))),
        }
    }

    async fn authenticate(&mut self, request: Authentication<'_>) -> Result<(), LoginError> {
        if let Some(what) = request_name(&request) {
            self.progress.record_request(what);
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
                // A stored token is protected like a generated one.
                if StoredToken::read(secret.expose()).is_some() && self.verified_name().is_none() {
                    return Err(LoginError::TokenNeedsVerifiedName);
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
        let not_iam =
            |requested| LoginError::NotAnIamUser { user: self.target.user.clone(), asked: requested };
        match request {
            // A server that trusts all clients cannot verify the token of a probe.
            Authentication::Ok if self.is_probe() && !self.progress.has_sent_token() => {
                Err(not_iam("nothing"))
            }
            Authentication::Ok => Ok(()),
            Authentication::Cleartext => {
                let token = self.token.ok_or(LoginError::TokenNeedsVerifiedName)?;
                let text = token.reveal(self.verified_name(), self.place.tls_name(token.key))?;
                self.progress.record_proof(Proof::Token(Box::new(self.signed(token))));
                self.send_password(text).await
            }
            Authentication::Md5(_) => Err(not_iam("an md5 password")),
            Authentication::Sasl(_) => Err(not_iam("SCRAM")),
            Authentication::Unsupported(code) => Err(LoginError::UnsupportedAuthentication(*code)),
            Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => Err(not_iam("SCRAM")),
        }
    }

    fn verified_name(&self) -> Option<&VerifiedName> {
        self.stream.tls().and_then(TlsStream::verified_name)
    }

    fn is_probe(&self) -> bool {
        matches!(self.target.credential, Credential::Given { .. })
    }

    /// The details of a token that is about to be sent.
    fn signed(&self, token: TokenForServer<'_>) -> TokenDetail {
        let key = token.key;
        let known = self.context.process.identities.get(&key.identity);
        TokenDetail {
            refused_key: known.refused_key_cause(token.access_key_id),
            source: None,
            arn: known.caller.filter(|_| !self.is_probe()).map(|caller| caller.arn),
            clock_skew_seconds: known.clock_skew_seconds,
            host: key.host.clone(),
            port: key.port,
            region: key.region.to_string(),
            user: key.user.clone(),
            access_key_id: token.access_key_id.to_owned(),
            expires_at_seconds: token.expires_at_seconds,
            dialed_host: self.place.rds_name().map_or_else(|| self.place.name(), String::as_str).to_owned(),
            dialed_port: self.target.port,
            logins_last_second: self.context.process.login_rate.lately(&target_name(key), worker::now()),
            is_port_given: match &self.target.credential {
                Credential::Iam(signing) => signing.port.is_some(),
                // Checked against the configuration before.
                _ => true,
            },
        }
    }

    async fn send_password(&mut self, secret: &str) -> Result<(), LoginError> {
        // Allocated at full size, so that growing does not leave a copy of the secret.
        let mut message = Vec::with_capacity(secret.len() + 16);
        encode::password(&mut message, secret);
        self.send(&mut message).await
    }

    fn password(&self, requested: &'static str) -> Result<Secret, LoginError> {
        match &self.target.credential {
            Credential::Password(secret) | Credential::Claimed(secret) => {
                let stored = StoredToken::read(secret.expose());
                self.progress.record_proof(stored.map_or(Proof::Password, Proof::StoredToken));
                Ok(secret.clone())
            }
            Credential::ScramKeys(_) => Err(self.unusable(requested)),
            Credential::None | Credential::Iam(_) | Credential::Secret(_) | Credential::Given { .. } => {
                Err(LoginError::NoPassword(self.target.user.clone()))
            }
        }
    }

    fn unusable(&self, requested: &'static str) -> LoginError {
        LoginError::UnusablePassword { asked: requested, user: self.target.user.clone() }
    }

    async fn scram(&mut self, mechanisms: &[u8]) -> Result<(), LoginError> {
        let offered = |name: &str| mechanisms.split(|&b| b == 0).any(|m| m == name.as_bytes());
        if !offered(SCRAM_SHA_256) && !offered(SCRAM_SHA_256_PLUS) {
            return Err(LoginError::BrokenOff("no common SASL mechanism".to_owned()));
        }
        let mut exchange = ClientExchange::fresh(self.binding(offered(SCRAM_SHA_256_PLUS)))?;
        let mut message = Vec::new();
        encode::sasl_initial(&mut message, exchange.mechanism(), exchange.first().as_bytes());
        self.send(&mut message).await?;

        let challenge = self.sasl_step(11).await?;
        let parameters = exchange.challenge(&challenge)?;
        let keys = self.scram_keys(parameters.salt, parameters.iterations).await?;
        let answer = Zeroizing::new(exchange.answer(&keys));
        encode::sasl_response(&mut message, answer.as_bytes());
        self.send(&mut message).await?;

        let last = self.sasl_step(12).await?;
        Ok(exchange.verify(&last)?)
    }

    /// Channel binding, if both sides support it.
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
        match (backend::authentication(&message).map_err(protocol_error)?, code) {
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
        let password = Zeroizing::new(secret.expose().to_owned());
        let source = KeySource { password, salt, iterations };
        let process = &self.context.process;
        if let Some(keys) = process.derived_keys.get(&source) {
            return Ok(keys);
        }
        let keys = process.derived_keys.derive(&process.control, &source).await?;
        process.derived_keys.insert(&source, &keys);
        Ok(keys)
    }
}

/// The name of an authentication request; `None` for messages that only continue or complete one.
fn request_name(request: &Authentication<'_>) -> Option<&'static str> {
    match request {
        Authentication::Cleartext => Some("a password in clear text"),
        Authentication::Md5(_) => Some("an md5 password"),
        Authentication::Sasl(_) => Some("SCRAM"),
        Authentication::Unsupported(_) => Some("an unsupported method"),
        Authentication::Ok | Authentication::SaslContinue(_) | Authentication::SaslFinal(_) => None,
    }
}

fn out_of_order(state: &LoginState, kind: u8) -> LoginError {
    let when = match state {
        LoginState::AwaitingRequest | LoginState::Answered => "before AuthenticationOk",
        LoginState::Authenticated(_) => "after AuthenticationOk",
    };
    LoginError::BrokenOff(format!("message {:?} {when}", kind as char))
}

fn protocol_error(error: wire::FormatError) -> LoginError {
    LoginError::BrokenOff(error.to_string())
}
