//! rustls configurations for the modes and versions PgBouncer knows. Owns who is trusted and how; builds no
//! connection. The provider is always named, so a second one in the process cannot confuse rustls.

use super::certificates::{self, CertificateError};
use super::verified::ServerTls;
use crate::config::{Settings, TlsMode, TlsProtocols};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError as CertificateFault, CipherSuite, ClientConfig, DigitallySignedStruct, ServerConfig,
    SignatureScheme, SupportedProtocolVersion, version,
};
use std::path::Path;
use std::sync::Arc;

/// TLS settings that do not fit together.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A certificate or key file is wrong.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// rustls refuses the combination.
    #[error("TLS settings are refused: {0}")]
    Refused(String),
    /// A client TLS mode that needs a certificate, without one.
    #[error("client_tls_sslmode needs client_tls_cert_file and client_tls_key_file")]
    NoServerCertificate,
}

fn refused(error: impl std::fmt::Display) -> TlsConfigError {
    TlsConfigError::Refused(error.to_string())
}

fn file(name: &str) -> Option<&Path> {
    (!name.is_empty()).then(|| Path::new(name))
}

fn versions(protocols: &TlsProtocols) -> Vec<&'static SupportedProtocolVersion> {
    let wanted = [(protocols.tls13, &version::TLS13), (protocols.tls12, &version::TLS12)];
    wanted.into_iter().filter_map(|(wanted, version)| wanted.then_some(version)).collect()
}

/// Configuration towards servers, or `None` when TLS is off.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn for_servers(settings: &Settings) -> Result<Option<ServerTls>, TlsConfigError> {
    let mode = settings.server_tls_sslmode;
    if mode == TlsMode::Disable {
        return Ok(None);
    }
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(&settings.server_tls_protocols))
        .map_err(refused)?;
    let verifier: Arc<dyn ServerCertVerifier> = match mode {
        TlsMode::VerifyFull | TlsMode::VerifyCa => {
            let roots = Arc::new(certificates::server_roots(&settings.server_tls_ca_file)?);
            let strict =
                WebPkiServerVerifier::builder_with_provider(roots, provider).build().map_err(refused)?;
            if mode.verifies_name() { strict } else { Arc::new(AnyName(strict)) }
        }
        _ => Arc::new(AnyCertificate(provider)),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier.clone());
    let config = match (file(&settings.server_tls_cert_file), file(&settings.server_tls_key_file)) {
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates::chain(cert)?, certificates::key(key)?)
            .map_err(refused)?,
        _ => builder.with_no_client_auth(),
    };
    Ok(Some(if mode.verifies_name() {
        ServerTls::with_names(config, verifier)
    } else {
        ServerTls::without_names(config)
    }))
}

/// Configuration towards clients, or `None` when TLS is off.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn for_clients(settings: &Settings) -> Result<Option<Arc<ServerConfig>>, TlsConfigError> {
    let mode = settings.client_tls_sslmode;
    if mode == TlsMode::Disable {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (file(&settings.client_tls_cert_file), file(&settings.client_tls_key_file))
    else {
        return Err(TlsConfigError::NoServerCertificate);
    };
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(&settings.client_tls_protocols))
        .map_err(refused)?;
    let builder = match mode {
        TlsMode::VerifyCa | TlsMode::VerifyFull => {
            let roots = Arc::new(certificates::roots(Path::new(&settings.client_tls_ca_file))?);
            let verifier =
                WebPkiClientVerifier::builder_with_provider(roots, provider).build().map_err(refused)?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config =
        builder.with_single_cert(certificates::chain(cert)?, certificates::key(key)?).map_err(refused)?;
    // Ours is the busier side. Without hardware for AES the client knows better.
    config.ignore_client_order = has_aes();
    // Clients of a database rarely come back with a ticket, and rustls would make two for each of them.
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

/// The provider, with the suites first that cost least: with 128-bit keys, and with them the hash that processors
/// have instructions for.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    Arc::new(provider)
}

/// True when the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// `verify-ca`: the chain is checked, the name is not.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateFault::NotValidForName | CertificateFault::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `allow`, `prefer`, `require`: encryption without proof of who is there, as in libpq and PgBouncer.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
