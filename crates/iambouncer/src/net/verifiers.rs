//! rustls verifiers for each TLS mode. Owns the checks of each mode; trust is decided in [`super::trust`].

use super::trust::{Trust, refusal};
use super::x509::{self, Certificate, MIN_RSA_BITS};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureScheme,
};
use std::sync::Arc;

/// How a server's certificate is verified.
#[derive(Debug)]
pub(super) enum ServerCheck {
    /// `allow`, `prefer`, `require`: encryption without authentication of the server, as in libpq and PgBouncer.
    Nothing,
    /// `verify-ca`: the issuer.
    Issuer(Trust),
    /// `verify-full`: the issuer and the name.
    IssuerAndName(Trust),
}

/// Verifies servers.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) check: ServerCheck,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    /// Without a verified certificate, a handshake signature proves only that the server has the key, which matters
    /// for channel binding only. If the key is too short for that, there is no channel binding.
    fn accepts_any_signature(&self, certificate: &CertificateDer<'_>) -> bool {
        matches!(self.check, ServerCheck::Nothing) && !has_usable_key(certificate)
    }
}

/// False for certificates whose handshake signatures cannot be verified.
pub(super) fn has_usable_key(certificate: &[u8]) -> bool {
    Certificate::read(certificate)
        .is_ok_and(|certificate| certificate.rsa_bits().is_none_or(|bits| bits >= MIN_RSA_BITS))
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = match &self.check {
            ServerCheck::Nothing => Ok(()),
            ServerCheck::Issuer(trust) => trust.check_server(end_entity, intermediates, None, now),
            ServerCheck::IssuerAndName(trust) => {
                trust.check_server(end_entity, intermediates, Some(server_name), now)
            }
        };
        checked.map(|()| ServerCertVerified::assertion()).map_err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.accepts_any_signature(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.accepts_any_signature(cert) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Verifies the certificates of clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) trust: Trust,
    /// Verifies chains, and provides the list of authorities sent to clients.
    pub(super) chains: Arc<dyn ClientCertVerifier>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
    /// A client without a certificate is refused.
    pub(super) is_mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chains.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.trust
            .check_client(end_entity, intermediates, self.chains.as_ref(), now)
            .map(|()| ClientCertVerified::assertion())
            .map_err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// True if rustls can parse the certificate; it does not support version 1.
fn is_readable(certificate: &CertificateDer<'_>) -> bool {
    rustls::server::ParsedCertificate::try_from(certificate).is_ok()
}

fn verify_tls12(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if is_readable(certificate) {
        return verify_tls12_signature(message, certificate, dss, algorithms);
    }
    let read = Certificate::read(certificate).map_err(refusal)?;
    let candidates = algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
    let (_, candidates) = candidates.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
    let verified = candidates
        .iter()
        .find_map(|algorithm| x509::verify(*algorithm, read.public_key(), message, dss.signature()));
    match verified {
        Some(true) => Ok(HandshakeSignatureValid::assertion()),
        _ => Err(CertificateError::BadSignature.into()),
    }
}

fn verify_tls13(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if is_readable(certificate) {
        return verify_tls13_signature(message, certificate, dss, algorithms);
    }
    let read = Certificate::read(certificate).map_err(refusal)?;
    let key = SubjectPublicKeyInfoDer::from(read.public_key());
    verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
}
