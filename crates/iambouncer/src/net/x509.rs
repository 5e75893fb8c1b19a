//! Contents of a certificate of any version: dates, names, key, signature, usages. Owns parsing; [`super::trust`]
//! decides whether a certificate is accepted.

use super::certificate_fault::{CertificateFault, Usage};
use rustls::pki_types::{SignatureVerificationAlgorithm, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};
use x509_parser::public_key::PublicKey;

/// Minimum size of RSA keys, in bits.
pub(super) const MIN_RSA_BITS: usize = 2048;

/// A parsed certificate.
pub(super) struct Certificate<'a> {
    parsed: X509Certificate<'a>,
    der: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(super) fn read(der: &'a [u8]) -> Result<Self, CertificateFault> {
        let (_, parsed) = X509Certificate::from_der(der)
            .map_err(|error| CertificateFault::Unreadable(error.to_string()))?;
        Ok(Self { parsed, der })
    }

    /// Version 1 has no extensions: no names but the subject's, no usages.
    pub(super) fn is_version_1(&self) -> bool {
        self.parsed.version().0 == 0
    }

    /// SubjectPublicKeyInfo, DER-encoded.
    pub(super) fn public_key(&self) -> &[u8] {
        self.parsed.public_key().raw
    }

    /// Size of its RSA key, in bits; `None` for other keys.
    pub(super) fn rsa_bits(&self) -> Option<usize> {
        match self.parsed.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => {
                let modulus = key.modulus;
                let zeros = modulus.iter().take_while(|&&byte| byte == 0).count();
                let first = modulus.get(zeros)?;
                Some((modulus.len() - zeros) * 8 - first.leading_zeros() as usize)
            }
            _ => None,
        }
    }

    pub(super) fn issuer_name(&self) -> String {
        self.parsed.issuer().to_string()
    }

    pub(super) fn is_issued_by_itself(&self) -> bool {
        self.parsed.issuer().as_raw() == self.parsed.subject().as_raw()
    }

    /// CA:TRUE.
    pub(super) fn is_authority(&self) -> bool {
        self.parsed.is_ca()
    }

    /// True if it restricts the names that its authority may issue.
    pub(super) fn has_name_constraints(&self) -> bool {
        self.parsed
            .iter_extensions()
            .any(|extension| matches!(extension.parsed_extension(), ParsedExtension::NameConstraints(_)))
    }

    /// The hash, if the signature is made with MD5 or SHA-1.
    pub(super) fn old_hash(&self) -> Option<&'static str> {
        let oid = self.parsed.signature_algorithm.algorithm.to_id_string();
        match oid.as_str() {
            "1.2.840.113549.1.1.4" => Some("MD5"),
            "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.3.14.3.2.29" | "1.2.840.10040.4.3" => {
                Some("SHA-1")
            }
            _ => None,
        }
    }

    /// The end of its validity, in seconds since 1970.
    pub(super) fn expires_at(&self) -> i64 {
        self.parsed.validity().not_after.timestamp()
    }

    /// Checks that `now` is in the validity period.
    pub(super) fn check_period(&self, now: UnixTime) -> Result<(), CertificateFault> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = self.parsed.validity();
        if now > validity.not_after.timestamp() {
            return Err(CertificateFault::Expired(date(validity.not_after.timestamp())));
        }
        if now < validity.not_before.timestamp() {
            return Err(CertificateFault::NotYetValid(date(validity.not_before.timestamp())));
        }
        Ok(())
    }

    /// Checks that the extended key usages, if any, include `usage`.
    pub(super) fn check_usage(&self, usage: Usage) -> Result<(), CertificateFault> {
        let unreadable =
            |error: x509_parser::error::X509Error| CertificateFault::Unreadable(error.to_string());
        let Some(usages) = self.parsed.extended_key_usage().map_err(unreadable)? else { return Ok(()) };
        let usages = usages.value;
        let is_allowed = match usage {
            Usage::Server => usages.server_auth,
            Usage::Client => usages.client_auth,
        };
        if is_allowed || usages.any { Ok(()) } else { Err(CertificateFault::WrongUsage(usage)) }
    }

    /// True if this certificate, of an authority, signed `issued` with one of `algorithms`.
    pub(super) fn has_issued(
        &self,
        issued: &Certificate<'_>,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
    ) -> bool {
        let may_issue =
            self.is_version_1() || !matches!(self.parsed.basic_constraints(), Ok(Some(c)) if !c.value.ca);
        may_issue
            && self.parsed.subject().as_raw() == issued.parsed.issuer().as_raw()
            && SignedPart::of(issued.der).is_some_and(|signed| signed.is_by(self.public_key(), algorithms))
    }

    /// The host names and addresses in the subjectAltName extension.
    pub(super) fn alternative_names(&self) -> AlternativeNames {
        let mut names = AlternativeNames::default();
        if let Ok(Some(extension)) = self.parsed.subject_alternative_name() {
            for name in &extension.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.hosts.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => names.addresses.push(bytes.to_vec()),
                    _ => {}
                }
            }
        }
        names
    }

    /// The subject's common name, if it has exactly one.
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut names = self.parsed.subject().iter_common_name();
        let name = names.next()?.as_str().ok()?;
        names.next().is_none().then_some(name)
    }
}

/// Host names and addresses in a subjectAltName extension.
#[derive(Debug, Default)]
pub(super) struct AlternativeNames {
    pub(super) hosts: Vec<String>,
    pub(super) addresses: Vec<Vec<u8>>,
}

/// The parts of a signed structure: `SEQUENCE { contents, algorithm, BIT STRING }`.
struct SignedPart<'a> {
    contents: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl<'a> SignedPart<'a> {
    fn of(der: &'a [u8]) -> Option<Self> {
        let (_, sequence, _) = der_element(der)?;
        let (_, _, after) = der_element(sequence)?;
        let contents = sequence.get(..sequence.len() - after.len())?;
        let (_, algorithm, after) = der_element(after)?;
        Some(Self { contents, algorithm, signature: bits(after)? })
    }

    fn is_by(&self, key: &[u8], algorithms: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        algorithms
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == self.algorithm)
            .any(|algorithm| verify(*algorithm, key, self.contents, self.signature) == Some(true))
    }
}

/// True if `signature` over `message` was made with the key in a SubjectPublicKeyInfo; `None` if the algorithm is for
/// other kinds of keys.
pub(super) fn verify(
    algorithm: &dyn SignatureVerificationAlgorithm,
    public_key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Option<bool> {
    let (_, sequence, _) = der_element(public_key)?;
    let (_, kind, after) = der_element(sequence)?;
    if algorithm.public_key_alg_id().as_ref() != kind {
        return None;
    }
    Some(algorithm.verify_signature(bits(after)?, message, signature).is_ok())
}

/// The contents of a BIT STRING of whole bytes.
fn bits(der: &[u8]) -> Option<&[u8]> {
    match der_element(der)? {
        (0x03, contents, _) => {
            contents.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
        }
        _ => None,
    }
}

/// Splits off one DER element: tag, contents, rest.
pub(super) fn der_element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (len, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (len.iter().fold(0usize, |sum, &b| (sum << 8) | usize::from(b)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(len)?;
    Some((tag, contents, rest))
}

fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| seconds.to_string(), |at| at.date().to_string())
}
