//! The certificates of one run: a temporary CA and one server certificate issued by it, used by PostgreSQL
//! and the poolers. Owns their generation; never writes them to disk.

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_RSA_SHA256, RsaKeySize,
};

/// PEM texts of one run.
pub(crate) struct Certs {
    /// The CA certificate.
    pub(crate) ca_pem: String,
    /// The server certificate for 127.0.0.1.
    pub(crate) certificate_pem: String,
    /// Its key (RSA, 2048 bits).
    pub(crate) key_pem: String,
}

impl Certs {
    /// Generates a CA and a server certificate for 127.0.0.1 and localhost.
    pub(crate) fn make() -> Result<Self> {
        let ca_key = KeyPair::generate().context("generating the CA's key")?;
        let mut ca = CertificateParams::new(Vec::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "bench authority");
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);

        // The key type used by RDS and most corporate CAs.
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
            .context("generating the server's key")?;
        let mut server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        server.distinguished_name.push(DnType::CommonName, "127.0.0.1");
        let certificate_pem = server.signed_by(&key, &issuer)?.pem();
        Ok(Self { ca_pem, certificate_pem, key_pem: key.serialize_pem() })
    }
}
