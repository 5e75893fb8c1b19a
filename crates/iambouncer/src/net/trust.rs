//! Trust in certificates. Owns the decision for both sides: certificates in the configured files, certificates issued
//! by them, and names. See docs/tls.md.
//!
//! webpki verifies chains. In addition, a certificate is trusted if it is in one of the files itself, or if it is of
//! version 1, which webpki cannot parse, and a certificate in the files has issued it directly.

use super::certificate_fault::{CertificateFault, Usage};
use super::certificates::Authorities;
use super::x509::{AlternativeNames, Certificate, MIN_RSA_BITS};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, OtherError, RootCertStore};
use std::sync::Arc;

/// Trusted certificates.
#[derive(Debug)]
pub(super) struct Trust {
    authorities: Authorities,
    /// Certificates of the files without name constraints, whose issued certificates may have their name in the
    /// subject.
    without_constraints: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a certificate is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Basis {
    /// It is in a file, or a certificate in a file issued it directly and has no name constraints.
    File,
    /// A chain leads to an authority.
    Chain,
}

impl Trust {
    pub(super) fn new(authorities: Authorities, algorithms: WebPkiSupportedAlgorithms) -> Self {
        let mut without_constraints = RootCertStore::empty();
        let unconstrained = authorities.named.iter().filter(|der| {
            Certificate::read(der).is_ok_and(|certificate| !certificate.has_name_constraints())
        });
        without_constraints.add_parsable_certificates(unconstrained.cloned());
        Self { authorities, without_constraints, algorithms }
    }

    /// Verifies a server's certificate, and its name if one is given.
    pub(super) fn check_server(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        let certificate = Certificate::read(der)?;
        let basis = match self.directly(der, &certificate, Usage::Server, now)? {
            Some(basis) => basis,
            None => {
                self.chain_of_server(&self.authorities.roots, der, intermediates, now)
                    .map_err(|error| fault_of(&error, &certificate, Usage::Server))?;
                Basis::Chain
            }
        };
        let Some(name) = name else { return Ok(()) };
        self.check_name(der, &certificate, intermediates, name, basis, now)
    }

    /// Verifies a client's certificate; `chains` verifies chains.
    pub(super) fn check_client(
        &self,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        chains: &dyn ClientCertVerifier,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        let certificate = Certificate::read(der)?;
        if self.directly(der, &certificate, Usage::Client, now)?.is_some() {
            return Ok(());
        }
        chains
            .verify_client_cert(der, intermediates, now)
            .map(|_| ())
            .map_err(|error| fault_of(&error, &certificate, Usage::Client))
    }

    /// Trust without a chain; `None` if a chain is needed.
    fn directly(
        &self,
        der: &CertificateDer<'_>,
        certificate: &Certificate<'_>,
        usage: Usage,
        now: UnixTime,
    ) -> Result<Option<Basis>, CertificateFault> {
        // The key signs the handshake.
        if let Some(bits) = certificate.rsa_bits().filter(|bits| *bits < MIN_RSA_BITS) {
            return Err(CertificateFault::WeakKey(bits));
        }
        if self.authorities.named.iter().any(|named| named.as_ref() == der.as_ref()) {
            certificate.check_period(now)?;
            certificate.check_usage(usage)?;
            return Ok(Some(Basis::File));
        }
        if !certificate.is_version_1() {
            return Ok(None);
        }
        certificate.check_period(now)?;
        let has_issued = |issuer: &CertificateDer<'_>| {
            Certificate::read(issuer).is_ok_and(|issuer| {
                issuer.check_period(now).is_ok()
                    && !issuer.has_name_constraints()
                    && issuer.has_issued(certificate, self.algorithms.all)
            })
        };
        if self.authorities.named.iter().any(has_issued) {
            return Ok(Some(Basis::File));
        }
        Err(match certificate.old_hash() {
            Some(hash) => CertificateFault::WeakHash(hash),
            None if certificate.is_issued_by_itself() => CertificateFault::SelfSigned,
            None => CertificateFault::Version1,
        })
    }

    fn chain_of_server(
        &self,
        roots: &RootCertStore,
        der: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(der)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, self.algorithms.all)
    }

    /// Checks the names in the subjectAltName extension or, if there are none, the common name, as in libpq. webpki
    /// applies name constraints to the former only, so the latter is accepted only without constraints.
    fn check_name(
        &self,
        der: &CertificateDer<'_>,
        certificate: &Certificate<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        basis: Basis,
        now: UnixTime,
    ) -> Result<(), CertificateFault> {
        if !certificate.is_version_1() {
            let parsed = ParsedCertificate::try_from(der)
                .map_err(|error| fault_of(&error, certificate, Usage::Server))?;
            if verify_server_name(&parsed, name).is_ok() {
                return Ok(());
            }
        }
        let host = name.to_str();
        let names = certificate.alternative_names();
        let has_alternatives = match name {
            ServerName::DnsName(_) => !names.hosts.is_empty(),
            _ => !names.hosts.is_empty() || !names.addresses.is_empty(),
        };
        // RDS certificates always have the host in the extension.
        let is_rds = rds_iam::RdsEndpoint::parse(&host).is_some();
        let common_name = certificate.common_name().filter(|_| !has_alternatives && !is_rds);
        if !common_name.is_some_and(|pattern| matches_host(pattern, name)) {
            return Err(CertificateFault::WrongName {
                host: host.into_owned(),
                names: list_of(&names, common_name),
            });
        }
        let is_constrained = || {
            let constrains = |der: &CertificateDer<'_>| {
                !Certificate::read(der).is_ok_and(|certificate| !certificate.has_name_constraints())
            };
            intermediates.iter().any(constrains)
                || self.chain_of_server(&self.without_constraints, der, intermediates, now).is_err()
        };
        if basis == Basis::Chain && is_constrained() {
            return Err(CertificateFault::OnlyCommonName { host: host.into_owned() });
        }
        Ok(())
    }
}

/// True if a common name matches a host: the same name, the same address, or `*` for one label.
fn matches_host(pattern: &str, name: &ServerName<'_>) -> bool {
    let host = match name {
        ServerName::DnsName(host) => host.as_ref(),
        ServerName::IpAddress(address) => {
            let address = std::net::IpAddr::from(*address);
            return pattern.parse() == Ok(address);
        }
        _ => return false,
    };
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(domain), Some((label, parent))) = (pattern.strip_prefix("*."), host.split_once('.')) else {
        return false;
    };
    !label.is_empty() && domain.contains('.') && domain.eq_ignore_ascii_case(parent)
}

/// Maximum number of names to print.
const MAX_NAMES: usize = 6;

fn list_of(names: &AlternativeNames, common_name: Option<&str>) -> String {
    let addresses = names.addresses.iter().filter_map(|bytes| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(|b| std::net::IpAddr::from(b).to_string()),
        _ => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(|b| std::net::IpAddr::from(b).to_string()),
    });
    let all: Vec<String> =
        names.hosts.iter().cloned().chain(addresses).chain(common_name.map(str::to_owned)).collect();
    match all.len() {
        0 => "no host".to_owned(),
        len if len > MAX_NAMES => format!("{} and {} more", all[..MAX_NAMES].join(", "), len - MAX_NAMES),
        _ => all.join(", "),
    }
}

/// The fault behind an error of webpki.
fn fault_of(error: &rustls::Error, certificate: &Certificate<'_>, usage: Usage) -> CertificateFault {
    use CertificateError as E;
    let rustls::Error::InvalidCertificate(error) = error else {
        return CertificateFault::Other(error.to_string());
    };
    match error {
        E::Expired | E::ExpiredContext { .. } | E::NotValidYet | E::NotValidYetContext { .. } => {
            match certificate.check_period(UnixTime::now()) {
                Err(fault) => fault,
                Ok(()) => CertificateFault::Other("one of its authorities has expired".to_owned()),
            }
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => CertificateFault::WrongUsage(usage),
        #[allow(deprecated)]
        E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext { .. }
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            certificate.old_hash().map_or(CertificateFault::UnknownAlgorithm, CertificateFault::WeakHash)
        }
        // webpki treats a signature with an outdated hash like a missing one.
        E::UnknownIssuer | E::BadSignature if certificate.old_hash().is_some() => {
            certificate.old_hash().map_or(CertificateFault::UnknownAlgorithm, CertificateFault::WeakHash)
        }
        _ if certificate.is_authority() && is_authority_error(error) => {
            if certificate.is_issued_by_itself() {
                CertificateFault::SelfSigned
            } else {
                CertificateFault::Authority
            }
        }
        E::UnknownIssuer if certificate.is_issued_by_itself() => CertificateFault::SelfSigned,
        // An authority of the same name, with another key.
        E::UnknownIssuer | E::BadSignature => CertificateFault::UnknownIssuer(certificate.issuer_name()),
        other => CertificateFault::Other(other.to_string()),
    }
}

fn is_authority_error(error: &CertificateError) -> bool {
    match error {
        CertificateError::UnknownIssuer => true,
        CertificateError::Other(OtherError(inner)) => inner.to_string().contains("CaUsedAsEndEntity"),
        _ => false,
    }
}

/// Wraps the fault in an error of rustls.
pub(super) fn refusal(fault: CertificateFault) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

/// The text of a handshake error; for a rejected certificate, what is wrong with it.
pub fn words_of(error: &std::io::Error) -> String {
    fault_in(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// The certificate fault in a handshake error.
pub fn fault_in(error: &std::io::Error) -> Option<&CertificateFault> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<CertificateFault>()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificates::{self, signature_hash};
    use super::super::verifiers::{ServerCheck, ServerVerifier};
    use super::*;
    use rustls::client::danger::ServerCertVerifier;
    use std::path::Path;
    use std::process::Command;

    fn openssl(dir: &Path, arguments: &str) {
        let output =
            Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    }

    fn trust(file: &Path) -> Trust {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        Trust::new(certificates::roots(file).unwrap(), algorithms)
    }

    /// The result for a certificate with this key, signed with this hash by a trusted authority; and whether it
    /// supports channel binding.
    fn issued(key: &str, hash: &str) -> (Result<(), CertificateFault>, bool) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        openssl(dir, "req -new -x509 -nodes -newkey rsa:2048 -subj /CN=root -keyout root.key -out root.crt");
        openssl(dir, &format!("req -new -nodes -newkey {key} -subj /CN=h -keyout s.key -out s.csr"));
        std::fs::write(dir.join("extensions"), "subjectAltName=DNS:h.example\n").unwrap();
        openssl(
            dir,
            &format!(
                "x509 -req -in s.csr -CA root.crt -CAkey root.key -CAcreateserial -extfile extensions {hash} -out s.crt"
            ),
        );
        let der = certificates::chain(&dir.join("s.crt")).unwrap().remove(0);
        let name = ServerName::try_from("h.example").unwrap();
        let checked = trust(&dir.join("root.crt")).check_server(&der, &[], Some(&name), UnixTime::now());
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let nothing = ServerVerifier { check: ServerCheck::Nothing, algorithms };
        assert!(nothing.verify_server_cert(&der, &[], &name, &[], UnixTime::now()).is_ok());
        (checked, signature_hash(&der).is_some())
    }

    #[test]
    fn weak_keys_and_hashes_are_rejected_if_certificates_are_verified() {
        assert_eq!(issued("rsa:2048", "-sha256"), (Ok(()), true));
        assert_eq!(issued("rsa:1024", "-sha256"), (Err(CertificateFault::WeakKey(1024)), false));
        assert_eq!(issued("rsa:2048", "-sha1"), (Err(CertificateFault::WeakHash("SHA-1")), true));
    }

    #[test]
    fn the_signature_of_a_certificate_in_the_file_is_not_checked() {
        let dir = tempfile::tempdir().unwrap();
        openssl(
            dir.path(),
            "req -new -x509 -nodes -sha1 -days 30 -newkey rsa:2048 -subj /CN=*.example.com -keyout s.key -out s.crt",
        );
        let file = dir.path().join("s.crt");
        let der = certificates::chain(&file).unwrap().remove(0);
        let trust = trust(&file);
        let check = |name: &'static str, now| {
            trust.check_server(&der, &[], Some(&ServerName::try_from(name).unwrap()), now)
        };
        let now = UnixTime::now();
        assert_eq!(check("db.example.com", now), Ok(()));
        assert!(matches!(check("a.db.example.com", now), Err(CertificateFault::WrongName { .. })));
        assert!(matches!(check("example.com", now), Err(CertificateFault::WrongName { .. })));
        let later = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_secs() + 31 * 86_400));
        assert!(matches!(check("db.example.com", later), Err(CertificateFault::Expired(_))));
    }

    #[test]
    fn the_common_name_is_not_accepted_for_rds_hosts() {
        let dir = tempfile::tempdir().unwrap();
        let host = "db.c1.eu-west-1.rds.amazonaws.com";
        openssl(
            dir.path(),
            &format!("req -new -x509 -nodes -newkey rsa:2048 -subj /CN={host} -keyout s.key -out s.crt"),
        );
        let file = dir.path().join("s.crt");
        let der = certificates::chain(&file).unwrap().remove(0);
        let name = ServerName::try_from(host).unwrap();
        let checked = trust(&file).check_server(&der, &[], Some(&name), UnixTime::now());
        assert!(matches!(checked, Err(CertificateFault::WrongName { .. })), "{checked:?}");
    }
}
