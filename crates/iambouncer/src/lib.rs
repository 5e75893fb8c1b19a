//! iambouncer: a PostgreSQL connection pooler that logs in to Amazon RDS and Aurora with IAM.
//!
//! Modules from the bottom up; dependencies point down only:
//!
//! - [`config`], [`client_error`], [`login_failure`], [`parameters`], [`printable`]: values and texts;
//! - [`files`], [`pending_logins`], [`log_limit`]: limits of the process;
//! - [`host_names`]: addresses of host names;
//! - [`worker`], [`net`]: the executor of a thread, and network I/O;
//! - [`auth`], [`prepared`], [`answers`], [`stats`]: computations and tables without I/O;
//! - [`server`], [`pool`]: connections to servers and their assignment;
//! - [`clients`], [`relay`]: connected clients, and the hot loops;
//! - [`admin`], [`client`], [`http`]: the console, client logins, probes and metrics;
//! - [`doctor`]: diagnosis of logins;
//! - [`pooler`], [`cli`]: the process.

// Both panic if the reader is gone, as with `| head`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod admin;
pub mod answers;
pub mod auth;
pub mod cli;
pub mod client;
pub mod client_error;
pub mod client_identity;
pub mod clients;
pub mod config;
pub mod context;
pub mod credential_causes;
pub mod doctor;
pub mod files;
pub mod health_state;
pub mod host_names;
pub mod http;
pub mod identities;
pub mod lifecycle;
pub mod limits;
pub mod log_limit;
pub mod login_failure;
pub mod net;
pub mod parameters;
pub mod pending_logins;
pub mod pool;
pub mod pooler;
pub mod prepared;
pub mod printable;
pub mod process;
pub mod relay;
pub mod server;
mod shared_values;
pub mod sql_client;
pub mod stats;
pub mod worker;
