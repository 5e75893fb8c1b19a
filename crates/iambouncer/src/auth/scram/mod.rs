//! SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL speaks it. Owns keys, messages and their checks; both sides
//! share the arithmetic of [`keys`].
//!
//! PBKDF2 is slow by design: [`keys::SaltedPassword::derive`] is called on the control thread, never on a worker.

pub mod client;
pub mod keys;
mod message;
pub mod server;

/// Mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// Mechanism bound to the TLS certificate of the server.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Most rounds we let a peer make us compute. The server's own default is 4096.
pub const MAX_ITERATIONS: u32 = 1_000_000;

/// An exchange that cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message is not what the RFC says.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// More rounds than [`MAX_ITERATIONS`], or none.
    #[error("SCRAM asks for {0} iterations")]
    Iterations(u32),
    /// The peer's nonce does not continue ours: replay or mix-up.
    #[error("SCRAM nonce does not match")]
    Nonce,
    /// Channel binding is missing, or for another channel: somebody may stand in between.
    #[error("SCRAM channel binding does not match")]
    ChannelBinding,
    /// The proof is wrong: not the password.
    #[error("SCRAM proof is wrong")]
    Proof,
    /// The server reported an error of its own.
    #[error("SCRAM was refused by the server")]
    Refused,
    /// No randomness to be had.
    #[error("no random numbers available")]
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
            ServerExchange::start(secret(stored), client.first().as_bytes(), "server-nonce".into())?;
        let asked = client.challenge(challenge.as_bytes())?;
        let keys = SaltedPassword::derive(given, &asked.salt, asked.iterations)?.keys();
        let answer = client.answer(&keys);
        let (last, _) = server.finish(answer.as_bytes())?;
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
    fn the_published_exchange_comes_out_to_the_letter() {
        let mut client = ClientExchange::new(Binding::Unsupported, "rOprNGfwEbeRWgbNEkqO".into());
        client.set_user_for_test("user");
        assert_eq!(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let asked = client
            .challenge(
                b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            )
            .unwrap();
        let keys = SaltedPassword::derive("pencil", &asked.salt, asked.iterations).unwrap().keys();
        assert_eq!(
            client.answer(&keys),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert_eq!(client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), Err(ScramError::Proof));
    }

    #[test]
    fn the_key_a_login_reveals_logs_in_elsewhere() {
        let mut client = ClientExchange::new(Binding::Unsupported, "a".into());
        let (server, challenge) =
            ServerExchange::start(secret("pw"), client.first().as_bytes(), "b".into()).unwrap();
        let asked = client.challenge(challenge.as_bytes()).unwrap();
        let keys = SaltedPassword::derive("pw", &asked.salt, asked.iterations).unwrap().keys();
        let (_, learned) = server.finish(client.answer(&keys).as_bytes()).unwrap();

        let mut again = ClientExchange::new(Binding::Unsupported, "c".into());
        let (upstream, challenge) =
            ServerExchange::start(secret("pw"), again.first().as_bytes(), "d".into()).unwrap();
        again.challenge(challenge.as_bytes()).unwrap();
        assert!(upstream.finish(again.answer(&learned).as_bytes()).is_ok());
    }

    #[test]
    fn a_bound_client_notices_a_server_that_strips_the_binding() {
        let client = ClientExchange::new(Binding::EndPoint(vec![1; 32]), "n".into());
        assert!(client.first().starts_with("p=tls-server-end-point,,"));
        assert_eq!(client.mechanism(), SCRAM_SHA_256_PLUS);
        let started = ServerExchange::start(secret("pw"), client.first().as_bytes(), "s".into());
        assert_eq!(started.err(), Some(ScramError::ChannelBinding));
    }
}
