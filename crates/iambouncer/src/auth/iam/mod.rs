//! Proofs of an AWS identity that clients send as a password: RDS tokens and presigned calls of GetCallerIdentity. Owns
//! every check that can be made without asking anybody, and how long a verdict is remembered; whom to ask, and the
//! asking, are the client's part.
//!
//! Nothing in such a proof is believed before AWS has: the access key and the scope in it are the sender's words.

pub mod caller;
pub mod presigned;
pub mod principal;
pub mod proof_results;
pub mod proof_verifiers;
pub mod token;

/// Why a proof is refused before anybody is asked. The texts hold nothing of the proof but names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Larger than any real one.
    #[error("it is longer than {0} bytes")]
    TooLong(usize),
    /// Not of the form at all.
    #[error("it is no {0}")]
    NotOne(&'static str),
    /// A parameter that has no place in one.
    #[error("parameter {0} does not belong there")]
    UnknownParameter(String),
    /// The same parameter twice, in whatever spelling (CVE-2022-2385).
    #[error("parameter {0} is there twice")]
    Repeated(String),
    /// A parameter is missing.
    #[error("parameter {0} is missing")]
    Missing(&'static str),
    /// A parameter says something else than it has to.
    #[error("{what} is {given}, not {wanted}")]
    Mismatch {
        /// Which.
        what: &'static str,
        /// What it says.
        given: String,
        /// What it should say.
        wanted: String,
    },
    /// Made for longer than 15 minutes, or for no time.
    #[error("it was made for {0} s; 1 to 900 are allowed")]
    Life(i64),
    /// Its time is over.
    #[error("it ended {0} s ago")]
    Ended(i64),
    /// Made in the future.
    #[error("it was made {0} s in the future: compare the clocks")]
    Future(i64),
}

impl ProofError {
    /// What it is counted as where lines of a kind are few.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "too long a proof",
            Self::NotOne(_) => "no proof",
            Self::UnknownParameter(_) => "an unknown parameter",
            Self::Repeated(_) => "a repeated parameter",
            Self::Missing(what) => what,
            Self::Mismatch { what, .. } => what,
            Self::Life(_) => "the life of a proof",
            Self::Ended(_) => "a proof that has ended",
            Self::Future(_) => "a proof of the future",
        }
    }

    /// The same for the client, who has not proven anything yet: what is expected is not told.
    pub fn for_client(&self) -> String {
        match self {
            Self::Mismatch { what, given, .. } => format!("{what} is {given}, which does not fit"),
            other => other.to_string(),
        }
    }
}
