//! Proofs of an AWS identity that clients send as a password: RDS tokens and presigned GetCallerIdentity requests.
//! Owns all local checks, and how long results are cached; verification with the database or STS is up to the
//! client's login.
//!
//! Nothing in a proof is trusted before AWS has verified it: its access key and scope are claims of the sender.

pub mod caller;
pub mod presigned;
pub mod principal;
pub mod proof_results;
pub mod proof_verifiers;
pub mod token;

/// Why a proof is refused without further verification. The texts contain nothing of the proof but names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Longer than any real one.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// Malformed.
    #[error("it is not a valid {0}")]
    Invalid(&'static str),
    /// A parameter that must not occur.
    #[error("unexpected parameter {0}")]
    UnknownParameter(String),
    /// The same parameter twice, in any spelling (CVE-2022-2385).
    #[error("parameter {0} occurs twice")]
    Repeated(String),
    /// A parameter is missing.
    #[error("parameter {0} is missing")]
    Missing(&'static str),
    /// A parameter has an unexpected value.
    #[error("{what} is {given}, not {expected}")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// Its value.
        given: String,
        /// The expected value.
        expected: String,
    },
    /// Valid for more than 15 minutes, or not at all.
    #[error("its lifetime is {0} s; 1 to 900 are allowed")]
    Lifetime(i64),
    /// No longer valid.
    #[error("it expired {0} s ago")]
    Expired(i64),
    /// Signed in the future.
    #[error("it was signed {0} s in the future: check the clocks")]
    Future(i64),
}

impl ProofError {
    /// Its kind, for limiting the number of log lines.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "proof too long",
            Self::Invalid(_) => "malformed proof",
            Self::UnknownParameter(_) => "unknown parameter",
            Self::Repeated(_) => "repeated parameter",
            Self::Missing(what) => what,
            Self::Mismatch { what, .. } => what,
            Self::Lifetime(_) => "invalid lifetime",
            Self::Expired(_) => "expired proof",
            Self::Future(_) => "proof signed in the future",
        }
    }

    /// The text for the client, which has not authenticated: it does not reveal what is expected.
    pub fn for_client(&self) -> String {
        match self {
            Self::Mismatch { what, given, .. } => format!("{what} is {given}, which does not match"),
            other => other.to_string(),
        }
    }
}
