//! What a server's certificate contains, in text form, and how to fetch one that is not trusted. Owns the parsing;
//! verification belongs to rustls.

use crate::config::{Settings, TlsMode};
use crate::context::Context;
use crate::net::tls_config;
use crate::server::connect::{self, Encryption, ServerAddress};
use crate::server::progress::Progress;
use rustls::pki_types::CertificateDer;
use std::rc::Rc;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Maximum number of names to print.
const MAX_NAMES: usize = 6;
pub(super) const SECONDS_PER_DAY: i64 = 86_400;

/// A certificate in text form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CertificateSummary {
    /// Its subject names.
    pub(super) names: String,
    /// Its issuer.
    pub(super) issuer: String,
    /// Seconds until it expires; negative if it has expired.
    pub(super) seconds_left: i64,
}

/// Parses a certificate; `None` if it is malformed.
pub(super) fn describe(certificate: &CertificateDer<'_>, now_seconds: i64) -> Option<CertificateSummary> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let mut names: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        names.push(parsed.subject().to_string());
    }
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    Some(CertificateSummary {
        names: names.join(", "),
        issuer: parsed.issuer().to_string(),
        seconds_left: parsed.validity().not_after.timestamp() - now_seconds,
    })
}

impl std::fmt::Display for CertificateSummary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { names, issuer, seconds_left } = self;
        let days = seconds_left.abs() / SECONDS_PER_DAY;
        match seconds_left {
            0.. => write!(f, "for {names}, signed by {issuer}, expires in {days} days"),
            _ => write!(f, "for {names}, signed by {issuer}, expired {days} days ago"),
        }
    }
}

/// Fetches the certificate of a server that is not trusted, over a connection of its own that carries only the
/// handshake.
pub(super) async fn show(
    context: &Rc<Context>,
    place: &ServerAddress,
    settings: &Settings,
) -> Option<CertificateDer<'static>> {
    let unverified = Settings { server_tls_sslmode: TlsMode::Require, ..settings.clone() };
    let tls = tls_config::for_servers(&unverified).ok().flatten()?;
    let progress = Progress::default();
    let opened = connect::open(context, place, "", Encryption::Required, Some(&tls), None, &progress).await;
    let (stream, _) = opened.ok()?;
    stream.tls()?.peer_certificate().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_described_by_its_names_and_its_expiry() {
        let names: Vec<String> = (0..8).map(|n| format!("db{n}.example")).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let described = describe(made.cert.der(), 0).unwrap();
        assert!(described.names.starts_with("db0.example, ") && described.names.ends_with("2 more"));
        assert!(described.to_string().contains(" days") && described.seconds_left > 365 * SECONDS_PER_DAY);
        assert_eq!(describe(&CertificateDer::from(vec![1, 2, 3]), 0), None);
    }
}
