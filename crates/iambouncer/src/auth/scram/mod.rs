//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as implemented by PostgreSQL. Owns keys, messages and their checks; both sides
//! share the computations in [`keys`].
//!
//! PBKDF2 is slow by design: it runs on threads of the control runtime, never on a worker, and [`derived`] keeps its
//! results.

pub mod client;
pub mod derived;
pub mod keys;
mod message;
pub mod server;

/// Mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Mechanism bound to the TLS certificate of the server.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Maximum number of iterations that a peer may request. PostgreSQL's default is 4096.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message violates the RFC.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// More than [`MAX_ITERATIONS`] iterations, or none.
    #[error("SCRAM iteration count {0} is out of range")]
    Iterations(u32),
    /// The peer's nonce does not continue ours: replay or mix-up.
    #[error("SCRAM nonce does not match")]
    Nonce,
    /// Channel binding is missing or for another channel: possibly a man in the middle.
    #[error("SCRAM channel binding does not match")]
    ChannelBinding,
    /// The proof is wrong: another password.
    #[error("SCRAM proof is wrong")]
    Proof,
    /// The server reported an error.
    #[error("SCRAM was refused by the server")]
    Refused,
    /// No random numbers are available.
    #[error("could not generate random numbers")]
    Random,
}

#[cfg(test)]
mod tests {
    use super::client::{Binding, ClientExchange};
    use super::keys::{SaltedPassword, ScramSecret};
    use super::server::ServerExchange;
    use super::*;

    const SALT: [u8; 16] = [7; 16];

    fn secret(password: &str) -> ScramSecret {
        SaltedPassword::derive(password, &SALT, 4096).unwrap().secret(&SALT, 4096)
    }

    fn run(stored: &str, given: &str) -> Result<(), ScramError> {
        let mut client = ClientExchange::new(Binding::Unsupported, "client-nonce".into());
        let (server, challenge) =
            ServerExchange::start(&SALT, 4096, client.first().as_bytes(), "server-nonce".into())?;
        let request = client.challenge(challenge.as_bytes())?;
        let keys = SaltedPassword::derive(given, &request.salt, request.iterations)?.keys();
        let answer = client.answer(&keys);
        let proof = server.proof(answer.as_bytes())?;
        let (last, _) = proof.check(&secret(stored)).ok_or(ScramError::Proof)?;
        client.verify(last.as_bytes())
    }

    #[test]
    fn the_right_password_passes_and_a_wrong_one_does_not() {
        assert_eq!(run("pencil", "pencil"), Ok(()));
        assert_eq!(run("pencil", "pen"), Err(ScramError::Proof));
        assert_eq!(run("Pässwörd", "Pässwörd"), Ok(()));
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_exchange_of_the_rfc_is_reproduced_exactly() {
        let mut client = ClientExchange::new(Binding::Unsupported, "rOprNGfwEbeRWgbNEkqO".into());
        client.set_user_for_test("user");
        assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let request = client
            .challenge(
                b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            )
            .unwrap();
        let keys = SaltedPassword::derive("pencil", &request.salt, request.iterations).unwrap().keys();
        assert_eq!(
            client.answer(&keys),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert_eq!(client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), Err(ScramError::Proof));
    }

    #[test]
    fn the_keys_a_login_reveals_can_log_in_to_a_server() {
        let mut client = ClientExchange::new(Binding::Unsupported, "a".into());
        let (server, challenge) =
            ServerExchange::start(&SALT, 4096, client.first().as_bytes(), "b".into()).unwrap();
        let request = client.challenge(challenge.as_bytes()).unwrap();
        let keys = SaltedPassword::derive("pw", &request.salt, request.iterations).unwrap().keys();
        let proof = server.proof(client.answer(&keys).as_bytes()).unwrap();
        let (_, learned) = proof.check(&secret("pw")).unwrap();

        let mut again = ClientExchange::new(Binding::Unsupported, "c".into());
        let (upstream, challenge) =
            ServerExchange::start(&SALT, 4096, again.first().as_bytes(), "d".into()).unwrap();
        again.challenge(challenge.as_bytes()).unwrap();
        let proof = upstream.proof(again.answer(&learned).as_bytes()).unwrap();
        assert!(proof.check(&secret("pw")).is_some());
    }

    #[test]
    fn a_server_without_channel_binding_is_refused() {
        let client = ClientExchange::new(Binding::EndPoint(vec![1; 32]), "n".into());
        assert!(client.first().starts_with("p=tls-server-end-point,,"));
        assert_eq!(client.mechanism(), SCRAM_SHA_256_PLUS);
        let started = ServerExchange::start(&SALT, 4096, client.first().as_bytes(), "s".into());
        assert_eq!(started.err(), Some(ScramError::ChannelBinding));
    }
}
