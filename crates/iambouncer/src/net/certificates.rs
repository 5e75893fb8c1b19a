//! Reads certificates and keys from PEM files. Owns the errors about invalid files; does not verify certificates.

use super::verifiers::has_usable_key;
use super::x509::der_element;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};

/// An invalid certificate or key file.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The file cannot be read or is not PEM.
    #[error("cannot read {what} from {}: {reason}", .path.display())]
    Unreadable {
        /// What was expected.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason. Never part of a key.
        reason: String,
    },
    /// The file contains no certificate.
    #[error("{} contains no certificate", .0.display())]
    Empty(PathBuf),
    /// The system has no root certificates.
    #[error("the system has no CA certificates: install the ca-certificates package or configure a CA file")]
    NoSystemRoots,
}

/// All certificates of a PEM file.
///
/// # Errors
/// See [`CertificateError`].
pub fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let unreadable = |reason: String| CertificateError::Unreadable {
        what: "certificates",
        path: path.to_path_buf(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| unreadable(error.to_string()))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(CertificateError::Empty(path.to_path_buf()));
    }
    Ok(certificates)
}

/// The private key of a PEM file.
///
/// # Errors
/// See [`CertificateError`].
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| CertificateError::Unreadable {
        what: "a private key",
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

/// Trusted certificates.
#[derive(Debug)]
pub struct Authorities {
    /// Roots of chains.
    pub roots: RootCertStore,
    /// The certificates in configured files, each of which is also trusted itself.
    pub named: Vec<CertificateDer<'static>>,
}

impl Authorities {
    fn none() -> Self {
        Self { roots: RootCertStore::empty(), named: Vec::new() }
    }

    fn add_file(&mut self, path: &Path) -> Result<(), CertificateError> {
        let certificates = chain(path)?;
        self.roots.add_parsable_certificates(certificates.iter().cloned());
        self.named.extend(certificates);
        Ok(())
    }
}

/// The authorities of a CA file.
///
/// # Errors
/// See [`CertificateError`].
pub fn roots(ca_file: &Path) -> Result<Authorities, CertificateError> {
    let mut authorities = Authorities::none();
    authorities.add_file(ca_file)?;
    if authorities.roots.is_empty() {
        return Err(CertificateError::Empty(ca_file.to_path_buf()));
    }
    Ok(authorities)
}

/// The authorities of a list: files, `rds` for the built-in ones of RDS, `system` for those of the host. An empty
/// list means `rds, system`.
///
/// # Errors
/// See [`CertificateError`].
pub fn server_roots(list: &str) -> Result<RootCertStore, CertificateError> {
    server_authorities(list).map(|authorities| authorities.roots)
}

/// Like [`server_roots`], with the certificates of the files themselves.
///
/// # Errors
/// See [`CertificateError`].
pub fn server_authorities(list: &str) -> Result<Authorities, CertificateError> {
    let mut authorities = Authorities::none();
    let store = &mut authorities.roots;
    let mut files = Vec::new();
    let list = if list.trim().is_empty() { "rds, system" } else { list };
    for part in crate::config::split_list(list) {
        match part {
            "rds" => {
                store.add_parsable_certificates(built_in(rds_iam::roots::rds_pem()));
                store.add_parsable_certificates(built_in(rds_iam::roots::amazon_pem()));
            }
            "system" => {
                store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            path => files.push(Path::new(path)),
        }
    }
    for file in files {
        authorities.add_file(file)?;
    }
    if authorities.roots.is_empty() && authorities.named.is_empty() {
        return Err(CertificateError::NoSystemRoots);
    }
    Ok(authorities)
}

fn built_in(pem: &'static str) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok)
}

/// The hash of a certificate's signature, used by `tls-server-end-point` channel binding (RFC 5929, 4.1: MD5 and
/// SHA-1 are replaced by SHA-256).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureHash {
    /// SHA-256, also instead of older ones.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// DER-encoded object identifiers of signatures with SHA-384 and SHA-512 (RSA PKCS#1, then ECDSA).
const SHA384_SIGNATURES: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
];
const SHA512_SIGNATURES: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d],
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],
];
/// Ed25519 has no separate hash, and RSASSA-PSS has it in parameters: channel binding is undefined or not worthwhile.
const UNBINDABLE: [&[u8]; 2] = [&[0x2b, 0x65, 0x70], &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a]];

/// The hash of the signature: `Certificate ::= SEQUENCE { tbs, SEQUENCE { OID, … }, signature }`. `None` if the
/// certificate does not support channel binding: its signature has no hash, or its key is too short to prove
/// anything.
pub fn signature_hash(certificate: &[u8]) -> Option<SignatureHash> {
    has_usable_key(certificate).then_some(())?;
    hash_of_signature(certificate)
}

fn hash_of_signature(certificate: &[u8]) -> Option<SignatureHash> {
    let (_, certificate, _) = der_element(certificate)?;
    let (_, _, after_tbs) = der_element(certificate)?;
    let (_, algorithm, _) = der_element(after_tbs)?;
    let (tag, oid, _) = der_element(algorithm)?;
    if tag != 0x06 || UNBINDABLE.contains(&oid) {
        None
    } else if SHA384_SIGNATURES.contains(&oid) {
        Some(SignatureHash::Sha384)
    } else if SHA512_SIGNATURES.contains(&oid) {
        Some(SignatureHash::Sha512)
    } else {
        Some(SignatureHash::Sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_signature_is_determined() {
        let oid = SHA384_SIGNATURES[1];
        let mut algorithm = vec![0x30, (oid.len() + 2) as u8, 0x06, oid.len() as u8];
        algorithm.extend_from_slice(oid);
        let mut certificate = vec![0x30, (algorithm.len() + 4) as u8, 0x30, 0];
        certificate.extend_from_slice(&algorithm);
        certificate.extend_from_slice(&[0x03, 0]);
        assert_eq!(hash_of_signature(&certificate), Some(SignatureHash::Sha384));
        assert_eq!(hash_of_signature(&certificate[..9]), None);
    }

    #[test]
    fn every_built_in_authority_is_usable() {
        let authorities = rds_iam::roots::authorities().len();
        assert_eq!(server_roots("rds").unwrap().len(), authorities);
        assert!(server_roots("").unwrap().len() >= authorities);
        assert!(server_roots("rds, /nonexistent/ca.pem").is_err());
    }

    #[test]
    fn the_error_about_a_missing_file_has_its_path() {
        let error = chain(Path::new("/nonexistent/ca.pem")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    }
}
