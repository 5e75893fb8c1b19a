//! The certificates of one run: a temporary CA and two server certificates issued by it, with keys of both kinds. Poolers
//! use either, PostgreSQL the one with RSA. Owns their generation; never writes them to disk.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize,
};

/// The kind of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// RSA, 2048 bits: used by RDS and most corporate CAs.
    Rsa,
    /// ECDSA, P-256.
    Ecdsa,
}

/// A server certificate for 127.0.0.1 and localhost, and its key.
pub(crate) struct CertPair {
    /// The certificate.
    pub(crate) certificate_pem: String,
    /// Its key.
    pub(crate) key_pem: String,
}

/// PEM texts of one run.
pub(crate) struct Certs {
    /// The CA certificate.
    pub(crate) ca_pem: String,
    /// The server certificate with [`KeyKind::Rsa`].
    pub(crate) rsa: CertPair,
    /// The server certificate with [`KeyKind::Ecdsa`].
    pub(crate) ecdsa: CertPair,
}

impl KeyKind {
    /// Base name of the poolers' certificate and key with a key of this kind.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Rsa => "pooler",
            Self::Ecdsa => "pooler-ecdsa",
        }
    }

    fn generate(self) -> Result<KeyPair> {
        let key = match self {
            Self::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
            // rcgen's default is P-256.
            Self::Ecdsa => KeyPair::generate(),
        };
        key.context("generating a key")
    }
}

impl Certs {
    /// Generates the CA and the server certificates.
    pub(crate) fn make() -> Result<Self> {
        let ca_key = KeyKind::Ecdsa.generate()?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "bench authority");
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);
        Ok(Self { ca_pem, rsa: issue(&issuer, KeyKind::Rsa)?, ecdsa: issue(&issuer, KeyKind::Ecdsa)? })
    }
}

fn issue(issuer: &Issuer<'_, KeyPair>, kind: KeyKind) -> Result<CertPair> {
    let key = kind.generate()?;
    let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "127.0.0.1");
    let certificate_pem = server.signed_by(&key, issuer)?.pem();
    Ok(CertPair { certificate_pem, key_pem: key.serialize_pem() })
}
