//! iambouncer: a PostgreSQL connection pooler that logs in to Amazon RDS and Aurora with IAM.
//!
//! `ARCHITECTURE.md` lists the modules from the bottom up. Those that the binary and the tests of the process
//! use are public, and those that a query passes: the compiler inlines a short function into other parts of the crate only
//! if it can be reached from outside. It reports what is unused in all others.

// `pub` is relative to a module: whether it can be reached from outside is decided here.
#![allow(unreachable_pub)]
// Both panic if the reader is gone, as with `| head`.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod accounts;
pub mod admin;
pub mod answers;
pub mod auth;
mod auth_connections;
mod cancel_requests;
pub mod cli;
mod client;
pub mod client_error;
pub mod client_identity;
pub mod clients;
pub mod config;
pub mod context;
mod credential_causes;
mod doctor;
mod drill;
mod events;
mod files;
mod health_state;
mod host_names;
pub mod http;
pub mod identities;
mod lifecycle;
pub mod limits;
mod log_limit;
mod login_failure;
pub mod net;
pub mod parameters;
mod peer_pools;
mod pending_logins;
mod placement;
pub mod pool;
pub mod pooler;
pub mod prepared;
mod printable;
mod process;
mod quoted_text;
pub mod relay;
pub mod server;
mod server_roles;
mod service_manager;
pub mod session_functions;
mod shared_values;
mod sql_client;
pub mod stats;
#[cfg(feature = "otlp")]
mod traces;
mod version;
pub mod worker;
mod worker_state;
