//! TLS with servers, and the proof that a server's name was verified. Owns the only way to create such a proof: a
//! handshake of the connection itself that verified the name. Code that sends secrets to verified servers only
//! requires the proof, not a setting.

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::{Arc, OnceLock};

/// The verified name of a server, for one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedName(ServerName<'static>);

impl VerifiedName {
    /// True if it is this name.
    pub fn is(&self, name: &str) -> bool {
        ServerName::try_from(name.trim_end_matches('.')).is_ok_and(|name| name == self.0)
    }
}

/// How connections to servers are encrypted and verified.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ClientConfig>,
    /// Verifies names; `None` if names are not verified.
    name_verifier: Option<Arc<dyn ServerCertVerifier>>,
}

impl ServerTls {
    /// A configuration whose verifier ignores the server's name.
    pub(super) fn without_names(config: ClientConfig) -> Self {
        Self { config: Arc::new(without_resumption(config)), name_verifier: None }
    }

    /// A configuration with a verifier that accepts a certificate only if it matches the server's name.
    pub(super) fn with_names(config: ClientConfig, verifier: Arc<dyn ServerCertVerifier>) -> Self {
        Self { config: Arc::new(without_resumption(config)), name_verifier: Some(verifier) }
    }

    /// The configuration for one handshake, and the record of the name that it verifies.
    pub(super) fn for_handshake(&self) -> (Arc<ClientConfig>, HandshakeName) {
        let record = HandshakeName::default();
        let Some(verifier) = &self.name_verifier else { return (self.config.clone(), record) };
        let mut config = ClientConfig::clone(&self.config);
        let recording = RecordingVerifier { verifier: verifier.clone(), record: record.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(recording));
        (Arc::new(config), record)
    }
}

/// A resumed session has no certificate to be verified. PostgreSQL does not offer resumption.
fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// The name that was verified in a handshake, if any.
#[derive(Debug, Clone, Default)]
pub(super) struct HandshakeName(Arc<OnceLock<ServerName<'static>>>);

impl HandshakeName {
    /// For a complete handshake only: before, the peer has not proven possession of the key.
    pub(super) fn of_complete_handshake(self) -> Option<VerifiedName> {
        self.0.get().cloned().map(VerifiedName)
    }
}

/// Delegates to another verifier and records the name.
#[derive(Debug)]
struct RecordingVerifier {
    verifier: Arc<dyn ServerCertVerifier>,
    record: HandshakeName,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified =
            self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        // Set once: a handshake has one certificate.
        let _ = self.record.0.set(server_name.to_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.verifier.requires_raw_public_keys()
    }

    fn root_hint_subjects(&self) -> Option<&[rustls::DistinguishedName]> {
        self.verifier.root_hint_subjects()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tls_config::for_servers;
    use super::*;
    use crate::config::Settings;
    use rds_sim::Certificates;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConnection, ServerConfig, ServerConnection};

    fn server(certificates: &Certificates) -> ServerConnection {
        let pem = certificates.for_postgres();
        let chain = vec![CertificateDer::from_pem_slice(pem.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pem.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        ServerConnection::new(Arc::new(config)).unwrap()
    }

    /// The name that a handshake verifies in this mode; an error if the handshake fails.
    fn verified(mode: &str, name: &'static str) -> Result<Option<VerifiedName>, rustls::Error> {
        let certificates = Certificates::generate(&["db.example".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, certificates.ca_pem()).unwrap();
        let mut settings = Settings::default();
        settings.set("server_tls_sslmode", mode).unwrap();
        settings.set("server_tls_ca_file", &ca_file.display().to_string()).unwrap();
        let (config, record) = for_servers(&settings).unwrap().unwrap().for_handshake();
        let mut client = ClientConnection::new(config, ServerName::try_from(name).unwrap()).unwrap();
        let mut server = server(&certificates);
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        Ok(record.of_complete_handshake())
    }

    #[test]
    fn only_a_handshake_that_verifies_the_name_proves_it() {
        for mode in ["allow", "prefer", "require", "verify-ca"] {
            assert_eq!(verified(mode, "db.example"), Ok(None), "{mode}");
        }
        let name = verified("verify-full", "db.example").unwrap().unwrap();
        assert!(name.is("db.example") && name.is("DB.example.") && !name.is("other.example"));
        assert!(verified("verify-full", "other.example").is_err());
    }
}
