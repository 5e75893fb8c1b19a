//! `server`: the client's password is verified by a login to its database as its user. Owns the order of the checks:
//! local checks first, then cached results, then one probe login, at most a few at a time.
//!
//! A wrong password, an unknown user and any other refusal are the same for the client; the log has the reason.

use super::authenticate::{Login, LoginRefusal, not_empty};
use super::proofs::{self, KnownProof};
use crate::auth::iam::proof_results::OpenCheck;
use crate::auth::md5;
use crate::auth::server_passwords::{ServerAccount, VERIFIED_SECONDS};
use crate::client_error::{self, ClientError, LoginMethod};
use crate::config::{Database, Secret};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::login_failure::LoginFailure;
use crate::server::progress::Progress;
use crate::server::target::{Credential, LoginTarget, is_scram_secret};
use crate::server::{Diagnosis, LoginError, login, now_seconds};
use crate::stats::logins::ProofOutcome;
use std::rc::Rc;

/// Requests the client's password and has the server of its database verify it. Returns the password, with which the
/// pool can log in to servers.
pub(super) async fn prove(
    context: &Rc<Context>,
    login: &mut Login<'_>,
    database: &str,
) -> Result<Secret, LoginRefusal> {
    let logins = &context.process.logins;
    if login.stream.tls().is_none() {
        logins.count_proof(ProofOutcome::NoTls);
        return Err(LoginRefusal::Error(client_error::password_needs_tls()));
    }
    let given = not_empty(login.ask_cleartext().await?).inspect_err(|_| {
        logins.count_proof(ProofOutcome::Malformed);
    })?;
    let (user, password) = (login.user, Secret::new(given.as_str()));
    verify(context, database, user, &password).await.map_err(LoginRefusal::Error)?;
    Ok(password)
}

/// What a client receives whose password was refused, whatever the reason.
fn refusal(user: &str) -> ClientError {
    client_error::authentication_failed(LoginMethod::Password, user)
}

async fn verify(
    context: &Rc<Context>,
    database: &str,
    user: &str,
    password: &Secret,
) -> Result<(), ClientError> {
    let (logins, key) = (&context.process.logins, &context.process.key);
    // A hash can be enough to log in to a server, but is not the password.
    if md5::is_stored(password.expose()) || is_scram_secret(password) {
        logins.count_proof(ProofOutcome::Malformed);
        warn_unauthenticated!(context, "server", user, database, "a client sent the hash of a password");
        return Err(refusal(user));
    }
    let config = context.config();
    let Some(line) = config.database_for(database) else {
        logins.count_proof(ProofOutcome::Malformed);
        warn_unauthenticated!(
            context,
            "server",
            user,
            database,
            "no server can verify the password of a client: the database does not exist"
        );
        return Err(refusal(user));
    };
    let account = ServerAccount::of(key, line, database, user);
    let results = &context.process.proofs.passwords;
    match proofs::look_up(context, results, account.with(key, password.expose())).await? {
        KnownProof::Accepted(_) => {
            logins.count_proof(ProofOutcome::Remembered);
            Ok(())
        }
        KnownProof::Unchecked(check) => {
            PasswordClaim { line, database, user, password, account }.probe(context, check).await
        }
    }
}

/// A password that a server has to verify.
struct PasswordClaim<'a> {
    line: &'a Database,
    database: &'a str,
    user: &'a str,
    password: &'a Secret,
    account: ServerAccount,
}

impl PasswordClaim<'_> {
    async fn probe(
        &self,
        context: &Rc<Context>,
        check: OpenCheck<ServerAccount, ClientError>,
    ) -> Result<(), ClientError> {
        let proofs = &context.process.proofs;
        let Ok(_permit) = proofs.probes.acquire().await else {
            return Err(client_error::shutting_down());
        };
        let logins = &context.process.logins;
        let Err(failed) = self.log_in(context).await else {
            logins.count_proof(ProofOutcome::Accepted);
            tracing::debug!(user = self.user, "the server accepted the password of a client");
            // A user has one password, so a cached one was the previous.
            proofs.passwords.forget_good(|known| *known == self.account);
            check.good(self.account, now_seconds() + VERIFIED_SECONDS);
            return Ok(());
        };
        let is_refused = is_refused(&failed.error);
        logins.count_proof(if is_refused { ProofOutcome::Refused } else { ProofOutcome::Unavailable });
        self.log(context, &failed);
        if !is_refused {
            return Err(failed.to_fault());
        }
        let error = refusal(self.user);
        check.bad(error.clone(), now_seconds());
        Err(error)
    }

    /// Logs in once, at the first host that answers.
    async fn log_in(&self, context: &Rc<Context>) -> Result<(), Diagnosis> {
        let nowhere = || LoginError::Resolve { host: String::new(), reason: "no host configured".to_owned() };
        let mut outcome = Err(Progress::default().explain(nowhere()));
        for host in &self.line.host {
            let credential = Credential::Claimed(self.password.clone());
            let target =
                LoginTarget::bare(&context.loaded(), self.line, self.database, self.user, host, credential);
            let progress = Progress::default();
            outcome = match login::log_in(context, &target, &progress).await {
                Ok(probe) => {
                    probe.close();
                    return Ok(());
                }
                Err(error) => Err(progress.explain(error)),
            };
            if outcome.as_ref().is_err_and(|failed| failed.error.is_refusal()) {
                return outcome;
            }
        }
        outcome
    }

    fn log(&self, context: &Context, failed: &Diagnosis) {
        let cause = failed.cause.info();
        // That hint is about passwords in the configuration.
        let hint = if failed.cause == LoginFailure::Password { "" } else { failed.hint.as_str() };
        warn_unauthenticated!(
            context,
            cause.id,
            user = self.user,
            database = self.database,
            cause = cause.id,
            reason = cause.label,
            hint,
            "probe login with the password of a client failed: {}",
            failed.error
        );
    }
}

/// True if the server has refused the user or the password, or cannot verify it. Anything else that it refuses, such
/// as a database that does not exist, follows the verification or does not depend on the user.
fn is_refused(error: &LoginError) -> bool {
    error.is_about_user() || matches!(error, LoginError::PasswordNotRequested(_))
}
