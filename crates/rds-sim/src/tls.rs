//! The simulator's certificates.
//!
//! Owns: one CA and one server certificate, generated at startup.
//! Never: writes a key to disk; the certificates are lost when the process exits.

use std::fmt;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use time::{Duration, OffsetDateTime};

use crate::postgres::PostgresTls;

/// Names in every certificate besides the endpoint's.
const LOCAL_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// A CA certificate and a server certificate signed by it.
#[derive(Clone)]
pub struct Certificates {
    ca_pem: String,
    server_pem: String,
    key_pem: String,
    config: Arc<ServerConfig>,
}

/// Certificates could not be generated.
#[derive(Debug, thiserror::Error)]
#[error("certificates could not be generated: {0}")]
pub struct SimCertificateError(String);

impl Certificates {
    /// Generates certificates for these host names and for the local machine.
    pub fn generate(hosts: &[String]) -> Result<Self, SimCertificateError> {
        Self::generate_until(hosts, None)
    }

    /// Like `generate`, with a server certificate that expires in this many days, or expired if negative.
    pub fn generate_until(hosts: &[String], days_left: Option<i64>) -> Result<Self, SimCertificateError> {
        let fail = |error: &dyn fmt::Display| SimCertificateError(error.to_string());
        let ca_key = KeyPair::generate().map_err(|error| fail(&error))?;
        let ca_params = ca_params();
        let ca = ca_params.self_signed(&ca_key).map_err(|error| fail(&error))?;
        let issuer = Issuer::new(ca_params, ca_key);

        let key = KeyPair::generate().map_err(|error| fail(&error))?;
        let server = server_params(hosts, days_left)
            .and_then(|params| params.signed_by(&key, &issuer))
            .map_err(|error| fail(&error))?;

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key_der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![server.der().clone()], key_der)
            })
            .map_err(|error| fail(&error))?;
        // Clients that start TLS directly (PostgreSQL 17) must negotiate this protocol.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(Self {
            ca_pem: ca.pem(),
            server_pem: server.pem(),
            key_pem: key.serialize_pem(),
            config: Arc::new(config),
        })
    }

    /// The CA certificate, for the client's `sslrootcert`.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The same server certificate for a real PostgreSQL.
    pub fn for_postgres(&self) -> PostgresTls {
        PostgresTls { certificate_pem: self.server_pem.clone(), key_pem: self.key_pem.clone() }
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "rds-sim authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params(hosts: &[String], days_left: Option<i64>) -> Result<CertificateParams, rcgen::Error> {
    let mut names: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
    for name in LOCAL_NAMES {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, "rds-sim");
    if let Some(days) = days_left {
        params.not_after = OffsetDateTime::now_utc() + Duration::days(days);
    }
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}
