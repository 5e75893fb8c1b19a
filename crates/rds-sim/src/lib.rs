//! A simulator of RDS for development without AWS.
//!
//! Owns: a [`IamFrontend`] that verifies IAM tokens in front of a real PostgreSQL, the
//! [endpoint of the PAM module](PamEndpoint) for a PostgreSQL that verifies them itself, the
//! [endpoints that issue credentials](CredentialServer), a movable clock and switchable faults.
//! Never: uses the code that it tests. Not suitable for protecting real data.
//!
//! ```no_run
//! use rds_sim::postgres::{Postgres, PostgresOptions};
//! use rds_sim::{AccessKey, Backend, Certificates, IamFrontend, IamFrontendOptions, Simulator, TokenTarget};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let postgres = Postgres::start(&PostgresOptions::default())?;
//! postgres.sql("create role app login")?;
//! let host = "db.c1.eu-west-1.rds.amazonaws.com".to_owned();
//! let simulator = Simulator::default();
//! simulator.keys().add(AccessKey::parse("AKIDEXAMPLE:secret").ok_or("bad key")?);
//! let door = IamFrontend::open(
//!     &simulator,
//!     IamFrontendOptions {
//!         listen: "127.0.0.1:0".parse()?,
//!         target: TokenTarget { hosts: vec![host.clone()], port: 0, region: "eu-west-1".into() },
//!         iam_users: vec!["app".into()],
//!         backend: Backend::from(&postgres),
//!         force_ssl: false,
//!         certificates: Certificates::generate(&[host])?,
//!     },
//! )
//! .await?;
//! println!("{}", door.address());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod control;
mod credentials;
mod dns;
mod fault_injection;
mod http;
mod iam_frontend;
mod keys;
mod log;
mod pam;
pub mod postgres;
mod protocol;
mod relay;
mod simulator;
mod sso;
mod sts;
mod time;
mod tls;
mod verify;

pub use control::ControlServer;
pub use credentials::{CredentialCalls, CredentialServer, CredentialSettings};
pub use dns::{DnsEntry, DnsServer};
pub use fault_injection::{FaultSettings, Faults};
pub use iam_frontend::{Backend, IamFrontend, IamFrontendOptions};
pub use keys::{AccessKey, KeyStore, MAX_SESSION_TOKEN_BYTES};
pub use log::{LoginAttempt, LoginLog, LoginOutcome};
pub use pam::{DEFAULT_PAM_PORT, PamEndpoint, hba_lines, pam_service};
pub use simulator::Simulator;
pub use time::SimClock;
pub use tls::{Certificates, SimCertificateError};
pub use verify::{Refusal, TokenTarget, ValidToken, verify};
