//! TLS towards servers, and the proof that a server's certificate is for the name it was reached by. Owns the only way
//! to such a proof: a handshake of the connection itself in which that name was verified. Whatever is sent to verified
//! servers only asks for it, and not for a setting.

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::sync::{Arc, OnceLock};

/// The name that a server has proven to have, on one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedName(ServerName<'static>);

impl VerifiedName {
    /// True when it is this one.
    pub fn is(&self, name: &str) -> bool {
        ServerName::try_from(name.trim_end_matches('.')).is_ok_and(|name| name == self.0)
    }
}

/// How connections to servers are encrypted and what is verified on them.
#[derive(Debug, Clone)]
pub struct ServerTls {
    config: Arc<ClientConfig>,
    /// Verifies the name too; `None` where names are not verified.
    name_verifier: Option<Arc<dyn ServerCertVerifier>>,
}

impl ServerTls {
    /// A configuration whose verifier ignores the server's name.
    pub(super) fn without_names(config: ClientConfig) -> Self {
        Self { config: Arc::new(without_resumption(config)), name_verifier: None }
    }

    /// A configuration whose verifier, given once more, accepts a certificate only if it is for the server's name.
    pub(super) fn with_names(config: ClientConfig, verifier: Arc<dyn ServerCertVerifier>) -> Self {
        Self { config: Arc::new(without_resumption(config)), name_verifier: Some(verifier) }
    }

    /// For one handshake, and where it will be noted which name was verified in it.
    pub(super) fn for_handshake(&self) -> (Arc<ClientConfig>, NameNote) {
        let note = NameNote::default();
        let Some(verifier) = &self.name_verifier else { return (self.config.clone(), note) };
        let mut config = ClientConfig::clone(&self.config);
        let noting = NotesName { verifier: verifier.clone(), note: note.clone() };
        config.dangerous().set_certificate_verifier(Arc::new(noting));
        (Arc::new(config), note)
    }
}

/// A resumed session shows no certificate that could be verified. PostgreSQL offers none.
fn without_resumption(mut config: ClientConfig) -> ClientConfig {
    config.resumption = Resumption::disabled();
    config
}

/// The name that was verified in a handshake, if any.
#[derive(Debug, Clone, Default)]
pub(super) struct NameNote(Arc<OnceLock<ServerName<'static>>>);

impl NameNote {
    /// For a handshake that is complete: before, nobody has shown the key of the certificate.
    pub(super) fn of_complete_handshake(self) -> Option<VerifiedName> {
        self.0.get().cloned().map(VerifiedName)
    }
}

/// Verifies as another verifier does and notes the name.
#[derive(Debug)]
struct NotesName {
    verifier: Arc<dyn ServerCertVerifier>,
    note: NameNote,
}

impl ServerCertVerifier for NotesName {
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
        // One handshake has one certificate.
        let _ = self.note.0.set(server_name.to_owned());
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

    /// The name that a handshake in this mode verifies; an error if the handshake fails.
    fn verified(mode: &str, name: &'static str) -> Result<Option<VerifiedName>, rustls::Error> {
        let certificates = Certificates::generate(&["db.example".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        std::fs::write(&ca_file, certificates.ca_pem()).unwrap();
        let mut settings = Settings::default();
        settings.set("server_tls_sslmode", mode).unwrap();
        settings.set("server_tls_ca_file", &ca_file.display().to_string()).unwrap();
        let (config, note) = for_servers(&settings).unwrap().unwrap().for_handshake();
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
        Ok(note.of_complete_handshake())
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
