//! rustls configurations for PgBouncer's TLS modes and versions. Owns the selection of verifiers, certificates and
//! cipher suites; opens no connection. The provider is always explicit, so that another one in the process cannot
//! interfere.

use super::certificates::{self, CertificateError};
use super::ldap_trust::LdapTrust;
use super::tls::ALPN_PROTOCOL;
use super::trust::Trust;
use super::verified::ServerTls;
use super::verifiers::{ClientVerifier, ServerCheck, ServerVerifier};
use super::x509::Certificate;
use crate::config::{Settings, Tls12Ciphers, Tls13Ciphers, TlsGroups, TlsMode, TlsProtocols};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    version,
};
use std::path::Path;
use std::sync::Arc;

/// Invalid TLS settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// A certificate or key file is invalid.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// rustls rejects the combination.
    #[error("TLS settings are rejected: {0}")]
    Refused(String),
    /// The pooler's own certificate, or its key, cannot be used.
    #[error("{setting} = {path}: {reason}")]
    Own {
        /// Setting.
        setting: &'static str,
        /// File.
        path: String,
        /// The reason.
        reason: String,
    },
    /// The pooler's own certificate has another key.
    #[error(
        "{setting} = {certificate}: the key in {key} is not the key of the certificate; the certificate must be the first in its file"
    )]
    Unpaired {
        /// Setting.
        setting: &'static str,
        /// File of the certificate.
        certificate: String,
        /// File of the key.
        key: String,
    },
    /// A client TLS mode that needs a certificate, but none is configured.
    #[error("client_tls_sslmode needs client_tls_cert_file and client_tls_key_file")]
    NoServerCertificate,
    /// A client TLS mode that verifies clients, but no authority is configured.
    #[error("client_tls_sslmode = verify-ca and verify-full need client_tls_ca_file")]
    NoClientAuthorities,
}

fn refused(error: impl std::fmt::Display) -> TlsConfigError {
    TlsConfigError::Refused(error.to_string())
}

fn file(name: &str) -> Option<&Path> {
    (!name.is_empty()).then(|| Path::new(name))
}

fn versions(protocols: &TlsProtocols) -> Vec<&'static SupportedProtocolVersion> {
    let allowed = [(protocols.tls13, &version::TLS13), (protocols.tls12, &version::TLS12)];
    allowed.into_iter().filter_map(|(allowed, version)| allowed.then_some(version)).collect()
}

/// The configuration for connections to servers, or `None` if TLS is disabled.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn for_servers(settings: &Settings) -> Result<Option<ServerTls>, TlsConfigError> {
    let mode = settings.server_tls_sslmode;
    if mode == TlsMode::Disable {
        return Ok(None);
    }
    let provider = restricted(&settings.server_tls_ciphers, &settings.server_tls13_ciphers, None);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(&settings.server_tls_protocols))
        .map_err(refused)?;
    let verifier = server_verifier(settings, &provider)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier.clone());
    let config = match (file(&settings.server_tls_cert_file), file(&settings.server_tls_key_file)) {
        (Some(cert), Some(key)) => {
            let own = own_certificate("server_tls_cert_file", cert, key, &provider)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)))
        }
        // With SET, one of them comes first.
        _ => builder.with_no_client_auth(),
    };
    Ok(Some(if mode.verifies_name() {
        ServerTls::with_names(config, verifier)
    } else {
        ServerTls::without_names(config)
    }))
}

/// TLS of the listeners.
#[derive(Clone)]
pub struct ListenerTls {
    /// The configuration.
    pub config: Arc<ServerConfig>,
    /// When the first certificate of the chain that clients receive expires, in seconds since 1970.
    pub expires_at: Option<i64>,
}

/// The configuration for connections from clients, or `None` if TLS is disabled.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn for_clients(settings: &Settings) -> Result<Option<ListenerTls>, TlsConfigError> {
    let mode = settings.client_tls_sslmode;
    if mode == TlsMode::Disable {
        return Ok(None);
    }
    let (Some(cert), Some(key)) = (file(&settings.client_tls_cert_file), file(&settings.client_tls_key_file))
    else {
        return Err(TlsConfigError::NoServerCertificate);
    };
    let groups = &settings.client_tls_ecdhcurve;
    let provider = restricted(&settings.client_tls_ciphers, &settings.client_tls13_ciphers, Some(groups));
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(&settings.client_tls_protocols))
        .map_err(refused)?;
    let builder = match file(&settings.client_tls_ca_file) {
        Some(authorities) => {
            builder.with_client_cert_verifier(client_verifier(authorities, mode, &provider)?)
        }
        None if mode.verifies() => return Err(TlsConfigError::NoClientAuthorities),
        None => builder.with_no_client_auth(),
    };
    let own = own_certificate("client_tls_cert_file", cert, key, &provider)?;
    let ends = own.cert.iter().filter_map(|part| Some(Certificate::read(part).ok()?.expires_at()));
    let expires_at = ends.min();
    let own: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(own));
    let mut config = builder.with_cert_resolver(own);
    // The pooler is the busier side. Without AES hardware, the client's preference is better.
    let is_ordered = settings.client_tls_ciphers.numbers().is_some();
    config.ignore_client_order = has_aes() || is_ordered || settings.client_tls13_ciphers.numbers().is_some();
    config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
    // Database clients rarely resume a session, and rustls would create two tickets for each.
    config.send_tls13_tickets = 0;
    Ok(Some(ListenerTls { config: Arc::new(config), expires_at }))
}

/// The configuration for connections to LDAP servers.
///
/// # Errors
/// See [`TlsConfigError`].
pub fn for_ldap(trust: &LdapTrust) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let provider = Arc::new(provider());
    let algorithms = provider.signature_verification_algorithms;
    let check = match trust {
        LdapTrust::Nothing => ServerCheck::Nothing,
        LdapTrust::System => {
            ServerCheck::IssuerAndName(Trust::new(certificates::server_authorities("system")?, algorithms))
        }
        LdapTrust::File(path) => {
            ServerCheck::IssuerAndName(Trust::new(certificates::roots(Path::new(path))?, algorithms))
        }
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused)?;
    let verifier = Arc::new(ServerVerifier { check, algorithms });
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// As in PgBouncer, modes below `verify-ca` request a certificate too, and verify it if the client presents one.
fn client_verifier(
    authorities: &Path,
    mode: TlsMode,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<ClientVerifier>, TlsConfigError> {
    let authorities = certificates::roots(authorities)?;
    let roots = Arc::new(authorities.roots.clone());
    let chains = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let chains = chains.build().map_err(refused)?;
    let algorithms = provider.signature_verification_algorithms;
    let trust = Trust::new(authorities, algorithms);
    Ok(Arc::new(ClientVerifier { trust, chains, algorithms, is_mandatory: mode.verifies() }))
}

fn server_verifier(
    settings: &Settings,
    provider: &CryptoProvider,
) -> Result<Arc<dyn ServerCertVerifier>, TlsConfigError> {
    let algorithms = provider.signature_verification_algorithms;
    let trust = || {
        certificates::server_authorities(&settings.server_tls_ca_file)
            .map(|authorities| Trust::new(authorities, algorithms))
    };
    let check = match settings.server_tls_sslmode {
        TlsMode::VerifyFull => ServerCheck::IssuerAndName(trust()?),
        TlsMode::VerifyCa => ServerCheck::Issuer(trust()?),
        TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer | TlsMode::Require => ServerCheck::Nothing,
    };
    Ok(Arc::new(ServerVerifier { check, algorithms }))
}

/// The pooler's certificate with its key. rustls would reject version 1 here, which the peer may accept.
fn own_certificate(
    setting: &'static str,
    certificate_file: &Path,
    key_file: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsConfigError> {
    let chain = certificates::chain(certificate_file)?;
    let path = certificate_file.display();
    let own = |reason: String| TlsConfigError::Own { setting, path: path.to_string(), reason };
    let key = certificates::key(key_file)?;
    let key = provider.key_provider.load_private_key(key).map_err(|error| {
        own(format!("the key in {} is rejected ({error}); RSA keys need 2048 bits", key_file.display()))
    })?;
    let first = chain.first().map(|first| Certificate::read(first)).transpose();
    let public = first.map_err(|fault| own(fault.to_string()))?.map(|first| first.public_key().to_vec());
    if key.public_key().is_some_and(|key| Some(key.as_ref()) != public.as_deref()) {
        return Err(TlsConfigError::Unpaired {
            setting,
            certificate: path.to_string(),
            key: key_file.display().to_string(),
        });
    }
    Ok(CertifiedKey::new(chain, key))
}

/// The provider, with the cheapest suites first: those with 128-bit keys, whose hash is accelerated by processors.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    });
    provider
}

/// The provider, restricted to suites and groups in this order.
fn restricted(
    ciphers: &Tls12Ciphers,
    ciphers13: &Tls13Ciphers,
    groups: Option<&TlsGroups>,
) -> Arc<CryptoProvider> {
    let mut provider = provider();
    let is_13 = |suite: &SupportedCipherSuite| suite.tls13().is_some();
    for (numbers, of_13) in [(ciphers.numbers(), false), (ciphers13.numbers(), true)] {
        let Some(numbers) = numbers else { continue };
        let rank = |suite: &SupportedCipherSuite| {
            numbers.iter().position(|number| CipherSuite::from(*number) == suite.suite())
        };
        let suites = &mut provider.cipher_suites;
        suites.retain(|suite| is_13(suite) != of_13 || rank(suite).is_some());
        suites.sort_by_key(|suite| if is_13(suite) == of_13 { rank(suite) } else { None });
    }
    if let Some(numbers) = groups.and_then(TlsGroups::numbers) {
        let find = |number: &u16| {
            let is_it = |group: &&&dyn SupportedKxGroup| group.name() == NamedGroup::from(*number);
            aws_lc_rs::ALL_KX_GROUPS.iter().find(is_it).copied()
        };
        provider.kx_groups = numbers.iter().filter_map(find).collect();
    }
    Arc::new(provider)
}

/// True if the processor has AES instructions.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
