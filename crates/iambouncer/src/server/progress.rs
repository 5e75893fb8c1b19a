//! The progress of a login and what was found on the way, for explaining a failure. Owns these records, which survive a
//! login that is cut short; it makes no decisions.

use super::connect::ServerAddress;
use super::diagnosis::{Diagnosis, LineSummary, Proof, SourceFault};
use super::error::{LoginError, LoginStage};
use super::target::LoginTarget;
use crate::identities::IdentityInfo;
use crate::net::{Endpoint, Stream};
use crate::stats::logins::LoginPhase;
use crate::worker;
use rds_iam::secrets::DatabaseSecret;
use rds_iam::{Token, TokenKey};
use rustls::pki_types::CertificateDer;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// A server is usually reached within this time, …
const SILENT_NETWORK: Duration = Duration::from_millis(500);
/// … and answers within this one.
const SILENT_SERVER: Duration = Duration::from_secs(3);

/// The completed steps of a login, with their results.
#[derive(Debug, Clone, Default)]
pub struct LoginTrace {
    /// The name was resolved.
    pub found: Option<NameLookup>,
    /// A token was obtained.
    pub token: Option<TokenDetails>,
    /// A secret was obtained.
    pub secret: Option<SecretDetails>,
    /// The connection was opened.
    pub connected: Option<ConnectionDetails>,
    /// TLS was set up.
    pub secured: Option<TlsDetails>,
    /// The authentication request of the server, in words.
    pub asked: Option<&'static str>,
}

/// A resolved name.
#[derive(Debug, Clone)]
pub struct NameLookup {
    /// Its addresses; none for a UNIX socket.
    pub addresses: Vec<SocketAddr>,
    /// The first RDS endpoint in its CNAME chain.
    pub rds_name: Option<String>,
    /// Time taken.
    pub took: Duration,
}

/// A generated token, without the token itself.
#[derive(Debug, Clone)]
pub struct TokenDetails {
    /// The target it was signed for.
    pub key: TokenKey,
    /// Access key that signed it.
    pub access_key_id: String,
    /// When it expires.
    pub ends_at: SystemTime,
    /// Its length.
    pub bytes: usize,
}

/// A secret that was read, without its password.
#[derive(Debug, Clone)]
pub struct SecretDetails {
    /// Database user in it.
    pub username: String,
    /// Its version.
    pub version_id: String,
}

/// An open connection.
#[derive(Debug, Clone)]
pub struct ConnectionDetails {
    /// Its remote end.
    pub endpoint: Endpoint,
    /// Time taken.
    pub took: Duration,
}

/// An established TLS session.
#[derive(Debug, Clone)]
pub struct TlsDetails {
    /// Version and cipher suite.
    pub description: String,
    /// The server's certificate.
    pub certificate: Option<CertificateDer<'static>>,
    /// Time taken.
    pub took: Duration,
}

/// The progress of a login, and the proof that was sent.
#[derive(Default)]
pub struct Progress {
    stage: Cell<LoginStage>,
    line: Cell<LineSummary>,
    proof: RefCell<Proof>,
    trace: RefCell<LoginTrace>,
    stage_began: Cell<Option<Instant>>,
    /// At most five for each connection that is tried.
    phases: RefCell<Vec<CompletedPhase>>,
}

/// A completed phase of a login.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompletedPhase {
    pub(super) phase: LoginPhase,
    /// Its start; read for traces.
    #[cfg_attr(not(feature = "otlp"), expect(dead_code))]
    pub(super) began: Instant,
    pub(super) took: Duration,
}

impl Progress {
    /// The current stage.
    pub fn stage(&self) -> LoginStage {
        self.stage.get()
    }

    /// True if the server has not been reached, or has not answered, within a time in which it usually does. Waits for AWS do
    /// not count.
    pub fn is_silent(&self) -> bool {
        let limit = match self.stage.get() {
            LoginStage::Network => SILENT_NETWORK,
            LoginStage::Tls | LoginStage::Answer => SILENT_SERVER,
            LoginStage::RateLimit | LoginStage::Credentials | LoginStage::Secret => return false,
        };
        self.stage_elapsed() >= limit
    }

    /// The completed steps.
    pub fn trace(&self) -> LoginTrace {
        self.trace.borrow().clone()
    }

    /// Explains an error that ended the login.
    pub fn explain(&self, error: LoginError) -> Diagnosis {
        Diagnosis::new(error, &self.proof.borrow(), self.line.get(), super::now_seconds())
    }

    /// Records the target of the login.
    pub(super) fn begin(&self, target: &LoginTarget) {
        self.line.set(target.line());
    }

    pub(super) fn enter(&self, stage: LoginStage) {
        self.stage.set(stage);
        self.stage_began.set(Some(worker::now()));
    }

    /// Records the proof that is about to be sent.
    pub(super) fn record_proof(&self, proof: Proof) {
        self.proof.replace(proof);
    }

    /// Adds what AWS has reported meanwhile about the token that was sent.
    pub(super) fn add_aws_report(&self, known: IdentityInfo, source: Option<SourceFault>) {
        if let Proof::Token(signed) = &mut *self.proof.borrow_mut() {
            signed.refused_key = known.refused_key_cause(&signed.access_key_id);
            signed.arn = known.caller.map(|caller| caller.arn).or_else(|| signed.arn.take());
            signed.clock_skew_seconds = known.clock_skew_seconds.or(signed.clock_skew_seconds);
            signed.source = source;
        }
    }

    pub(super) fn has_sent_token(&self) -> bool {
        matches!(*self.proof.borrow(), Proof::Token(_))
    }

    pub(super) fn found(&self, place: &ServerAddress) {
        let found = NameLookup {
            addresses: place.addresses().to_vec(),
            rds_name: place.rds_name().cloned(),
            took: self.stage_elapsed(),
        };
        self.trace.borrow_mut().found = Some(found);
        if place.was_resolved() {
            self.complete(LoginPhase::Dns);
        }
    }

    pub(super) fn token(&self, key: &TokenKey, token: &Token) {
        let made = TokenDetails {
            key: key.clone(),
            access_key_id: token.access_key_id().to_owned(),
            ends_at: token.expires_at(),
            bytes: token.expose().len(),
        };
        self.trace.borrow_mut().token = Some(made);
        self.complete(LoginPhase::Token);
    }

    pub(super) fn secret(&self, secret: &DatabaseSecret) {
        let (username, version_id) = (secret.username.clone(), secret.version_id.clone());
        self.trace.borrow_mut().secret = Some(SecretDetails { username, version_id });
    }

    pub(super) fn connected(&self, endpoint: Endpoint) {
        if matches!(endpoint, Endpoint::Tcp(_)) {
            self.complete(LoginPhase::Tcp);
        }
        let connected = ConnectionDetails { endpoint, took: self.stage_elapsed() };
        self.trace.borrow_mut().connected = Some(connected);
        self.enter(LoginStage::Tls);
    }

    /// The connection is established, with or without TLS.
    pub(super) fn opened(&self, stream: &Stream) {
        if let Some(tls) = stream.tls() {
            let secured = TlsDetails {
                description: tls.description(),
                certificate: tls.peer_certificate().cloned(),
                took: self.stage_elapsed(),
            };
            self.trace.borrow_mut().secured = Some(secured);
            self.complete(LoginPhase::Tls);
        }
        self.enter(LoginStage::Answer);
    }

    /// The server has accepted the login.
    pub(super) fn authenticated(&self) {
        self.complete(LoginPhase::Auth);
    }

    fn complete(&self, phase: LoginPhase) {
        let began = self.stage_began.get().unwrap_or_else(worker::now);
        self.phases.borrow_mut().push(CompletedPhase { phase, began, took: self.stage_elapsed() });
    }

    /// The completed phases, once.
    pub(super) fn take_phases(&self) -> Vec<CompletedPhase> {
        self.phases.take()
    }

    pub(super) fn record_request(&self, what: &'static str) {
        self.trace.borrow_mut().asked = Some(what);
    }

    /// Time since the stage began.
    fn stage_elapsed(&self) -> Duration {
        self.stage_began.get().map(|began| worker::now().saturating_duration_since(began)).unwrap_or_default()
    }
}
