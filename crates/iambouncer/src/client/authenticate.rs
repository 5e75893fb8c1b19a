//! Client authentication by the method that [`AuthMethod`] selected. Owns the exchange of passwords; certificates,
//! accounts and AWS identities are delegated to their modules.
//!
//! An unknown user receives the same messages as a known one with a wrong password.

use super::auth_query::AuthLookup;
use super::method::{AuthMethod, PasswordExchange};
use super::stored::StoredCredentials;
use super::{iam, iam_sts, ldap, pam, server_password, system_name};
use crate::auth::md5;
use crate::auth::scram::derived::KeySource;
use crate::auth::scram::keys::ScramSecret;
use crate::auth::stored_password::{is_stored_as, same};
use crate::client_error::{self, ClientError, LoginMethod};
use crate::config::Secret;
use crate::context::Context;
use crate::net::{Inbound, Stream};
use crate::server::target::LearnedCredential;
use std::rc::Rc;
use wire::limits::MAX_PASSWORD_BYTES;
use wire::{encode, frontend, tag};
use zeroize::{Zeroize, Zeroizing};

/// A login that failed.
pub(super) enum LoginRefusal {
    /// The client closed the connection.
    Gone,
    /// The error to send to the client.
    Error(ClientError),
}

/// Who the client says it is, and how the password is looked up that `auth_file` does not have.
pub(super) struct ClientClaim<'a> {
    pub(super) user: &'a str,
    pub(super) database: &'a str,
    pub(super) lookup: &'a AuthLookup,
}

/// Runs the exchange. Returns what it has revealed, if that is of use for logins to servers.
pub(super) async fn run(
    context: &Rc<Context>,
    stream: &mut Stream,
    inbound: &mut Inbound,
    claim: &ClientClaim<'_>,
    method: AuthMethod,
) -> Result<Option<LearnedCredential>, LoginRefusal> {
    let &ClientClaim { user, database, .. } = claim;
    let mut login = Login { stream, inbound, user };
    match method {
        AuthMethod::Any => Ok(None),
        AuthMethod::Trust => {
            let known =
                Box::pin(StoredCredentials::known(context, claim)).await.map_err(LoginRefusal::Error)?;
            known.map(|user| user.learned).ok_or_else(|| {
                // Without a proof there is nothing to hide.
                let looked_up = claim.lookup.as_ref().is_ok_and(Option::is_some);
                LoginRefusal::Error(match looked_up {
                    true => client_error::unknown_user(user),
                    false => client_error::authentication_failed(LoginMethod::Trust, user),
                })
            })
        }
        AuthMethod::Password(exchange) => {
            let stored =
                Box::pin(StoredCredentials::find(context, claim)).await.map_err(LoginRefusal::Error)?;
            let is_scram = stored.texts().iter().any(|text| ScramSecret::parse(text).is_some());
            match exchange {
                PasswordExchange::Cleartext => {
                    let given = Box::pin(login.plain(context, &stored)).await?;
                    Ok(stored
                        .lacks_password()
                        .then(|| LearnedCredential::Password(Secret::new(given.as_str()))))
                }
                // As in PgBouncer, md5 falls back to SCRAM for users whose stored secret is a SCRAM secret.
                PasswordExchange::Md5 if !is_scram => {
                    Box::pin(login.md5(context, &stored)).await.map(|()| stored.learned())
                }
                _ => {
                    let keys = Box::pin(login.scram(context, &stored)).await?;
                    Ok(Some(stored.learned().unwrap_or(LearnedCredential::ScramKeys(keys))))
                }
            }
        }
        AuthMethod::Iam => Box::pin(iam::prove(context, &mut login, database)).await.map(|()| None),
        AuthMethod::IamSts => Box::pin(iam_sts::prove(context, &mut login)).await.map(|()| None),
        AuthMethod::Certificate { map } => {
            system_name::by_certificate(context, &login, claim, map.as_deref()).await
        }
        AuthMethod::Peer { map } => system_name::by_socket(context, &login, claim, map.as_deref()).await,
        AuthMethod::Ldap(options) => {
            let password = Box::pin(ldap::prove(context, &mut login, options)).await?;
            Ok(Some(LearnedCredential::Password(password)))
        }
        AuthMethod::Pam { remote } => {
            let password = Box::pin(pam::prove(context, &mut login, remote)).await?;
            Ok(Some(LearnedCredential::Password(password)))
        }
        AuthMethod::Server => {
            let password = Box::pin(server_password::prove(context, &mut login, database)).await?;
            Ok(Some(LearnedCredential::Password(password)))
        }
    }
}

/// A client being authenticated.
pub(super) struct Login<'a> {
    pub(super) stream: &'a mut Stream,
    inbound: &'a mut Inbound,
    pub(super) user: &'a str,
}

impl Login<'_> {
    pub(super) fn failed(&self, method: LoginMethod, stored: &StoredCredentials) -> LoginRefusal {
        LoginRefusal::Error(match stored.is_unknown_to_server() {
            true => client_error::not_found(method, self.user),
            false => client_error::authentication_failed(method, self.user),
        })
    }

    /// Sends a request and reads the client's answer.
    pub(super) async fn ask(&mut self, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, LoginRefusal> {
        self.stream.send_all(message).await.map_err(|_| LoginRefusal::Gone)?;
        let received = self.stream.recv_message(self.inbound, MAX_PASSWORD_BYTES as u32).await;
        let frame = match received {
            Ok(frame) => frame,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(LoginRefusal::Error(client_error::protocol(error)));
            }
            Err(_) => return Err(LoginRefusal::Gone),
        };
        if frame.tag != tag::frontend::PASSWORD {
            let text = format!("expected a password message, got type {:#04x}", frame.tag);
            return Err(LoginRefusal::Error(client_error::misplaced(&text)));
        }
        let bytes = self.inbound.bytes_mut();
        let answer = Zeroizing::new(bytes[..frame.len].to_vec());
        bytes[..frame.len].zeroize();
        self.inbound.consume(frame.len);
        Ok(answer)
    }

    async fn ask_password(&mut self, message: &[u8]) -> Result<Zeroizing<String>, LoginRefusal> {
        let answer = self.ask(message).await?;
        let bytes = frontend::password(&answer)
            .map_err(|error| LoginRefusal::Error(client_error::protocol(error)))?;
        Ok(Zeroizing::new(String::from_utf8_lossy(bytes).into_owned()))
    }

    /// Asks for a password in clear text.
    pub(super) async fn ask_cleartext(&mut self) -> Result<Zeroizing<String>, LoginRefusal> {
        let mut message = Vec::new();
        encode::authentication_cleartext(&mut message);
        self.ask_password(&message).await
    }

    /// Returns the password.
    async fn plain(
        &mut self,
        context: &Rc<Context>,
        stored: &StoredCredentials,
    ) -> Result<Zeroizing<String>, LoginRefusal> {
        let given = not_empty(self.ask_cleartext().await?)?;
        for text in stored.texts() {
            if self.is_password(context, &given, &text).await {
                return Ok(given);
            }
        }
        match stored.newer(context, self.user).await {
            Some(text) if same(given.as_bytes(), text.as_bytes()) => Ok(given),
            _ => Err(self.failed(LoginMethod::Password, stored)),
        }
    }

    /// True if the password matches the stored text: the same password, or one with the same hash or SCRAM secret.
    async fn is_password(&self, context: &Context, given: &Zeroizing<String>, text: &str) -> bool {
        let Some(secret) = ScramSecret::parse(text) else { return is_stored_as(self.user, given, text) };
        let process = &context.process;
        let source =
            KeySource { password: given.clone(), salt: secret.salt.clone(), iterations: secret.iterations };
        // Only keys of right passwords are known.
        if let Some(keys) = process.derived_keys.get(&source) {
            return same(&keys.server, &secret.server);
        }
        let Ok(keys) = process.derived_keys.derive(&process.control, &source).await else { return false };
        let is_right = same(&keys.server, &secret.server);
        if is_right {
            process.derived_keys.insert(&source, &keys);
        }
        is_right
    }

    async fn md5(&mut self, context: &Rc<Context>, stored: &StoredCredentials) -> Result<(), LoginRefusal> {
        let mut salt = [0; 4];
        random(&mut salt)?;
        let mut message = Vec::new();
        encode::authentication_md5(&mut message, salt);
        let given = not_empty(self.ask_password(&message).await?)?;
        let user = self.user;
        let is_answer = |text: &Zeroizing<String>| {
            same(given.as_bytes(), Zeroizing::new(md5::answer(user, text, salt)).as_bytes())
        };
        if stored.texts().iter().any(is_answer)
            || stored.newer(context, user).await.is_some_and(|text| is_answer(&text))
        {
            return Ok(());
        }
        Err(self.failed(LoginMethod::Password, stored))
    }
}

/// As in PostgreSQL, no user has an empty password.
pub(super) fn not_empty(given: Zeroizing<String>) -> Result<Zeroizing<String>, LoginRefusal> {
    if given.is_empty() { Err(LoginRefusal::Error(client_error::empty_password())) } else { Ok(given) }
}

fn random(bytes: &mut [u8]) -> Result<(), LoginRefusal> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| {
        LoginRefusal::Error(ClientError::new(
            client_error::Blame::Us,
            "58000",
            "could not generate random numbers",
        ))
    })
}
