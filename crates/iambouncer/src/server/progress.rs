//! How far a login has come and what it met on its way, for whoever has to explain it. Owns what is written down; it
//! outlives a login that is cut short, and decides nothing.

use super::connect::ServerAddress;
use super::diagnosis::{Diagnosis, LineSummary, Proof, SourceFault};
use super::error::{LoginError, LoginStage};
use super::target::LoginTarget;
use crate::identities::IdentityInfo;
use crate::net::{Endpoint, Stream};
use crate::worker;
use rds_iam::secrets::DatabaseSecret;
use rds_iam::{Token, TokenKey};
use rustls::pki_types::CertificateDer;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

/// The steps of a login that were done, each with what it found.
#[derive(Debug, Clone, Default)]
pub struct LoginTrace {
    /// The name has addresses.
    pub found: Option<NameLookup>,
    /// A token is at hand.
    pub token: Option<TokenDetails>,
    /// A secret is at hand.
    pub secret: Option<SecretDetails>,
    /// A connection is open.
    pub connected: Option<ConnectionDetails>,
    /// TLS is set up.
    pub secured: Option<TlsDetails>,
    /// What the server asked for, in words.
    pub asked: Option<&'static str>,
}

/// A name that was looked up.
#[derive(Debug, Clone)]
pub struct NameLookup {
    /// Its addresses; none for a UNIX socket.
    pub addresses: Vec<SocketAddr>,
    /// The first RDS endpoint among the names it stands for.
    pub rds_name: Option<String>,
    /// Time it took.
    pub took: Duration,
}

/// A token that was made; not the token itself.
#[derive(Debug, Clone)]
pub struct TokenDetails {
    /// What it is for.
    pub key: TokenKey,
    /// Key that signed it.
    pub access_key_id: String,
    /// When it ends.
    pub ends_at: SystemTime,
    /// Its length.
    pub bytes: usize,
}

/// A secret that was read; not its password.
#[derive(Debug, Clone)]
pub struct SecretDetails {
    /// Database user it holds.
    pub username: String,
    /// Its version.
    pub version_id: String,
}

/// A connection that was opened.
#[derive(Debug, Clone)]
pub struct ConnectionDetails {
    /// Where it goes.
    pub endpoint: Endpoint,
    /// Time it took.
    pub took: Duration,
}

/// TLS that was set up.
#[derive(Debug, Clone)]
pub struct TlsDetails {
    /// Version and cipher.
    pub description: String,
    /// The server's own certificate.
    pub certificate: Option<CertificateDer<'static>>,
    /// Time it took.
    pub took: Duration,
}

/// How far a login has come and what the server was given.
#[derive(Default)]
pub struct Progress {
    stage: Cell<LoginStage>,
    line: Cell<LineSummary>,
    proof: RefCell<Proof>,
    trace: RefCell<LoginTrace>,
    lap_began: Cell<Option<Instant>>,
}

impl Progress {
    /// How far it has come.
    pub fn stage(&self) -> LoginStage {
        self.stage.get()
    }

    /// What it has met.
    pub fn trace(&self) -> LoginTrace {
        self.trace.borrow().clone()
    }

    /// What an error after all this means.
    pub fn explain(&self, error: LoginError) -> Diagnosis {
        Diagnosis::new(error, &self.proof.borrow(), self.line.get(), super::now_seconds())
    }

    /// Whose login it is.
    pub(super) fn begin(&self, target: &LoginTarget) {
        self.line.set(target.line());
    }

    pub(super) fn enter(&self, stage: LoginStage) {
        self.stage.set(stage);
        self.lap_began.set(Some(worker::now()));
    }

    /// What the server is about to be given.
    pub(super) fn give(&self, proof: Proof) {
        self.proof.replace(proof);
    }

    /// What AWS has said meanwhile about a token that was given.
    pub(super) fn learn(&self, known: IdentityInfo, source: Option<SourceFault>) {
        if let Proof::Token(signed) = &mut *self.proof.borrow_mut() {
            signed.refused_key = known.refused_key_cause(&signed.access_key_id);
            signed.arn = known.caller.map(|caller| caller.arn).or_else(|| signed.arn.take());
            signed.clock_skew_seconds = known.clock_skew_seconds.or(signed.clock_skew_seconds);
            signed.source = source;
        }
    }

    pub(super) fn has_given_token(&self) -> bool {
        matches!(*self.proof.borrow(), Proof::Token(_))
    }

    pub(super) fn found(&self, place: &ServerAddress) {
        let found = NameLookup {
            addresses: place.addresses().to_vec(),
            rds_name: place.rds_name().cloned(),
            took: self.lap(),
        };
        self.trace.borrow_mut().found = Some(found);
    }

    pub(super) fn token(&self, key: &TokenKey, token: &Token) {
        let made = TokenDetails {
            key: key.clone(),
            access_key_id: token.access_key_id().to_owned(),
            ends_at: token.expires_at(),
            bytes: token.expose().len(),
        };
        self.trace.borrow_mut().token = Some(made);
    }

    pub(super) fn secret(&self, secret: &DatabaseSecret) {
        let (username, version_id) = (secret.username.clone(), secret.version_id.clone());
        self.trace.borrow_mut().secret = Some(SecretDetails { username, version_id });
    }

    pub(super) fn connected(&self, endpoint: Endpoint) {
        let connected = ConnectionDetails { endpoint, took: self.lap() };
        self.trace.borrow_mut().connected = Some(connected);
        self.enter(LoginStage::Tls);
    }

    /// The connection is as it will be: with TLS, or without.
    pub(super) fn opened(&self, stream: &Stream) {
        if let Some(tls) = stream.tls() {
            let secured = TlsDetails {
                description: tls.description(),
                certificate: tls.peer_certificate().cloned(),
                took: self.lap(),
            };
            self.trace.borrow_mut().secured = Some(secured);
        }
        self.enter(LoginStage::Answer);
    }

    pub(super) fn asked(&self, what: &'static str) {
        self.trace.borrow_mut().asked = Some(what);
    }

    /// Time since the stage was entered.
    fn lap(&self) -> Duration {
        self.lap_began.get().map(|began| worker::now().saturating_duration_since(began)).unwrap_or_default()
    }
}
