//! The SCRAM exchange with a client. Owns what a proof is checked against, and that a login that fails takes the time of a
//! key derivation for each password, whether the keys are in the cache or not and whether the user exists or not.

use super::authenticate::{Login, LoginRefusal};
use super::stored::StoredCredentials;
use crate::auth::md5;
use crate::auth::scram::derived::{DerivedKeys, KeySource};
use crate::auth::scram::keys::{ClientKeys, SALT_BYTES, ScramSecret};
use crate::auth::scram::server::{ClientProof, ServerExchange};
use crate::auth::scram::{SCRAM_SHA_256, ScramError};
use crate::client_error::{self, LoginMethod};
use crate::context::Context;
use std::rc::Rc;
use tokio::runtime::Handle;
use wire::{encode, frontend, limits};
use zeroize::Zeroizing;

/// What a proof is checked against.
enum Verifier {
    /// The stored secret, or a mock that no password matches.
    Secret(ScramSecret),
    /// The passwords that are accepted, or mocks of them.
    Passwords(Vec<KeySource>),
}

impl Verifier {
    fn of(context: &Context, user: &str, texts: Vec<Zeroizing<String>>) -> Self {
        let (key, iterations) = (&context.process.key, context.config().settings.scram_iterations);
        // A user's salt never changes, whether the user exists or not; otherwise two logins would reveal which is the
        // case.
        let mock = || ScramSecret::mock(user, key, iterations, SALT_BYTES);
        match texts.first() {
            None => Self::Secret(mock()),
            Some(first) if let Some(stored) = ScramSecret::parse(first) => Self::Secret(stored),
            Some(first) if md5::is_stored(first) => Self::Secret(mock()),
            Some(_) => {
                let salt = ScramSecret::salt_of(user, key);
                let source = |password| KeySource { password, salt: salt.clone(), iterations };
                Self::Passwords(texts.into_iter().map(source).collect())
            }
        }
    }

    /// Salt and iterations that the client uses.
    fn parameters(&self) -> (&[u8], u32) {
        match self {
            Self::Secret(secret) => (&secret.salt, secret.iterations),
            Self::Passwords(sources) => {
                sources.first().map_or((&[], 1), |source| (&source.salt, source.iterations))
            }
        }
    }

    async fn check(&self, context: &Context, proof: &ClientProof) -> Option<(String, ClientKeys)> {
        match self {
            Self::Secret(secret) => proof.check(secret),
            Self::Passwords(sources) => {
                check_passwords(&context.process.derived_keys, &context.process.control, sources, proof).await
            }
        }
    }
}

/// Checks a proof against passwords with the same salt and iterations. Keys are remembered once a client has proved that
/// it knows the password, so that names of users that do not exist do not fill the cache.
async fn check_passwords(
    derived: &DerivedKeys,
    control: &Handle,
    sources: &[KeySource],
    proof: &ClientProof,
) -> Option<(String, ClientKeys)> {
    let secret = |keys: &ClientKeys, source: &KeySource| keys.secret(&source.salt, source.iterations);
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for source in sources {
        match derived.get(source) {
            Some(keys) => match proof.check(&secret(&keys, source)) {
                None => known.push(source),
                accepted => return accepted,
            },
            None => unknown.push(source),
        }
    }
    for source in unknown {
        let Ok(keys) = derived.derive(control, source).await else { continue };
        if let Some(accepted) = proof.check(&secret(&keys, source)) {
            derived.insert(source, &keys);
            return Some(accepted);
        }
    }
    // The time must not reveal that the keys were known, and so that the user exists and logs in here.
    for source in known {
        let _ = derived.derive(control, source).await;
    }
    None
}

impl Login<'_> {
    /// Runs the exchange. Returns the keys that the client's proof has revealed.
    pub(super) async fn scram(
        &mut self,
        context: &Rc<Context>,
        stored: &StoredCredentials,
    ) -> Result<ClientKeys, LoginRefusal> {
        let verifier = Verifier::of(context, self.user, stored.texts());
        let (salt, iterations) = verifier.parameters();
        let mut message = Vec::new();
        encode::authentication_sasl(&mut message, &[SCRAM_SHA_256]);
        let first = self.ask(&message).await?;
        let violation = |text: String| LoginRefusal::Error(client_error::protocol(text));
        let (mechanism, data) =
            frontend::sasl_initial(&first).map_err(|error| violation(error.to_string()))?;
        if mechanism != SCRAM_SHA_256 {
            return Err(LoginRefusal::Error(client_error::unknown_sasl_mechanism()));
        }
        let (exchange, challenge) = ServerExchange::fresh(salt, iterations, data)
            .map_err(|error: ScramError| violation(error.to_string()))?;
        message.clear();
        encode::authentication_sasl_continue(&mut message, challenge.as_bytes());
        let last = self.ask(&message).await?;
        let data = last.get(limits::HEADER_BYTES..).unwrap_or_default();
        // The same for every user, so it may be refused at once.
        let proof = exchange.proof(data).map_err(|_| self.failed(LoginMethod::Scram, stored))?;
        let mut accepted = verifier.check(context, &proof).await;
        // The exchange does not depend on the password, so a password learned only now can still be checked.
        if accepted.is_none()
            && let Some(password) = stored.newer(context, self.user).await
        {
            let newer = Verifier::Passwords(vec![KeySource { password, salt: salt.to_vec(), iterations }]);
            accepted = newer.check(context, &proof).await;
        }
        let (signature, keys) = accepted.ok_or_else(|| self.failed(LoginMethod::Scram, stored))?;
        message.clear();
        encode::authentication_sasl_final(&mut message, signature.as_bytes());
        self.stream.send_all(&message).await.map_err(|_| LoginRefusal::Gone)?;
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::client::{Binding, ClientExchange};
    use crate::auth::scram::keys::SaltedPassword;

    const SALT: &[u8] = b"0123456789abcdef";
    const ITERATIONS: u32 = 10;

    fn source(password: &str) -> KeySource {
        let password = Zeroizing::new(password.to_owned());
        KeySource { password, salt: SALT.to_vec(), iterations: ITERATIONS }
    }

    /// The proof of a client with this password.
    fn proof_of(password: &str) -> ClientProof {
        let mut client = ClientExchange::new(Binding::Unsupported, "client".into());
        let first = client.first();
        let (exchange, challenge) =
            ServerExchange::start(SALT, ITERATIONS, first.as_bytes(), "server".into()).unwrap();
        client.challenge(challenge.as_bytes()).unwrap();
        let keys = SaltedPassword::derive(password, SALT, ITERATIONS).unwrap().keys();
        exchange.proof(client.answer(&keys).as_bytes()).unwrap()
    }

    #[test]
    fn a_known_password_is_checked_without_a_derivation_and_each_failure_costs_one_per_password() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (derived, control) = (DerivedKeys::new([3; 32]), runtime.handle().clone());
        let check = |passwords: &[&str], given: &str| {
            let before = derived.derivations();
            let sources: Vec<_> = passwords.iter().map(|password| source(password)).collect();
            let proof = proof_of(given);
            let accepted = runtime.block_on(check_passwords(&derived, &control, &sources, &proof)).is_some();
            (accepted, derived.derivations() - before)
        };
        // Nothing is remembered of a login that fails.
        assert_eq!(check(&["right"], "wrong"), (false, 1));
        assert_eq!(check(&["right"], "right"), (true, 1));
        assert_eq!(check(&["right"], "right"), (true, 0));
        // As long as for a user that does not exist or has never logged in.
        assert_eq!(check(&["right"], "wrong"), (false, 1));
        assert_eq!(check(&["right", "previous"], "wrong"), (false, 2));
        assert_eq!(check(&["right", "previous"], "previous"), (true, 1));
        assert_eq!(check(&["right", "previous"], "previous"), (true, 0));
        assert_eq!(check(&["right", "previous"], "wrong"), (false, 2));
    }
}
