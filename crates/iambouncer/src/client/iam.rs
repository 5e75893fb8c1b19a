//! `auth_type = iam`: the client's password is an RDS token for the database's endpoint. Owns the order: what costs
//! nothing is checked first, then what is remembered, and one probe login to the database decides. Nobody but AWS can
//! say whether a token is right, and RDS is how to ask.
//!
//! The token is used for the probe and for nothing else: servers of the pool log in as the pooler.

use super::authenticate::{Login, LoginRefusal};
use crate::auth::iam::presigned::Times;
use crate::auth::iam::proof_results::{OPEN_SECONDS, OpenCheck, ProofKey, ProofStatus};
use crate::auth::iam::token::{self, ExpectedToken};
use crate::auth::iam::{ProofError, proof_verifiers::ProofVerifiers};
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
use crate::worker::timers;
use rds_iam::TokenKey;
use std::rc::Rc;
use std::time::Duration;
use zeroize::Zeroizing;

/// How long the check of another login with the same proof is waited for.
const OPEN_CHECK: Duration = Duration::from_secs(OPEN_SECONDS as u64);

/// Asks the client for its token and lets the database judge it.
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
        return Err(LoginRefusal::Error(nowhere(context, database, user, &token)));
    };
    let claim = IamClaim::read(context, line, database, user, &token).await.map_err(LoginRefusal::Error)?;
    let port = claim.key.port.to_string();
    let proof =
        ProofKey::new(&context.process.key, &[&token, user, &claim.target.database, &claim.key.host, &port]);
    let ProofVerifiers { tokens, .. } = &context.process.proofs;
    loop {
        match tokens.look_up(proof, now_seconds()) {
            ProofStatus::Good(()) => {
                logins.count_proof(ProofOutcome::Remembered);
                return Ok(());
            }
            ProofStatus::Bad(error) => {
                logins.count_proof(ProofOutcome::Refused);
                return Err(LoginRefusal::Error(error));
            }
            ProofStatus::Pending(check) => {
                // As long as that check may take; then this login may check itself.
                let _ = timers::timeout(OPEN_CHECK, check.finished()).await;
            }
            ProofStatus::Unknown(question) => {
                return claim.probe(context, question).await.map_err(LoginRefusal::Error);
            }
        }
    }
}

/// What a token for a database that does not exist is told: the same as one for another endpoint, since only a database
/// could say whether it is good.
fn nowhere(context: &Context, database: &str, user: &str, token: &str) -> ClientError {
    context.process.logins.count_proof(ProofOutcome::Malformed);
    warn_unauthenticated!(
        context,
        "iam",
        user,
        database,
        "a client with an IAM token names a database that does not exist"
    );
    let expected = ExpectedToken { host: "", port: 0, region: "", user };
    match token::check(token, &expected, now_seconds()) {
        Ok(_) => client_error::unknown_database(database),
        Err(error) => client_error::proof_refused(user, &error.for_client()),
    }
}

/// A token whose form is right, and where it has to be shown.
struct IamClaim {
    target: LoginTarget,
    key: TokenKey,
    times: Times,
}

impl IamClaim {
    /// Checks a token against each host of a line; it has to be for one of them.
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
        let error = first_error.unwrap_or(ProofError::NotOne("RDS token"));
        context.process.logins.count_proof(ProofOutcome::Malformed);
        warn_unauthenticated!(context, error.kind(), user, database, reason = %error, "the IAM token of a client is refused");
        Err(client_error::proof_refused(user, &error.for_client()))
    }

    /// Logs in to the database with the client's token, once.
    async fn probe(
        self,
        context: &Rc<Context>,
        question: OpenCheck<(), ClientError>,
    ) -> Result<(), ClientError> {
        let Ok(_place) = context.process.proofs.probes.acquire().await else {
            return Err(client_error::shutting_down());
        };
        let progress = Progress::default();
        let probed = login::log_in(context, &self.target, &progress).await;
        let user = &self.target.user;
        match probed {
            Ok(probe) => {
                probe.close();
                context.process.logins.count_proof(ProofOutcome::Accepted);
                tracing::debug!(user, "the database has accepted the IAM token of a client");
                question.good((), self.times.ends_at);
                Ok(())
            }
            Err(error) => {
                let refuses_proof = matches!(&error, LoginError::Refused { code, .. } if code.starts_with("28"))
                    || matches!(&error, LoginError::NotAnIamUser { .. });
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
                    "the IAM token of a client was shown to the database: {}",
                    failed.error
                );
                let mut error = failed.to_fault();
                if refuses_proof {
                    error = client_error::proof_refused(user, &failed.error.to_string()).hint(failed.hint);
                    question.bad(error.clone(), now_seconds());
                }
                Err(error)
            }
        }
    }
}

/// Name, port and region that a client's token has to be for: those of the pool's own tokens.
async fn endpoint_of(
    signing: &Signing,
    context: &Context,
    target: &LoginTarget,
) -> Result<TokenKey, LoginError> {
    let place = match target.host.tcp() {
        Some(host) if signing.follows_aliases(host) => {
            Some(ServerAddress::find_tcp(context, host, target.port, true).await?)
        }
        _ => None,
    };
    let rds_name = place.as_ref().and_then(ServerAddress::rds_name);
    signing.key(target.host.tcp(), target.port, &target.user, rds_name)
}
