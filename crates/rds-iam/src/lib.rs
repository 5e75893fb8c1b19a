//! IAM database authentication for Amazon RDS and Aurora.
//!
//! Owns: the parsing of RDS endpoint names (region, partition, kind), the token that replaces a password,
//! the credentials that sign it, and the engine that keeps both fresh.
//! Never: speaks the PostgreSQL protocol, opens a connection to a database, or guesses a region.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use rds_iam::{Credentials, TokenRequest, region_of, sign};
//!
//! let host = "orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com";
//! let region = region_of(host).ok_or("not an RDS endpoint: set the region explicitly")?;
//! let credentials = Credentials::new("AKIDEXAMPLE", "secret", None, None, "example");
//! let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_705_322_096);
//!
//! let request = TokenRequest { host, port: 5432, user: "app", region: &region };
//! let token = sign(&request, &credentials, now)?;
//!
//! assert!(token.expose().starts_with(host));
//! assert_eq!(token.expires_at(), now + Duration::from_secs(900));
//! assert!(!format!("{token:?}").contains("Signature"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Services use a [`TokenEngine`] instead: it caches, refreshes early and survives AWS outages. The page [`pools`]
//! shows its use with `sqlx`, `deadpool-postgres`, `bb8` and plain `tokio-postgres`.
//!
//! ```no_run
//! use rds_iam::{AwsCredentials, Identity, TokenEngine, TokenKey};
//!
//! # async fn login() -> Result<(), rds_iam::TokenError> {
//! let engine = TokenEngine::new(AwsCredentials::shared());
//! let host = "orders.cluster-c9akciq32rgh.eu-central-1.rds.amazonaws.com";
//! let key = TokenKey::new(host, 5432, "app", None, Identity::default())?;
//! let token = engine.token(&key).await?;
//! // Send `token.expose()` as the password, inside verified TLS only.
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod arn;
mod aws;
mod backoff;
mod cache;
mod caller;
mod caller_proof;
mod clock;
mod credentials;
mod endpoint;
mod engine;
mod error;
mod fetch_fault;
mod http_client;
mod http_record;
mod instance;
mod limiter;
mod login;
mod percent;
mod refreshing;
mod single_flight;
// Documentation page. Its code requires drivers, so the crate rds-iam-examples compiles it, not this crate's tests.
#[cfg_attr(not(doctest), doc = include_str!("pools.md"))]
pub mod pools {}
mod region;
mod resolve;
pub mod roots;
#[cfg(feature = "secrets-manager")]
pub mod secrets;
mod slots;
mod token;
mod web_identity;

pub use arn::Arn;
pub use aws::AwsCredentials;
pub use aws_credential_types::Credentials;
pub use cache::{CredentialCache, CredentialStatus};
pub use caller::{Caller, CallerAnswer, CallerError, ask_caller};
pub use caller_proof::{
    CALLER_AUDIENCE_HEADER, CALLER_PROOF_PREFIX, CallerProof, CallerProofRequest, sign_caller_proof,
};
pub use clock::{Clock, OffsetClock, SystemClock};
pub use credentials::{CredentialError, CredentialFuture, CredentialSource, Identity};
pub use endpoint::{EndpointKind, RdsEndpoint, region_of};
pub use engine::{MIN_TOKEN_LEFT, TokenEngine, TokenKey, TokenStatus};
pub use error::TokenError;
pub use limiter::{DEFAULT_LOGINS_PER_SECOND, LoginLimiter, Overloaded};
pub use login::{IamLoginError, TokenLoginError, is_refusal, log_in_with};
pub use percent::percent_encode;
pub use region::{Partition, Region, RegionError};
pub use resolve::{ResolveError, Resolved, Resolver};
pub use token::{MAX_TOKEN_BYTES, MAX_TOKEN_LIFE, SignError, Token, TokenRequest, sign};
