//! Integration tests of the real binary with a real PostgreSQL, by topic. One test binary, since linking
//! several takes longer than running them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests, too: a failed unwrap is a failed test

#[expect(unreachable_pub, reason = "a support library inside a test binary")]
mod support;

mod aliases;
mod answers;
mod auth_file;
mod auth_query;
mod bad_days;
mod cancel;
mod certificates;
mod client_proofs;
mod closed_pipes;
mod closing_sessions;
mod commands;
mod console;
mod console_columns;
mod console_commands;
mod console_over_unix;
mod console_protocol;
mod console_tables;
mod copy;
mod core_dumps;
mod credentials_shown;
mod diagnoses;
mod doctor;
mod drivers;
mod drop_in;
mod everyday;
mod fatal_with_answer;
mod forgetting;
mod hba;
mod host_addresses;
mod http;
mod iam;
mod identities;
mod ldap;
mod libpq;
mod lifetimes;
mod lingering;
mod locked_memory;
mod login;
mod login_parameters;
mod long_tokens;
mod messages;
mod moto;
mod notices;
mod odd_passwords;
#[cfg(feature = "pam")]
mod pam_logins;
mod peers;
mod per_database;
mod pooling;
mod prepared;
mod proof_bounds;
mod protocol;
mod replication;
mod rolling_restart;
mod scenarios;
mod secrets;
mod server_checks;
mod server_logins;
mod settings_in_force;
mod shared_limits;
mod signals;
mod system_names;
mod tls;
mod tls_endings;
mod tls_settings;
mod tools;
mod untrusted;
mod verified_names;
mod waiting;
mod workers;
mod zero_config;
