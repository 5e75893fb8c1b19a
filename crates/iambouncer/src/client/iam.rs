//! `auth_type = iam`: the client's password is an RDS token for the database's endpoint. Owns the order of the
//! checks: local checks first, then cached results, then one probe login to the database, since only RDS can verify a
//! token.
//!
//! The token is used for the probe only; servers of the pool log in with the pooler's own credentials.

use super::authenticate::{Login, LoginRefusal};
use super::proofs::{self, KnownProof};
use crate::auth::iam::ProofError;
use crate::auth::iam::presigned::Times;
use crate::auth::iam::proof_results::{OpenCheck, ProofKey};
use crate::auth::iam::token::{self, ExpectedToken};
use crate::client_error::{self, ClientError};
use crate::config::{Database, Secret};
use crate::context::Context;
use crate::log_limit::warn_unauthenticated;
use crate::server::connect::ServerAddress;
use crate::server::diagnosis::LineSummary;
use crate::server::login;
use crate::server::progress::Progress;
use crate::server::signing::Signing;
use crate::server::target::{Credential, LoginTarget};
use crate::server::{Diagnosis, LoginError, now_seconds};
use crate::stats::logins::ProofOutcome;
use rds_iam::TokenKey;
use std::rc::Rc;
use zeroize::Zeroizing;

/// Requests the client's token and has the database verify it.
pub(super) async fn prove(
    context: &Rc<Context>,
    login: &mut Login<'_>,
    database: &str,
) -> Result<(), LoginRefusal> {
    let logins = &context.process.logins;
    if login.stream.tls().is_none() {
        logins.count_proof(ProofOutcome::NoTls);
        return Err(LoginRefusal::Error(client_error::proof_needs_tls()));
    }
    let token = login.ask_cleartext().await?;
    let user = login.user;
    let config = context.config();
    let Some(line) = config.database_for(database) else {
        return Err(LoginRefusal::Error(error_for_unknown_database(context, database, user, &token)));
    };
    let claim = IamClaim::read(context, line, database, user, &token).await.map_err(LoginRefusal::Error)?;
    let port = claim.key.port.to_string();
    let proof = ProofKey::new(
        &context.process.key,
        &[token.as_str(), user, &claim.target.database, &claim.key.host, &port],
    );
    match proofs::look_up(context, &context.process.proofs.tokens, proof).await {
        Ok(KnownProof::Accepted(())) => {
            logins.count_proof(ProofOutcome::Remembered);
            Ok(())
        }
        Ok(KnownProof::Unchecked(check)) => claim.probe(context, check).await.map_err(LoginRefusal::Error),
        Err(error) => Err(LoginRefusal::Error(error)),
    }
}

/// The error for a token that names an unknown database: the same as for a token of another endpoint, since only a
/// database could verify the token.
fn error_for_unknown_database(context: &Context, database: &str, user: &str, token: &str) -> ClientError {
    context.process.logins.count_proof(ProofOutcome::Malformed);
    warn_unauthenticated!(
        context,
        "iam",
        user,
        database,
        "a client with an IAM token requested a database that does not exist"
    );
    let expected = ExpectedToken { host: "", port: 0, region: "", user };
    match token::check(token, &expected, now_seconds()) {
        Ok(_) => client_error::unknown_database(database),
        Err(error) => client_error::proof_refused(user, &error.for_client()),
    }
}

/// A well-formed token, and the server that can verify it.
struct IamClaim {
    target: LoginTarget,
    key: TokenKey,
    times: Times,
}

impl IamClaim {
    /// Checks the token against each host of a database line; it must be for one of them.
    async fn read(
        context: &Rc<Context>,
        line: &Database,
        database: &str,
        user: &str,
        token: &Zeroizing<String>,
    ) -> Result<Self, ClientError> {
        let mut first_error = None;
        for host in &line.host {
            let target = LoginTarget::bare(&context.loaded(), line, database, user, host, Credential::None);
            let key = endpoint_of(&Signing::of(line), context, &target).await.map_err(|error| {
                context.process.logins.count_proof(ProofOutcome::Unavailable);
                Diagnosis::new(error, &Default::default(), LineSummary::of_iam(), now_seconds()).to_fault()
            })?;
            let region = key.region.to_string();
            let expected = ExpectedToken { host: &key.host, port: key.port, region: &region, user };
            match token::check(token, &expected, now_seconds()) {
                Ok(times) => {
                    let given = Credential::Given { key: key.clone(), token: Secret::new(token.as_str()) };
                    return Ok(Self { target: LoginTarget { credential: given, ..target }, key, times });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        let error = first_error.unwrap_or(ProofError::Invalid("RDS token"));
        context.process.logins.count_proof(ProofOutcome::Malformed);
        warn_unauthenticated!(context, error.kind(), user, database, %error, "IAM token of a client refused");
        Err(client_error::proof_refused(user, &error.for_client()))
    }

    /// Logs in to the database with the client's token once.
    async fn probe(
        self,
        context: &Rc<Context>,
        check: OpenCheck<(), ClientError>,
    ) -> Result<(), ClientError> {
        let Ok(_permit) = context.process.proofs.probes.acquire().await else {
            return Err(client_error::shutting_down());
        };
        let progress = Progress::default();
        let probed = login::log_in(context, &self.target, &progress).await;
        let user = &self.target.user;
        match probed {
            Ok(probe) => {
                probe.close();
                context.process.logins.count_proof(ProofOutcome::Accepted);
                tracing::debug!(user, "the database accepted the IAM token of a client");
                check.good((), self.times.expires_at);
                Ok(())
            }
            Err(error) => {
                let refuses_proof =
                    error.is_about_user() || matches!(&error, LoginError::NotAnIamUser { .. });
                let outcome = if refuses_proof { ProofOutcome::Refused } else { ProofOutcome::Unavailable };
                context.process.logins.count_proof(outcome);
                let failed = progress.explain(error);
                let cause = failed.cause.info();
                warn_unauthenticated!(
                    context,
                    cause.id,
                    user,
                    cause = cause.id,
                    reason = cause.label,
                    hint = %failed.hint,
                    "probe login with the IAM token of a client failed: {}",
                    failed.error
                );
                let mut error = failed.to_fault();
                if refuses_proof {
                    error = client_error::proof_refused(user, &failed.error.to_string()).hint(failed.hint);
                    check.bad(error.clone(), now_seconds());
                }
                Err(error)
            }
        }
    }
}

/// Host, port and region that a client's token must be for: those of the pool's own tokens.
async fn endpoint_of(
    signing: &Signing,
    context: &Context,
    target: &LoginTarget,
) -> Result<TokenKey, LoginError> {
    let address = match target.host.tcp() {
        Some(host) if signing.follows_aliases(host) => {
            Some(ServerAddress::find_tcp(context, host, target.port, true).await?)
        }
        _ => None,
    };
    let rds_name = address.as_ref().and_then(ServerAddress::rds_name);
    signing.key(target.host.tcp(), target.port, &target.user, rds_name)
}
