//! What is known about a client's proof before it is verified. Owns the wait for the check of another login with the
//! same proof; the check itself belongs to the method.

use crate::auth::iam::proof_results::{MAX_CHECK_WAIT, OpenCheck, ProofKey, ProofResults, ProofStatus};
use crate::client_error::ClientError;
use crate::context::Context;
use crate::server::now_seconds;
use crate::stats::logins::ProofOutcome;
use crate::worker::timers;

/// A proof that was not refused recently.
pub(super) enum KnownProof<V> {
    /// It was accepted, with this result.
    Accepted(V),
    /// The caller checks it.
    Unchecked(OpenCheck<V, ClientError>),
}

/// Looks up a proof, and counts a refusal.
///
/// # Errors
/// It was refused recently.
pub(super) async fn look_up<V: Clone>(
    context: &Context,
    results: &ProofResults<V, ClientError>,
    key: ProofKey,
) -> Result<KnownProof<V>, ClientError> {
    loop {
        match results.look_up(key, now_seconds()) {
            ProofStatus::Good(result) => return Ok(KnownProof::Accepted(result)),
            ProofStatus::Bad(error) => {
                context.process.logins.count_proof(ProofOutcome::Refused);
                return Err(error);
            }
            ProofStatus::Pending(other) => {
                // Afterwards this login may start a check itself.
                let _ = timers::timeout(MAX_CHECK_WAIT, other.finished()).await;
            }
            ProofStatus::Unknown(check) => return Ok(KnownProof::Unchecked(check)),
        }
    }
}
