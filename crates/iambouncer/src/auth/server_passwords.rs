//! Passwords of clients that a server has verified. Owns what such a result depends on; the results themselves are
//! cached as those of other proofs. Stores no password.

use super::iam::proof_results::ProofKey;
use crate::config::Database;

/// How long a verified password is accepted without another login to the server, in seconds. A password that was
/// changed or a role that was locked is accepted for as long.
pub const VERIFIED_SECONDS: i64 = 60;

/// A user of a database on a server, hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerAccount(ProofKey);

impl ServerAccount {
    /// The account of a client of `database`, with the key of this process.
    pub fn of(process_key: &[u8; 32], line: &Database, database: &str, user: &str) -> Self {
        let mut parts = vec![user.to_owned(), line.server_dbname(database).to_owned(), line.port.to_string()];
        parts.extend(line.host.iter().map(ToString::to_string));
        Self(ProofKey::new(process_key, &parts))
    }

    /// The key of a password of this account.
    pub fn with(self, process_key: &[u8; 32], password: &str) -> ProofKey {
        ProofKey::new(process_key, &[self.0.as_ref(), password.as_bytes()])
    }
}
