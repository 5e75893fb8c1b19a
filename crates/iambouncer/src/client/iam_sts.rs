//! `auth_type = iam-sts`: the client's password is a presigned `sts:GetCallerIdentity` request for the configured
//! audience. Owns the order of the checks – format, cached results, STS – and the mapping of the identity to a
//! database user by the map file. Works with any PostgreSQL server; RDS policies are not involved.

use super::authenticate::{Login, LoginRefusal};
use super::proofs::{self, KnownProof};
use super::sts::{self, StsError};
use crate::auth::iam::caller::{self, ParsedCallerProof};
use crate::auth::iam::principal;
use crate::auth::iam::proof_results::{OpenCheck, ProofKey};
use crate::client_error::{self, ClientError};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::server::now_seconds;
use crate::stats::logins::ProofOutcome;
use std::rc::Rc;
use std::sync::Arc;

/// Requests the client's proof, verifies it with STS, and checks the map.
pub(super) async fn prove(context: &Rc<Context>, login: &mut Login<'_>) -> Result<(), LoginRefusal> {
    let logins = &context.process.logins;
    if login.stream.tls().is_none() {
        logins.count_proof(ProofOutcome::NoTls);
        return Err(LoginRefusal::Error(client_error::proof_needs_tls()));
    }
    let password = login.ask_cleartext().await?;
    let user = login.user;
    let proof = caller::read(&password, now_seconds()).map_err(|error| {
        logins.count_proof(ProofOutcome::Malformed);
        warn_unauthenticated!(context, error.kind(), user, %error, "proof of a client's AWS identity refused");
        LoginRefusal::Error(client_error::proof_refused(user, &error.for_client()))
    })?;
    // Results are cached per audience.
    let audience = context.config().settings.iam_sts_audience.clone();
    let key = ProofKey::new(&context.process.key, &[password.as_str(), &audience]);
    drop(password);
    let (arn, outcome) = identity(context, user, proof, key, audience).await.map_err(LoginRefusal::Error)?;
    let loaded = context.loaded();
    if loaded.ident.allows(&loaded.config.settings.iam_map, &arn, user) {
        logins.count_proof(outcome);
        return Ok(());
    }
    logins.count_proof(ProofOutcome::NotMapped);
    warn_unauthenticated!(context, "iam-sts map", user, %arn, "no line of auth_ident_file maps this AWS identity to this user");
    Err(LoginRefusal::Error(client_error::not_mapped(user, &arn)))
}

async fn identity(
    context: &Rc<Context>,
    user: &str,
    proof: ParsedCallerProof,
    key: ProofKey,
    audience: String,
) -> Result<(Arc<str>, ProofOutcome), ClientError> {
    match proofs::look_up(context, &context.process.proofs.callers, key).await? {
        KnownProof::Accepted(arn) => Ok((arn, ProofOutcome::Remembered)),
        KnownProof::Unchecked(check) => {
            let arn = verify(context, user, proof, check, audience).await?;
            Ok((arn, ProofOutcome::Accepted))
        }
    }
}

async fn verify(
    context: &Rc<Context>,
    user: &str,
    proof: ParsedCallerProof,
    check: OpenCheck<Arc<str>, ClientError>,
    audience: String,
) -> Result<Arc<str>, ClientError> {
    let Ok(_permit) = context.process.proofs.sts_requests.acquire().await else {
        return Err(client_error::shutting_down());
    };
    let expires_at = proof.times.expires_at;
    let answer = context.on_control(async move { sts::ask(&proof, &audience).await }).await;
    let outcome = match answer {
        Some(Ok(arn)) => principal::canonical(&arn).ok_or(StsError::NoPrincipal(arn)),
        Some(Err(error)) => Err(error),
        None => Err(StsError::Unreachable("the request was abandoned".to_owned())),
    };
    match outcome {
        Ok(arn) => {
            let arn: Arc<str> = arn.into();
            check.good(arn.clone(), expires_at);
            Ok(arn)
        }
        Err(error) => {
            warn_unauthenticated!(context, "sts", user, %error, "STS did not confirm the AWS identity of a client");
            if error.is_transient() {
                context.process.logins.count_proof(ProofOutcome::Unavailable);
                return Err(client_error::sts_unavailable(&error.to_string()));
            }
            context.process.logins.count_proof(ProofOutcome::Refused);
            let error = client_error::proof_refused(user, &error.to_string());
            check.bad(error.clone(), now_seconds());
            Err(error)
        }
    }
}
