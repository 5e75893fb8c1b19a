//! State of proof checks shared by all workers: results, and limits of concurrent checks. Owns these limits: every
//! new proof costs a login to the database or a request to STS, and so does every new password that a server verifies.

use super::proof_results::ProofResults;
use crate::auth::server_passwords::ServerAccount;
use crate::client_error::ClientError;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Maximum number of concurrent probe logins.
const MAX_PROBES: usize = 8;
/// Maximum number of concurrent requests to STS.
const MAX_STS_REQUESTS: usize = 16;

/// Shared by all workers and between clones.
#[derive(Clone)]
pub struct ProofVerifiers {
    /// Results for RDS tokens.
    pub tokens: ProofResults<(), ClientError>,
    /// Results for STS proofs: canonical ARNs.
    pub callers: ProofResults<Arc<str>, ClientError>,
    /// Results for passwords that a server verifies: the accounts that they are for.
    pub passwords: ProofResults<ServerAccount, ClientError>,
    /// Permits for probe logins.
    pub probes: Arc<Semaphore>,
    /// Permits for requests to STS.
    pub sts_requests: Arc<Semaphore>,
}

impl Default for ProofVerifiers {
    fn default() -> Self {
        Self {
            tokens: ProofResults::default(),
            callers: ProofResults::default(),
            passwords: ProofResults::default(),
            probes: Arc::new(Semaphore::new(MAX_PROBES)),
            sts_requests: Arc::new(Semaphore::new(MAX_STS_REQUESTS)),
        }
    }
}
