//! What all workers share about clients' proofs: verdicts, and how many questions may be open at a time. Owns those
//! bounds: every proof that nobody has seen yet costs a login at the database, or a call to STS.

use super::proof_results::ProofResults;
use crate::client_error::ClientError;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Probe logins under way at a time.
const MAX_PROBES: usize = 8;
/// Calls to STS under way at a time.
const MAX_QUESTIONS: usize = 16;

/// Shared by all workers. Clones share everything.
#[derive(Clone)]
pub struct ProofVerifiers {
    /// RDS tokens that a database has accepted or refused.
    pub tokens: ProofResults<(), ClientError>,
    /// Who STS says a proof is of: a canonical ARN.
    pub callers: ProofResults<Arc<str>, ClientError>,
    /// Places for probe logins.
    pub probes: Arc<Semaphore>,
    /// Places for calls to STS.
    pub questions: Arc<Semaphore>,
}

impl Default for ProofVerifiers {
    fn default() -> Self {
        Self {
            tokens: ProofResults::default(),
            callers: ProofResults::default(),
            probes: Arc::new(Semaphore::new(MAX_PROBES)),
            questions: Arc::new(Semaphore::new(MAX_QUESTIONS)),
        }
    }
}
