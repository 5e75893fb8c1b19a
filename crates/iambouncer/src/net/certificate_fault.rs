//! Why a certificate is rejected, and the command that creates a valid one. Owns the texts; makes no decisions.

use super::x509::MIN_RSA_BITS;
use std::net::IpAddr;

/// Who presents a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A server.
    Server,
    /// A client.
    Client,
}

/// Why a certificate is rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// It is for other hosts.
    #[error("the certificate is for {names}, not for {host}")]
    WrongName {
        /// Requested name.
        host: String,
        /// Names in the certificate.
        names: String,
    },
    /// It has the host in its common name only, where that is not accepted.
    #[error(
        "the certificate has {host} only in its common name, which is accepted only for certificates in \
         server_tls_ca_file and those issued by one without name constraints"
    )]
    OnlyCommonName {
        /// Requested name.
        host: String,
    },
    /// It has expired.
    #[error("the certificate expired on {0}")]
    Expired(String),
    /// It is not valid yet.
    #[error("the certificate is not valid before {0}")]
    NotYetValid(String),
    /// It was not issued by a trusted authority.
    #[error("the certificate was issued by \"{0}\", which is not a trusted authority")]
    UnknownIssuer(String),
    /// It is self-signed and not in the CA file.
    #[error("the certificate is self-signed and is not in the CA file")]
    SelfSigned,
    /// X.509 version 1 where extensions are needed.
    #[error("the certificate is X.509 version 1 and was not issued by a certificate in the CA file")]
    Version1,
    /// A certificate of an authority, used by a server or client.
    #[error("the certificate is marked as that of an authority (CA:TRUE) and is not itself in the CA file")]
    Authority,
    /// An RSA key that is too short to be secure.
    #[error("the certificate has an RSA key of {0} bits; at least {min} are required", min = MIN_RSA_BITS)]
    WeakKey(usize),
    /// Signed with a hash that can be forged.
    #[error("the certificate is signed with {0}, which can be forged")]
    WeakHash(&'static str),
    /// Signed with an unsupported algorithm; possibly not this certificate but one between it and the authority.
    #[error("the certificate or one of its authorities is signed with an algorithm that is not supported")]
    UnknownAlgorithm,
    /// Its extended key usages exclude this one.
    #[error("the extended key usages of the certificate do not include {}", usage_name(*.0))]
    WrongUsage(Usage),
    /// It is not DER, or not X.509.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// Anything else.
    #[error("the certificate is rejected: {0}")]
    Other(String),
}

/// Category of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFaultKind {
    /// The name.
    Name,
    /// The validity period.
    Period,
    /// The certificate itself, or its issuer.
    Trust,
}

fn usage_name(usage: Usage) -> &'static str {
    match usage {
        Usage::Server => "server authentication",
        Usage::Client => "client authentication",
    }
}

impl CertificateFault {
    /// The category of the fault.
    pub fn kind(&self) -> CertificateFaultKind {
        match self {
            Self::WrongName { .. } | Self::OnlyCommonName { .. } => CertificateFaultKind::Name,
            Self::Expired(_) | Self::NotYetValid(_) => CertificateFaultKind::Period,
            _ => CertificateFaultKind::Trust,
        }
    }

    /// What to do about a server's certificate, with the command that creates a valid one for `host`.
    pub fn remedy_for_server(&self, host: &str) -> String {
        match self {
            Self::UnknownIssuer(_) => {
                "Add the certificate of that authority to server_tls_ca_file.".to_owned()
            }
            Self::SelfSigned => "Add a copy of the server's certificate to server_tls_ca_file.".to_owned(),
            Self::NotYetValid(_) => "Correct the clock of this host or of the one that issued it.".to_owned(),
            _ => format!("Create another one: {}", server_command(host)),
        }
    }
}

/// The command for a self-signed certificate that all modes accept once it is in `server_tls_ca_file`.
fn server_command(host: &str) -> String {
    let host = host.trim_matches(['[', ']']);
    let kind = if host.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN={host} -addext subjectAltName={kind}:{host} \
         -keyout server.key -out server.crt"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_distinguishes_hosts_from_addresses() {
        let fault = CertificateFault::WeakKey(1024);
        assert!(fault.to_string().contains("1024 bits; at least 2048"), "{fault}");
        assert!(fault.remedy_for_server("db.example").contains("subjectAltName=DNS:db.example "));
        assert!(fault.remedy_for_server("10.0.0.1").contains("subjectAltName=IP:10.0.0.1 "));
    }
}
